"""`plan`: what people read, and what its options change."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from moondream_station.cli.plan import plan_text
from moondream_station.cli.status import models_text
from moondream_station.core.machine.record import MachineRecord
from support.catalogs import catalog_text
from support.commands import run, run_json
from support.machines import GTX_1080, RTX_4090, cpu_only, mac, nvidia_linux
from support.snapshots import amd, linux, nvidia, plan
from support.stations import Premises, activate

OFFICIAL = "https://download.pytorch.org/whl"


@dataclass(frozen=True)
class Desk:
    """Where the command runs: a folder, and variables with a home that does not exist yet."""

    folder: Path
    environ: Mapping[str, str]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A place without an index: nothing may be asked for another machine."""
    return Desk(tmp_path, {**os.environ, "MOONDREAM_STATION_HOME": str(tmp_path / "home")})


def recorded(desk: Desk, record: MachineRecord) -> Path:
    """A machine's record as a file."""
    path = desk.folder / "machine.json"
    path.write_text(json.dumps(record.to_json()))
    return path


def test_the_table_fits_a_terminal() -> None:
    """Reasons are broken, not cut, and do not repeat the build that stands at the head of the row."""
    machine = linux(nvidia("6.1", "NVIDIA GeForce GTX 1080"), amd("gfx1032"), driver="535.183.01")
    selection = plan(machine, "torch").selection
    _, _, shown = plan_text(selection, width=80).partition("BUILD ")
    assert max(map(len, shown.splitlines())) <= 80
    flat = " ".join(shown.split())
    assert "cu130 - rejected needs driver 580 or newer; this machine has 535.183.01." in flat
    assert "cu128 - rejected has no code for compute capability 6.1 (NVIDIA GeForce GTX 1080)" in flat
    assert "rocm7.2 - rejected has no code for gfx1032 (AMD GPU)" in flat
    assert len(shown.splitlines()) > len(selection.candidates) - len(selection.unrelated) + 1
    one_line = plan_text(selection).partition("BUILD ")[2]
    assert len(one_line.splitlines()) == len(selection.candidates) + 1


def test_the_table_shows_what_could_matter_on_this_machine() -> None:
    """Builds for other platforms and for GPUs that are not there are one line, unless all are asked for."""
    machine = linux(nvidia("8.9", "NVIDIA GeForce RTX 4090"), driver="535.183.01")
    selection = plan(machine, "torch").selection
    shown = plan_text(selection, width=100)
    _, _, rows = shown.partition("BUILD ")
    rows = rows.partition("\n\n")[0]
    builds = {line.split(" ")[0] for line in rows.splitlines()[1:] if line[:1].isalpha()}
    assert {"cu126", "cu130", "cpu"} <= builds
    assert not {build for build in builds if build.startswith(("rocm", "xpu", "mps"))}
    more = len(selection.unrelated)
    assert shown.splitlines()[-1] == f"{more} more builds are for other machines: --all shows them."
    everything = plan_text(selection, width=100, shows_all=True)
    assert "xpu" in everything
    assert "--all" not in everything
    assert "--all" not in plan_text(selection)


def test_the_table_of_models_fits_a_terminal_too() -> None:
    """Descriptions are broken, not cut; where there is no terminal each is one line."""
    description = "A model that " + "captions, answers, detects and points " * 3
    model = {
        "id": "a-model",
        "installed": True,
        "supported": True,
        "active": True,
        "description": description,
    }
    shown = models_text({"models": [model]}, width=60)
    assert max(map(len, shown.splitlines())) <= 60
    assert description.strip() in " ".join(shown.split())
    assert len(models_text({"models": [model]}).splitlines()) == 2


def test_the_commands_together_install_all_that_was_asked_for() -> None:
    """One from PyTorch's index, and one for the packages that it does not serve."""
    machine = linux(nvidia("8.9", "RTX 4090"), driver="535.183.01")
    both = plan_text(plan(machine, "transformers<5", "torch>=2.7.0", "pillow").selection)
    assert both.split("\n\n")[1].splitlines() == [
        f"  python -m pip install 'torch>=2.7.0' --index-url {OFFICIAL}/cu126",
        "  python -m pip install 'transformers<5' pillow",
    ]
    one = plan_text(plan(machine, "torch").selection)
    assert one.split("\n\n")[1] == f"  python -m pip install torch --index-url {OFFICIAL}/cu126"


