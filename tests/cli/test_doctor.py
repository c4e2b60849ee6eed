"""`doctor`: the report, its exit codes, records, and repairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from moondream_station.core.machine.record import MachineRecord, load_record
from support import machines as m
from support.commands import command, run, run_json, serving
from support.fake_driver import HANGS, install_program
from support.stations import Premises
from support.terminal import open_terminal
from tools.reference.schemas import schemas


@pytest.fixture
def bare(premises: Premises) -> Premises:
    """Premises with a home in which nothing ever happened."""
    premises.home.create()
    return premises


def validated(report: Any) -> Any:
    """A report that is of its shape."""
    jsonschema.Draft202012Validator(schemas()["doctor"]).validate(report)
    return report


def statuses(report: Any) -> dict[str, str]:
    """The status of every check."""
    return {finding["id"]: finding["status"] for finding in report["findings"]}


def write_record(folder: Path, record: MachineRecord) -> str:
    """A machine record as a file."""
    path = folder / "machine.json"
    path.write_text(json.dumps(record.to_json()))
    return str(path)


@pytest.mark.own_process
def test_a_model_that_works_has_no_error(installed: Premises) -> None:
    """Text, JSON and `GET /v1/station/doctor` tell the same; the text names every finding."""
    report = validated(run_json(installed, "doctor"))
    assert report["ok"] is True
    assert statuses(report)["environments.active"] == "ok"
    shown = run(installed, "doctor")
    assert shown.returncode == 0
    told = {finding["id"]: finding["summary"] for finding in report["findings"]}
    assert all(told[check] in shown.stdout for check in told if check != "disk.space")
    with serving(installed) as station:
        served = validated(station.get("/v1/station/doctor"))
        assert statuses(served) == statuses(report)
        told = {finding["id"]: finding["summary"] for finding in served["findings"]}
        assert told["station.serving"].startswith(f"A station serves at {station.address}")


def test_an_error_is_exit_1(bare: Premises, tmp_path: Path) -> None:
    """And is told with a command to copy."""
    shown = run(bare, "doctor", "--machine", write_record(tmp_path, m.rosetta()))
    assert shown.returncode == 1
    assert "brew install python" in shown.stdout


def test_a_machine_from_elsewhere_is_looked_at(bare: Premises, tmp_path: Path) -> None:
    """From its record alone, and in what that can answer."""
    path = write_record(tmp_path, m.nvidia_linux(driver="390.157", cuda="9.1", is_old=True))
    report = validated(run_json(bare, "doctor", "--machine", path))
    found = statuses(report)
    assert found["gpu.driver"] == "warning"
    assert {found[check] for check in found if check.split(".")[0] in {"disk", "network", "station"}} == {
        "skipped"
    }
    assert list(bare.home.root.glob("*.*")) == []


def test_a_record_can_be_read_back(bare: Premises, tmp_path: Path) -> None:
    """It is of its shape, holds nothing private, and gives the same answers elsewhere."""
    path = tmp_path / "record.json"
    here = run(
        bare, "doctor", "--offline", "--json", "--record", str(path), USER="annika", HOSTNAME="annika-pc"
    )
    assert here.returncode == 0
    data = json.loads(path.read_text())
    jsonschema.Draft202012Validator(schemas()["machine"]).validate(data)
    text = path.read_text()
    assert "annika" not in text
    assert str(bare.folder) not in text
    load_record(path)
    there = run_json(bare, "doctor", "--machine", str(path))
    ours, theirs = statuses(json.loads(here.stdout)), statuses(there)
    assert {check: ours[check] for check in ours if check.startswith("gpu.d")} == {
        check: theirs[check] for check in theirs if check.startswith("gpu.d")
    }


def test_a_record_is_written_although_a_probe_hangs(bare: Premises, tmp_path: Path) -> None:
    """The program that does not answer is in it, as one that timed out."""
    program = install_program(tmp_path / "bin", "nvcc", HANGS)
    path = tmp_path / "record.json"
    shown = run(bare, "doctor", "--offline", "--record", str(path), PATH=f"{program.parent}:/usr/bin:/bin")
    assert (shown.returncode, shown.stdout) == (0, "")
    assert (
        shown.stderr.splitlines()[-1]
        == f"Saved the machine record to {path}; check what it holds before you share it."
    )
    commands = {command["argv"][0]: command for command in json.loads(path.read_text())["commands"]}
    assert commands["nvcc"]["timed_out"] is True


@pytest.mark.parametrize("place", ["nowhere/record.json", "."])
def test_a_record_that_cannot_be_written_is_refused_before_anything(bare: Premises, place: str) -> None:
    """The command line is wrong; nothing was looked at."""
    shown = run(bare, "doctor", "--record", str(bare.folder / place), "--json")
    assert shown.returncode == 2
    assert json.loads(shown.stdout)["error"]["code"] == "usage"


def test_what_is_no_record_is_refused(bare: Premises, tmp_path: Path) -> None:
    """As is a file that does not exist, and a repair of another machine."""
    path = tmp_path / "machine.json"
    path.write_text("{}")
    assert run(bare, "doctor", "--machine", str(path)).returncode == 2
    assert run(bare, "doctor", "--machine", str(tmp_path / "none.json")).returncode == 2
    both = run(bare, "doctor", "--fix", "--machine", write_record(tmp_path, m.cpu_only()))
    assert both.returncode == 2


def test_fix_repairs_and_says_what(bare: Premises) -> None:
    """Half-done environments and files of the dead go; a second time there is nothing to do."""
    home = bare.home
    home.create()
    (home.environments / "0badc0de-0001").mkdir()
    dead = {"pid": 2**22 + 1, "process_created_at": 1.0, "since": "2026-11-23T10:00:00.000000Z"}
    station = {"address": "http://127.0.0.1:9", "token": "t", "instance": "i", "version": "0"}
    home.station.write_text(json.dumps({**dead, **station}))
    assert statuses(run_json(bare, "doctor", "--offline"))["environments.leftovers"] == "warning"
    assert (home.environments / "0badc0de-0001").exists()
    report = validated(run_json(bare, "doctor", "--offline", "--fix"))
    repairs = report["findings"][-1]
    assert repairs["id"] == "station.repairs"
    assert "0badc0de-0001" in repairs["summary"]
    assert "station.json" in repairs["summary"]
    assert statuses(report)["environments.leftovers"] == "ok"
    assert not (home.environments / "0badc0de-0001").exists()
    assert "Nothing needed repair." in run(bare, "doctor", "--offline", "--fix").stdout


def test_a_repair_that_fails_hides_no_finding(bare: Premises) -> None:
    """It is one itself, and what kept it from repairing stays as it is."""
    newer = '{"format": "moondream-station/active/2"}'
    bare.home.active.write_text(newer)
    shown = run(bare, "doctor", "--offline", "--fix", "--json")
    report = validated(json.loads(shown.stdout))
    assert shown.returncode == 1
    assert statuses(report)["station.repairs"] == "warning"
    assert statuses(report)["environments.active"] == "error"
    assert bare.home.active.read_text() == newer
    bare.home.active.unlink()


def test_settings_that_cannot_be_used_are_a_finding(bare: Premises) -> None:
    """Not the end of the doctor."""
    bare.home.config.write_text('{"service_port": "many"}')
    shown = run(bare, "doctor", "--offline", "--json")
    assert shown.returncode == 1
    assert statuses(json.loads(shown.stdout))["station.settings"] == "error"


@pytest.mark.terminal
def test_on_a_terminal_results_appear_as_they_finish(bare: Premises, tmp_path: Path) -> None:
    """While a program hangs, what is known already is shown; the report follows when its time is up."""
    install_program(tmp_path / "bin", "nvcc", HANGS)
    environ = {**bare.environ, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "LANG": "C.UTF-8"}
    with open_terminal(
        command("doctor", "--offline"), columns=100, rows=60, environ=environ, clean=True
    ) as terminal:
        shown = terminal.wait_for("  ✓ The settings are valid.")
        assert "Machine" not in shown
        assert not any("probes" in line for line in shown)
        assert terminal.exit_code() == 0
        assert "  ! Some probes found no answer: nvcc." in terminal.screen()
        assert any("\x1b[33m!" in line for line in terminal.screen(styled=True))


@pytest.mark.terminal
def test_on_a_terminal_the_report_takes_the_place_of_what_ran(tmp_path: Path) -> None:
    """Lines appear as checks end; at the end the report alone stands there, with symbols."""
    environ = {"MOONDREAM_STATION_HOME": str(tmp_path / "home"), "NO_COLOR": "1", "PIP_NO_INDEX": "1"}
    line = command("doctor", "--offline")
    with open_terminal(line, columns=100, rows=60, environ=environ) as terminal:
        assert terminal.exit_code() == 0
        screen = terminal.screen()
    assert screen[0] == "Machine"
    assert any(shown.startswith("  ✓ ") for shown in screen)
    assert sum("The settings are valid." in shown for shown in screen) == 1
