"""The facade's installation as scripts use it: into a scratch interpreter, from an index on loopback."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moondream_station.core.environments.interpreter import own_interpreter
from moondream_station.core.in_place.packages import find_packages
from support.fake_driver import install_driver
from support.index_traffic import Fault
from support.real_torch import small_torch
from support.scratch_python import INSTALL, ROOT, VERIFY, ScratchPython
from support.stations import Premises, processes_naming
from support.torch_index import TorchBehaviour, TorchIndex, module_wheel

UNREACHABLE = {
    "MOONDREAM_STATION_TORCH_INDEX": "http://127.0.0.1:9/whl",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
}
ASKED = "torch>=2.8\nPillow\n"


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """A folder with a home and an index of the usual wheels, and nothing of the user's."""
    with TorchIndex() as index:
        index.add_usual()
        for version in ("2.9.0", "2.9.1"):
            for build in ("cpu", "cu126"):
                needs = [f"torch=={version}"]
                index.add(build, module_wheel("torchaudio", f"{version}+{build}", requires=needs))
        index.add_simple(module_wheel("numpy", "2.0.0"))
        index.add_simple(module_wheel("oldfriend", "1.0", requires=["numpy<2.1"]))
        index.add_simple(module_wheel("newfriend", "1.0", requires=["numpy>=2.3", "pillow"]))
        premises = Premises(folder=tmp_path_factory.mktemp("facade"), index=index)
        yield premises
        assert processes_naming(premises.folder) == []
        assert list(premises.home.cache.glob("lock-*")) == []


@pytest.fixture(scope="module")
def with_gpu(premises: Premises) -> dict[str, str]:
    """Variables of a user whose machine has an NVIDIA driver for CUDA 12.4."""
    folder = install_driver(premises.folder / "driver", "550.54.14", "12.4").parent
    return {"PATH": f"{folder}{os.pathsep}{premises.environ['PATH']}"}


@pytest.fixture
def scratch(premises: Premises, tmp_path: Path) -> ScratchPython:
    """An interpreter without any package."""
    return ScratchPython.make(tmp_path / "scratch", premises.environ)


@pytest.fixture(scope="module")
def filled(premises: Premises) -> ScratchPython:
    """One into which torch and Pillow were installed. Tests leave it as they found it."""
    scratch = ScratchPython.make(premises.folder / "filled", premises.environ)
    answer = scratch.install(ASKED)
    assert answer["success"], answer
    assert answer["message"] == (
        "Installed torch 2.9.1+cpu and pillow 12.0.0 into this Python. This can't be undone."
    )
    assert answer["cmd"][1:3] == ["pip", "install"]
    assert scratch.packages() == {"torch": "2.9.1+cpu", "pillow": "12.0.0"}
    return scratch


def wheels_fetched(premises: Premises) -> list[str]:
    """The names of the wheels that were fetched since the requests were cleared."""
    return [
        request.path.rpartition("/")[2]
        for request in premises.index.requests
        if request.method == "GET" and request.path.endswith(".whl")
    ]


def test_the_second_time_nothing_is_installed(premises: Premises, filled: ScratchPython) -> None:
    """Nothing is resolved or fetched, and no command is run."""
    premises.index.clear_requests()
    answer = filled.install(ASKED)
    assert (answer["success"], answer["cmd"], answer["details"]) == (True, [], "")
    assert (
        answer["message"] == "Nothing had to be installed: everything is there, with torch 2.9.1+cpu (cpu)."
    )
    assert not [request for request in premises.index.requests if "/simple/" in request.path]


def test_without_a_network_what_is_there_stays(filled: ScratchPython, tmp_path: Path) -> None:
    """The catalog says which build is right, and it is installed."""
    answer = filled.install(ASKED, MOONDREAM_STATION_HOME=str(tmp_path), **UNREACHABLE)
    assert (answer["success"], answer["cmd"]) == (True, [])
    answer = filled.install("pillow", MOONDREAM_STATION_HOME=str(tmp_path), **UNREACHABLE)
    assert answer["message"] == "Nothing had to be installed: everything is there."