def test_the_second_command_names_what_is_set_for_uv_alone(premises: Premises) -> None:
    """Pip knows nothing of it; PyTorch's own index, which lists old copies of others, is not named."""
    links, torch = premises.folder / "links", premises.index.torch_url
    links.mkdir()
    premises.variables["UV_INDEX"] = f"more=https://me:secret@extra.example/simple {torch}/cpu"
    premises.variables["UV_FIND_LINKS"] = str(links)
    shown = run(premises, "plan", "torch", "pillow", "--offline").stdout
    options = f"--extra-index-url https://extra.example/simple --find-links {links.as_uri()}"
    assert f"  python -m pip install pillow {options}\n" in shown
    premises.variables["PIP_EXTRA_INDEX_URL"] = "https://me:secret@extra.example/simple"
    premises.variables["UV_DEFAULT_INDEX"] = "https://first.example/simple/"
    shown = run(premises, "plan", "torch", "pillow", "--offline").stdout
    options = f"--index-url https://first.example/simple --find-links {links.as_uri()}"
    assert f"  python -m pip install pillow {options}\n" in shown


def test_a_left_out_option_of_a_requirements_file_is_a_warning(desk: Desk) -> None:
    """The station chooses the index; that the file names another one is told."""
    file = desk.folder / "requirements.txt"
    file.write_text(f"--extra-index-url {OFFICIAL}/cu124\ntorch>=2.7.0\n")
    shown = run_json(desk, "plan", "-r", str(file), "--machine", str(recorded(desk, cpu_only())))
    assert shown["requirement"] == ["torch>=2.7.0"]
    assert any("--extra-index-url" in warning for warning in shown["warnings"])


def test_several_requirements_files_are_taken_together(desk: Desk) -> None:
    """As pip takes them: none is dropped for a later one."""
    for name, text in (("a.txt", "torch>=2.7.0\n"), ("b.txt", "numpy\n")):
        (desk.folder / name).write_text(text)
    files = ("-r", str(desk.folder / "a.txt"), "-r", str(desk.folder / "b.txt"))
    shown = run_json(desk, "plan", *files, "--machine", str(recorded(desk, cpu_only())))
    assert shown["requirement"] == ["torch>=2.7.0", "numpy"]


@pytest.mark.parametrize(
    ("python", "torch"), [("3.9", "2.8.0"), ("3.10", "2.14.1"), ("3.13t", "2.12.0"), ("3.14.0rc1", "2.15.0")]
)
def test_the_named_python_decides_which_wheels_fit(desk: Desk, python: str, torch: str) -> None:
    """Also a free-threaded one, and one before its release."""
    record = recorded(desk, nvidia_linux(RTX_4090, driver="580.95.05", cuda="13.0"))
    shown = run_json(desk, "plan", "--machine", str(record), "--python", python)
    assert shown["torch"] == torch


@pytest.mark.own_process
def test_a_mirror_stands_in_for_the_index_without_being_asked(desk: Desk) -> None:
    """For another machine nothing is fetched, and the command still names the user's index."""
    record = recorded(desk, nvidia_linux(GTX_1080, driver="580.95.05", cuda="13.0"))
    arguments = ("plan", "--machine", str(record), "--json")
    mirrored = json.loads(
        run(desk, *arguments, MOONDREAM_STATION_TORCH_INDEX="https://mirror.example/whl").stdout
    )
    assert mirrored["index_url"] == "https://mirror.example/whl/cu126"
    official = json.loads(run(desk, *arguments, MOONDREAM_STATION_TORCH_INDEX=OFFICIAL).stdout)
    assert official["index_url"] == f"{OFFICIAL}/cu126"
    secret = run(desk, *arguments, MOONDREAM_STATION_TORCH_INDEX="https://me:secret@mirror.example/whl")
    assert json.loads(secret.stdout)["command"] == mirrored["command"]
    assert "secret" not in secret.stdout


def test_nothing_to_install_is_an_answer_that_says_what_to_do(desk: Desk) -> None:
    """`build` is null, the command empty, the exit code 1."""
    record = recorded(desk, nvidia_linux(GTX_1080, driver="580.95.05", cuda="13.0"))
    done = run(desk, "plan", "torch>=2.16", "--machine", str(record), "--json")
    shown = json.loads(done.stdout)
    assert done.returncode == 1
    assert (shown["build"], shown["torch"], shown["index_url"], shown["source"]) == (None, None, None, None)
    assert shown["command"] == []
    assert "Allow torch 2.14.1, which cu126 has." in shown["reason"]


