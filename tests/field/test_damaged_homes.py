"""Each file of a home damaged: what is wrong is said exactly, and what repairs it does."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moondream_station.core.home.active_file import read_active, write_active
from moondream_station.core.home.layout import Home
from support.commands import call_here, serving
from support.posix import make_fifo
from support.stations import Premises, activate, open_premises

FIX = "moondream-station doctor --fix"
JOURNAL, WHEEL, LISTING = "activations/*.jsonl", "downloads/*.whl", "cache/listings/*.json"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """Premises with `other` installed and `colours` active."""
    with open_premises(tmp_path_factory.mktemp("premises")) as premises:
        for model in ("other", "colours"):
            premises.add_model(model)
            activate(premises, model)
        yield premises


@pytest.fixture
def installed(kept: Premises) -> Iterator[Premises]:
    """The same, and afterwards as it was: an environment can't be copied to another place."""
    before = kept.folder / "before"
    shutil.copytree(kept.home.root, before, symlinks=True)
    yield kept
    shutil.rmtree(kept.home.root)
    before.rename(kept.home.root)


def _ways(premises: Premises, *commands: str) -> list[str]:
    """What commands say, with their exit codes, on which `internal-error` may never be the reason."""
    outputs = []
    for command in commands:
        completed = call_here(premises, *command.split())
        outputs.append(f"{completed.returncode} {completed.stdout}{completed.stderr}")
        assert "Internal error" not in outputs[-1]
        assert "Report it" not in outputs[-1]
    return outputs


def _replace(path: Path, kind: str) -> None:
    """Put something else in a file's or folder's place."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match kind:
        case "folder":
            path.mkdir()
            (path / "mine").touch()
        case "pipe":
            make_fifo(path)
        case "file":
            path.touch()
        case _:
            pass


def _without_environment(home: Home) -> str:
    record = json.loads(home.active.read_text())
    del record["models"]["colours"]
    return json.dumps(record)


def _outside(home: Home) -> str:
    name = read_active(home).models["colours"].environment
    shutil.copytree(home.environments / name, home.root.parent / "outside", symlinks=True, dirs_exist_ok=True)
    return home.active.read_text().replace(name, "../../outside")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("{torn", "it is not JSON"),
        ("", "it is not JSON"),
        ("{}", "its format is not"),
        ("outside", "it names the environment '../../outside'"),
        ("without", "it names colours as active, but no environment for it"),
        ("folder", "it is a folder, not a file"),
        pytest.param(
            "pipe",
            "it is a FIFO, not a file",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named files like that"),
        ),
    ],
)
def test_a_damaged_record_of_the_active_model_is_made_again(
    installed: Premises, damage: str, says: str
) -> None:
    """No command takes it for a home in which no model is active; its models and their history come back."""
    home, before = installed.home, read_active(installed.home)
    if damage in {"folder", "pipe"}:
        _replace(home.active, damage)
    else:
        made = {"without": _without_environment, "outside": _outside}
        home.active.write_text(made[damage](home) if damage in made else damage)
    for output in _ways(installed, "status", "models", "serve --port 0", "switch other", "doctor --offline"):
        assert output.startswith("1 ")
        assert says in output
        assert "doctor --fix" in output
        assert "no model" not in output.lower()
    assert "Made active.json again; colours is active." in _ways(installed, "doctor --offline --fix")[0]
    assert read_active(home) == before
    assert "Active: colours (cpu build" in _ways(installed, "status")[0]


def test_a_record_of_a_newer_station_is_left_alone(installed: Premises) -> None:
    """It is whole: what has to change is the station."""
    active = installed.home.active
    newer = active.read_text().replace("active/1", "active/2")
    active.write_text(newer)
    for output in _ways(installed, "status", "switch other", "doctor --offline --fix"):
        assert "a newer version of Moondream Station wrote it (moondream-station/active/2)" in output
        assert "pip install --upgrade moondream-station" in output
    assert active.read_text() == newer


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("{torn", "can't be used: it is not JSON"),
        ("newer", "a newer version of Moondream Station wrote it (moondream-station/environment/2)"),
        ("folder", "can't be used: it is a folder, not a file"),
        ("missing", "has lost its commit.json"),
        ("outside", "can't be used: '..' must be"),
    ],
)
def test_a_damaged_commit_is_told_and_a_switch_makes_another(
    installed: Premises, damage: str, says: str
) -> None:
    """It is not said to be gone, nor its model to need no torch."""
    environment = read_active(installed.home).models["colours"].environment
    commit = installed.home.environments / environment / "commit.json"
    text = commit.read_text()
    changed = {
        "newer": text.replace("environment/1", "environment/2"),
        "outside": re.sub(r'"code": "[^"]*"', '"code": "colours/../../outside"', text),
    }
    if damage in {"folder", "missing"}:
        _replace(commit, damage)
    else:
        commit.write_text(changed.get(damage, damage))
    status, doctor = _ways(installed, "status", "doctor --offline --fix")
    for output in (status, doctor):
        assert says in output
        assert "moondream-station switch colours" in output
    assert "no torch" not in status
    assert _ways(installed, "switch colours")[0].startswith("0 ")
    assert _ways(installed, "doctor --offline")[0].startswith("0 ")


@pytest.mark.parametrize(
    ("place", "kind", "command"),
    [
        ("active.json", "folder", "status"),
        ("config.json", "folder", "status"),
        ("capabilities.json", "folder", "switch colours"),
        ("station.json", "folder", "serve --port 0"),
        ("serve.lock", "folder", "serve --port 0"),
        ("activation.lock", "folder", "switch colours"),
        ("activation.json", "folder", "switch colours"),
        (JOURNAL, "folder", "logs"),
        ("logs/station.jsonl", "folder", "switch colours"),
        ("logs/colours.log", "folder", "logs colours"),
        (WHEEL, "folder", "switch colours"),
        (f"{WHEEL}.json", "folder", "switch colours"),
        (LISTING, "folder", "plan torch"),
        ("activations", "file", "switch colours"),
        ("logs", "file", "switch colours"),
        ("cache", "file", "switch colours"),
        ("downloads", "file", "switch colours"),
        ("environments", "file", "switch colours"),
        ("backends", "file", "switch colours"),
    ],
)
def test_what_stands_in_a_files_place_is_moved_aside(
    installed: Premises, place: str, kind: str, command: str
) -> None:
    """The doctor names it and its remedy, which takes nothing away; the command works afterwards."""
    path = next(iter(installed.home.root.glob(place)), installed.home.root / place)
    name = path.relative_to(installed.home.root).as_posix()
    _replace(path, kind)
    before, failing = _ways(installed, "doctor --offline", command)
    assert f"{name} is not a {'folder' if kind == 'file' else 'file'}." in before
    assert FIX in before
    assert failing.startswith("0 ") or "doctor --fix" in failing
    fixed, again = _ways(installed, "doctor --offline --fix", "doctor --offline")
    assert ("Made" if name == "active.json" else f"Moved {name} aside") in fixed
    assert "is not what is expected there" not in again
    aside = next(installed.home.root.glob(f"{path.name}.*.old"))
    assert aside.is_file() if kind == "file" else (aside / "mine").exists()
    if not command.startswith("serve"):
        assert _ways(installed, command)[0].startswith("0 ")


def test_settings_that_are_damaged_hide_no_others(installed: Premises) -> None:
    """The file is the user's: it is left to them, with a command; what variables set still counts."""
    config = installed.home.config
    config.write_text("{torn")
    status, doctor = _ways(installed, "status", "doctor --offline --fix")
    for output in (status, doctor):
        assert "config.json can't be read: it is not JSON" in output
        assert "set it aside: `mv " in output
    assert "is not in the manifest" not in doctor
    assert config.read_text() == "{torn"