def test_without_a_network_what_is_missing_is_an_error_with_a_remedy(
    filled: ScratchPython, tmp_path: Path
) -> None:
    """The result says it; nothing is raised, and nothing changed."""
    before = filled.packages()
    answer = filled.install("torch>=2.8\nnumpy", MOONDREAM_STATION_HOME=str(tmp_path), **UNREACHABLE)
    assert (answer["success"], answer["cmd"]) == (False, [])
    assert "can't be reached" in answer["message"]
    assert "Check the network" in answer["message"]
    assert filled.packages() == before


def _lose_files(package: Path, metadata: Path) -> None:
    shutil.rmtree(package)


def _lose_one_file(package: Path, metadata: Path) -> None:
    (package / "cuda.py").unlink()


def _cut_a_file(package: Path, metadata: Path) -> None:
    (package / "cuda.py").write_text("half\n")


def _lose_metadata(package: Path, metadata: Path) -> None:
    for name in ("RECORD", "METADATA", "INSTALLER"):
        (metadata / name).unlink()


@pytest.mark.parametrize("harm", [_lose_files, _lose_one_file, _cut_a_file, _lose_metadata])
def test_a_half_installation_is_repaired(filled: ScratchPython, harm: Callable[[Path, Path], None]) -> None:
    """What is not whole by its RECORD is installed anew, and that alone."""
    harm(filled.site_packages / "torch", filled.site_packages / "torch-2.9.1+cpu.dist-info")
    answer = filled.install(ASKED)
    assert answer["success"], answer
    assert answer["message"].startswith("Installed torch 2.9.1+cpu into this Python.")
    assert "pillow" not in answer["details"]
    assert find_packages([str(filled.site_packages)])["torch"].damage == ()


def test_it_works_inside_a_running_event_loop(filled: ScratchPython) -> None:
    """In a thread of its own."""
    program = """
import asyncio
from moondream_station.core.torch_installer import TorchInstaller
async def main():
    result = TorchInstaller().install_torch_requirements("torch>=2.8")
    await asyncio.sleep(0)
    print(result.success, TorchInstaller().verify_torch_installation()["compute_ok"])
asyncio.run(main())
"""
    assert filled.run(program).stdout == "True True\n"


def test_an_imported_torch_is_not_replaced(filled: ScratchPython, with_gpu: dict[str, str]) -> None:
    """The process has to be restarted first; where nothing has to change, there is nothing to say."""
    before = filled.packages()
    answer = filled.install(ASKED, before="import torch", **with_gpu)
    assert (answer["success"], answer["cmd"]) == (False, [])
    assert answer["message"] == (
        "torch must be replaced, and this process has imported it already. "
        "Restart Python, and install before anything imports torch."
    )
    assert filled.packages() == before
    assert filled.install(ASKED, before="import torch")["success"]


def test_verification_tells_what_torch_says(filled: ScratchPython) -> None:
    """In another process: this one stays free to change torch."""
    found = json.loads(filled.run(f"{VERIFY}\nassert 'torch' not in sys.modules").stdout)
    wanted = {
        "torch_version": "2.9.1+cpu",
        "build": "cpu",
        "device": "cpu",
        "cuda_available": False,
        "cuda_version": None,
        "device_count": 0,
        "mps_available": False,
        "compute_ok": True,
        "error": None,
    }
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torch>=2.8\n-r other.txt", "the requirements, line 2: '-r other.txt' is not accepted"),
        ("torch=>2.8", "line 1"),
        ("torch @ https://example.org/torch.whl", "addresses are not accepted"),
    ],
)
def test_bad_requirements_are_told_not_raised(filled: ScratchPython, text: str, words: str) -> None:
    """With the line, and what may stand there."""
    answer = filled.install(text)
    assert (answer["success"], answer["cmd"]) == (False, [])
    assert words in answer["message"]
    assert answer["message"].endswith(
        "Requirements may hold names, extras, versions, markers and sha256 hashes only."
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [("torch>=99", "Nothing satisfies torch>=99"), ("no-such-package", "no-such-package was not found")],
)
def test_what_cannot_be_had_is_told_not_raised(filled: ScratchPython, text: str, words: str) -> None:
    """No build, or no such package."""
    answer = filled.install(text)
    assert (answer["success"], answer["cmd"]) == (False, [])
    assert words in answer["message"]