def test_the_age_of_a_kept_listing_is_told(premises: Premises) -> None:
    """An index is asked once a day; a plan from its earlier answer says how old that is."""
    assert not [one for one in run_json(premises, "plan")["warnings"] if "ago" in one]
    for path in (premises.home.cache / "listings").iterdir():
        listing = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**listing, "fetched_at": listing["fetched_at"] - 5 * 3600}))
    asked = len(premises.index.requests)
    (told,) = [one for one in run_json(premises, "plan")["warnings"] if "ago" in one]
    assert "was listed 5 h ago" in told
    assert len(premises.index.requests) == asked


def test_planning_for_a_model_changes_nothing_but_caches(premises: Premises) -> None:
    """Neither a home that is not there, nor the active model's code, though the manifest names another."""
    assert run_json(premises, "plan", "--model", "colours", "--offline")["build"] == "cpu"
    assert not premises.home.root.exists()
    activate(premises, "colours")
    premises.add_model("colours", requirements="torch<2.9.1,>=2.8\n", source="raise SystemExit\n")
    before = tree_of(premises)
    assert run_json(premises, "plan", "--model", "colours")["torch"] == "2.9.0"
    assert tree_of(premises) == before


def test_a_doctor_changes_nothing(premises: Premises) -> None:
    """Not even caches: it looks at the machine itself."""
    activate(premises, "colours")
    premises.add_model("colours", source="raise SystemExit\n")
    before = tree_of(premises, caches=True)
    run(premises, "doctor", "--offline")
    assert tree_of(premises, caches=True) == before


def tree_of(premises: Premises, *, caches: bool = False) -> dict[Path, bytes | None]:
    """Everything in the home, with the files' contents; listings and the machine's snapshot are caches."""
    home = premises.home
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in home.root.rglob("*")
        if caches or not (path.is_relative_to(home.cache) or path == home.capabilities)
    }


def test_a_model_is_supported_on_the_machine_that_is_planned_for(premises: Premises) -> None:
    """Not on the one that plans: what runs on a Mac alone is planned for its record, and refused here."""
    premises.add_model("apples", supported_os=["darwin"])
    path = premises.folder / "machine.json"
    path.write_text(json.dumps(mac().to_json()))
    planned = run_json(premises, "plan", "--model", "apples", "--machine", str(path))
    assert planned["build"] == "mps"
    path.write_text(json.dumps(cpu_only().to_json()))
    refused = run_json(premises, "plan", "--model", "apples", "--machine", str(path))
    assert refused["error"]["code"] == "unsupported-model"


def test_a_constraint_of_the_user_bounds_the_plan(premises: Premises) -> None:
    """It is told with the choice, and is no requirement; what pip is given has it from there itself."""
    constraints = premises.folder / "constraints.txt"
    constraints.write_text("torch<2.9.1\n")
    premises.variables["PIP_CONSTRAINT"] = str(constraints)
    planned = run_json(premises, "plan", "torch>=2.8")
    assert (planned["torch"], planned["requirement"]) == ("2.9.0", ["torch>=2.8"])
    assert "torch>=2.8 and the constraint torch<2.9.1" in planned["reason"]
    assert [word for word in planned["command"] if word.startswith("torch")] == ["torch>=2.8"]
    constraints.write_text("torch<2\n")
    refused = run(premises, "plan", "torch>=2.8")
    assert refused.returncode == 1
    assert "Nothing satisfies torch>=2.8 and the constraint torch<2" in refused.stdout
    constraints.unlink()
    assert run_json(premises, "plan")["error"]["code"] == "settings-invalid"


def test_a_catalog_of_ones_own_counts_and_a_damaged_one_is_told(desk: Desk) -> None:
    """A torch of tomorrow is planned by it; where it can't be used, plan and doctor say why."""
    own, machine = desk.folder / "catalog.toml", recorded(desk, nvidia_linux(driver="580.65.06", cuda="13.0"))
    own.write_text(catalog_text(('torch = "2.14.1"', 'torch = "2.16.0"')))
    placed = Desk(desk.folder, {**desk.environ, "MOONDREAM_STATION_CATALOG": str(own)})
    planned = run_json(placed, "plan", "torch", "--machine", str(machine))
    assert (planned["build"], planned["torch"]) == ("cu132", "2.16.0")
    own.write_text("damaged")
    planned = run_json(placed, "plan", "torch", "--machine", str(machine))
    assert (planned["build"], planned["torch"]) == ("cu132", "2.15.0")
    doubt = f"The catalog {own} is not used: it is not TOML"
    assert any(warning.startswith(doubt) for warning in planned["warnings"])
    report = run_json(placed, "doctor", "--machine", str(machine))
    (finding,) = [finding for finding in report["findings"] if finding["id"] == "gpu.catalog"]
    assert finding["status"] == "warning"
    assert finding["summary"].startswith("The catalog ")