@pytest.mark.parametrize("place", ["capabilities.json", LISTING, JOURNAL, WHEEL, f"{WHEEL}.json"])
@pytest.mark.parametrize("content", [b"", b"{torn \xff\x00", b"[]"])
def test_what_can_be_made_again_is_no_reason_to_fail(installed: Premises, place: str, content: bytes) -> None:
    """A snapshot, a listing, a journal, a wheel and its note; an environment is built again with them."""
    next(iter(installed.home.root.glob(place))).write_bytes(content)
    environment = read_active(installed.home).models["colours"].environment
    (installed.home.environments / environment / "commit.json").unlink()
    switch, doctor = _ways(installed, "switch colours", "doctor --offline")
    assert switch.startswith("0 ")
    assert doctor.startswith("0 ")


def test_a_station_serves_a_model_whose_commit_is_damaged(installed: Premises) -> None:
    """It says what is wrong, and installs it again."""
    environment = read_active(installed.home).models["colours"].environment
    (installed.home.environments / environment / "commit.json").write_text("{")
    with serving(installed) as station:
        assert station.get("/v1/station")["active"]["model"] == "colours"
        answer = station.post("/v1/caption", {})
    assert "caption" in answer


def test_a_model_that_was_active_once_keeps_its_way_back(installed: Premises) -> None:
    """The environment before the last one is the previous one again."""
    activate(installed, "colours", upgrade=True)
    record = read_active(installed.home)
    write_active(installed.home, record)
    installed.home.active.write_text("{")
    _ways(installed, "doctor --offline --fix")
    assert read_active(installed.home) == record