def test_torch_of_another_build_is_replaced_with_its_companions(
    scratch: ScratchPython, with_gpu: dict[str, str]
) -> None:
    """Also a companion that nobody asks for now: it was made for the torch that goes."""
    text = "torch>=2.8\ntorchvision\n"
    assert scratch.install(f"{text}torchaudio")["success"]
    answer = scratch.install(text, **with_gpu)
    assert answer["success"], answer
    found = scratch.packages()
    assert {name: found[name] for name in ("torch", "torchvision", "torchaudio")} == {
        "torch": "2.9.1+cu126",
        "torchvision": "0.24.1+cu126",
        "torchaudio": "2.9.1+cu126",
    }
    assert "replaced torch 2.9.1+cpu" in answer["details"]
    assert "recommends cu124" in answer["details"]
    assert "numpy" not in answer["details"]


def test_only_what_is_missing_is_installed(premises: Premises, scratch: ScratchPython) -> None:
    """A torch that satisfies stays, though there is a newer one, and its companion is made to fit it."""
    assert scratch.install("torch==2.9.0\nnumpy==2.0.0")["success"]
    premises.index.clear_requests()
    answer = scratch.install("torch>=2.8\ntorchvision\nnewfriend; python_version < '3'")
    assert answer["success"], answer
    assert scratch.packages() == {
        "torch": "2.9.0+cpu",
        "numpy": "2.0.0",
        "torchvision": "0.24.0+cpu",
        "pillow": "12.0.0",
    }
    assert not [name for name in wheels_fetched(premises) if name.startswith("torch-")]


def test_a_package_in_the_way_is_moved_and_whoever_needed_it_is_named(scratch: ScratchPython) -> None:
    """Nothing else moves."""
    assert scratch.install("oldfriend\npillow<12")["success"]
    assert scratch.packages()["numpy"] == "2.0.0"
    answer = scratch.install("newfriend", before="import numpy")
    assert answer["success"], answer
    assert "numpy is imported in this process" in answer["details"]
    found = scratch.packages()
    assert (found["numpy"], found["pillow"]) == ("2.3.4", "11.3.0")
    assert "replaced numpy 2.0.0" in answer["details"]
    assert "oldfriend 1.0 needs numpy<2.1, which 2.3.4 is not." in answer["details"]


def test_torch_that_comes_in_through_a_package_is_of_the_chosen_build(
    scratch: ScratchPython, with_gpu: dict[str, str]
) -> None:
    """The ordinary index has a torch of its own, which nobody takes. It can be imported at once."""
    done = scratch.run(f"{INSTALL}\nimport torch; print(torch.__version__)", "wrapstorch", **with_gpu)
    answer, version = done.stdout.splitlines()
    assert json.loads(answer)["success"], answer
    assert version == "2.9.1+cu126"


def test_a_torch_that_does_not_compute_is_no_success(tmp_path: Path) -> None:
    """It is installed, and the result says that it does not work and what to do."""
    with TorchIndex() as index:
        behaviour = TorchBehaviour(compute_errors={"cpu": "illegal instruction"})
        index.add_torch("2.9.1", "cpu", behaviour=behaviour)
        environ = Premises(folder=tmp_path, index=index).environ
        scratch = ScratchPython.make(tmp_path / "scratch", environ)
        answer = scratch.install("torch")
    assert not answer["success"]
    assert answer["cmd"] != []
    assert "illegal instruction" in answer["message"]
    assert "MOONDREAM_STATION_STRATEGY" in answer["message"]


def test_an_externally_managed_interpreter_is_refused(
    premises: Premises, scratch: ScratchPython, tmp_path: Path
) -> None:
    """A real one, with the marker in its standard library; nothing is asked of any index."""
    premises.index.clear_requests()
    done = _in_managed_python(scratch, tmp_path / "managed")
    answer = json.loads(done.stdout)
    assert (answer["success"], answer["cmd"], answer["details"]) == (
        False,
        [],
        "python-unsuitable\nUse the system's packages.",
    )
    assert "The system's package manager owns this Python" in answer["message"]
    assert "python3 -m venv" in answer["message"]
    assert premises.index.requests == ()


def _in_managed_python(scratch: ScratchPython, home: Path) -> subprocess.CompletedProcess[str]:
    """Install with the base interpreter, whose installation was copied by links and given the marker."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    copy = home / stdlib.relative_to(sys.base_prefix)
    copy.mkdir(parents=True)
    for entry in stdlib.iterdir():
        if entry.name not in {"site-packages", "EXTERNALLY-MANAGED"}:
            (copy / entry.name).symlink_to(entry)
    marker = "[externally-managed]\nError=Use the system's packages.\n"
    (copy / "EXTERNALLY-MANAGED").write_text(marker, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
    environ = {**scratch.environ, "PYTHONHOME": str(home), "PYTHONPATH": path}
    return replace(scratch, executable=own_interpreter().path, environ=environ).run(INSTALL, ASKED)


def test_an_interrupted_download_is_ended_at_once_and_gone_on_with(tmp_path: Path) -> None:
    """Ctrl-C leaves no process behind; the next run fetches what is missing of the file."""
    with TorchIndex() as index:
        index.add_torch("2.9.1", "cpu", filler_bytes=2_000_000)
        premises = Premises(folder=tmp_path, index=index)
        scratch = ScratchPython.make(tmp_path / "scratch", premises.environ)
        index.faults.append(Fault(match="*/torch-*.whl", bytes_per_second=400_000))
        with scratch.started(INSTALL, "torch") as process:
            index.wait_for(".whl", bytes_sent=400_000)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=5)
        assert process.returncode != 0
        assert said.rstrip().endswith("KeyboardInterrupt")
        assert scratch.packages() == {}
        (size,) = premises.partial_downloads().values()
        assert size > 0
        index.faults.clear()
        index.clear_requests()
        assert scratch.install("torch")["success"]
        (request,) = [one for one in index.requests if one.path.endswith(".whl") and one.method == "GET"]
        assert request.headers["range"] == f"bytes={size}-"
    assert processes_naming(tmp_path) == []


def test_two_at_once_take_turns(premises: Premises, tmp_path: Path) -> None:
    """In one interpreter; one of them finds everything there."""
    scratch = ScratchPython.make(tmp_path / "scratch", premises.environ)
    with scratch.started(INSTALL, ASKED) as first, scratch.started(INSTALL, ASKED) as second:
        answers = [json.loads(process.communicate(timeout=120)[0]) for process in (first, second)]
    assert [answer["success"] for answer in answers] == [True, True]
    assert sorted(bool(answer["cmd"]) for answer in answers) == [False, True]
    assert scratch.packages() == {"torch": "2.9.1+cpu", "pillow": "12.0.0"}


def test_a_companion_that_no_version_of_fits_stays_and_is_named(scratch: ScratchPython) -> None:
    """There is no torchaudio for that torch here; it was not asked for."""
    assert scratch.install("torch\ntorchaudio")["success"]
    answer = scratch.install("torch==2.8.0")
    assert answer["success"], answer
    assert "torchaudio stays as it is: no version of it fits torch 2.8.0+cpu." in answer["details"]
    assert scratch.packages() == {"torch": "2.8.0+cpu", "torchaudio": "2.9.1+cpu"}


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="the page ran on Linux on x86-64"
)
def test_the_pages_examples_print_what_the_page_says(
    premises: Premises, scratch: ScratchPython, with_gpu: dict[str, str]
) -> None:
    """In the page's order, one after the other in one script."""
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    program = "".join(text for language, text in blocks if language == "python")
    expected = "".join(text for language, text in blocks if language == "text")
    done = scratch.run(program, **with_gpu)
    assert done.stderr == ""
    assert done.stdout == expected.replace("https://download.pytorch.org/whl", premises.index.torch_url)


@pytest.mark.torch
def test_a_real_torch_is_installed_found_again_and_repaired(tmp_path: Path) -> None:
    """From the user's own sources; after a loss of its files it is installed anew, from what is here."""
    if small_torch() is None:
        pytest.skip("pip's find-links have no torch +cpu wheel for this Python")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ = {**kept, "MOONDREAM_STATION_HOME": str(tmp_path / "home")}
    scratch = ScratchPython.make(tmp_path / "scratch", environ)
    first = scratch.install("torch>=2.7.0")
    assert first["success"], first
    assert scratch.packages()["torch"] == small_torch()
    assert scratch.install("torch>=2.7.0")["cmd"] == []
    for name in ("nn", "lib"):
        shutil.rmtree(scratch.site_packages / "torch" / name)
    assert scratch.run("import torch").returncode != 0
    again = scratch.install("torch>=2.7.0")
    assert again["success"], again
    assert again["details"].startswith(f"installed torch {small_torch()}\nreplaced torch {small_torch()}\n")
    verified = scratch.run(VERIFY)
    assert json.loads(verified.stdout)["compute_ok"] is True
