"""Users without a home folder, homes of somebody else, working folders that are gone."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from moondream_station.core.weights.disk import model_cache
from support.commands import call_here, command
from support.stations import Premises, open_premises

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="users and working folders as POSIX has them")

_SOMEBODY = 54321
pwd = pytest.importorskip("pwd")


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """A home with the model `colours`, which is not active yet."""
    with open_premises(tmp_path_factory.mktemp("premises")) as opened:
        opened.add_model("colours")
        yield opened


class _Homeless(NamedTuple):
    """Where the commands of somebody without a home folder run."""

    folder: Path
    environ: Mapping[str, str]


def _no_entry(uid: int) -> object:
    raise KeyError(uid)


def _homeless(premises: Premises, monkeypatch: pytest.MonkeyPatch) -> _Homeless:
    """The premises of a user id that the system does not know, as in a container with `--user`."""
    monkeypatch.setattr(pwd, "getpwuid", _no_entry)
    without = ("HOME", "USERPROFILE", "PIP_CONFIG_FILE")
    return _Homeless(
        premises.folder, {name: value for name, value in premises.environ.items() if name not in without}
    )


@pytest.mark.parametrize("arguments", [("plan", "torch"), ("switch", "colours"), ("status",), ("doctor",)])
def test_a_home_folder_is_optional(
    premises: Premises, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """With MOONDREAM_STATION_HOME, everything works for a user id without an entry and without HOME."""
    completed = call_here(_homeless(premises, monkeypatch), *arguments)
    assert "a bug in Moondream Station" not in completed.stdout + completed.stderr
    assert "RuntimeError" not in completed.stdout + completed.stderr
    assert completed.returncode == 0, completed.stderr


def test_weights_are_looked_for_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hubs would download to is optional too."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", _no_entry)
    assert model_cache({})


@pytest.mark.parametrize("option", ["--python", "--manifest"])
def test_the_home_of_nobody_is_a_path_that_does_not_exist(premises: Premises, option: str) -> None:
    """`~name` of a user who is not known stays as it is, as in a shell."""
    variables = {"MOONDREAM_STATION_MANIFEST": "~nobody-here/m.json"} if option == "--manifest" else {}
    arguments = ("--python", "~nobody-here/python") if option == "--python" else ()
    completed = call_here(premises, "switch", "colours", *arguments, **variables)
    assert completed.returncode != 0
    assert "~nobody-here" in completed.stderr
    assert "a bug in Moondream Station" not in completed.stderr


def _in_a_deleted_folder(premises: Premises, *arguments: str, **variables: str) -> tuple[int, str]:
    gone = premises.folder / "gone"
    script = f"mkdir {gone}; cd {gone}; rmdir {gone}; exec {shlex.join(command(*arguments))}"
    completed = subprocess.run(
        ["/bin/sh", "-c", script],
        env={**premises.environ, **variables, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    return completed.returncode, completed.stdout + completed.stderr


@pytest.mark.parametrize("arguments", [("plan", "torch"), ("switch", "colours", "--upgrade"), ("models",)])
def test_a_deleted_working_folder_is_not_needed(premises: Premises, arguments: tuple[str, ...]) -> None:
    """Without relative paths nothing needs the working folder: neither the station nor uv."""
    code, output = _in_a_deleted_folder(premises, *arguments)
    assert code == 0, output


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (("switch", "colours", "--python", "venv/bin/python"), {}),
        (("plan", "torch"), {"PIP_CONSTRAINT": "bounds.txt"}),
        (("plan", "torch"), {"PIP_FIND_LINKS": "wheels"}),
        (("status",), {"MOONDREAM_STATION_HOME": "station"}),
        (("doctor", "--record", "machine.json"), {}),
    ],
)
def test_a_relative_path_in_a_deleted_working_folder_is_one_plain_sentence(
    premises: Premises, arguments: tuple[str, ...], variables: dict[str, str]
) -> None:
    """It says that the folder is gone, for which path it matters, and what to do."""
    code, output = _in_a_deleted_folder(premises, *arguments, **variables)
    assert code != 0
    assert "The working folder no longer exists, so the relative path" in output
    assert "Traceback" not in output
    assert "internal-error" not in output


@contextmanager
def _as_somebody() -> Iterator[None]:
    """This process is another, ordinary user's, while the block runs."""
    if sys.platform == "linux" and os.geteuid() == 0:
        groups = os.getgroups()
        os.setgroups([])
        os.setresgid(_SOMEBODY, _SOMEBODY, 0)
        os.setresuid(_SOMEBODY, _SOMEBODY, 0)
        try:
            yield
        finally:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)
            os.setgroups(groups)
    else:
        pytest.skip("only root on Linux can be another user for a while")


@pytest.fixture
def lobby(tmp_path: Path) -> Path:
    """A folder that everybody may enter, unlike pytest's own."""
    for folder in (tmp_path, *tmp_path.parents[:3]):  # the last may be the system's, which others write to
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o055)
    return tmp_path


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o000])
@pytest.mark.parametrize("arguments", [("status",), ("models",), ("logs",), ("switch", "colours")])
def test_a_home_of_another_user_is_named_with_its_owner(
    premises: Premises, lobby: Path, mode: int, arguments: tuple[str, ...]
) -> None:
    """The home is the culprit, not a file in it that there may not be."""
    home = lobby / "home"
    theirs = Premises(folder=lobby, index=premises.index, variables={"MOONDREAM_STATION_MANIFEST": ""})
    call_here(theirs, "models")  # loads what an ordinary user can't read here
    call_here(theirs, "switch", "no-such-model")
    home.chmod(mode)
    with _as_somebody():
        completed = call_here(theirs, *arguments)
    output = completed.stdout + completed.stderr
    if mode == 0o755 and arguments != ("switch", "colours"):
        assert completed.returncode == 0, output  # reading is permitted
        return
    assert completed.returncode == 1, output
    assert str(home) in output
    assert "root" in output
    assert "MOONDREAM_STATION_HOME" in output
    assert "config.json" not in output


@pytest.mark.parametrize("name", ["active.json", "config.json", "capabilities.json", "activations"])
def test_a_file_of_ones_own_that_may_not_be_read_is_made_readable(
    premises: Premises, lobby: Path, name: str
) -> None:
    """The doctor names it, and `--fix` repairs it; one of another user's is told by its owner."""
    theirs = Premises(folder=lobby, index=premises.index, variables={"MOONDREAM_STATION_MANIFEST": ""})
    call_here(theirs, "switch", "no-such-model")
    for file in ("active.json", "config.json", "capabilities.json"):
        (theirs.home.root / file).write_text('{"format": "moondream-station/active/1"}')
    for arguments in ((), ("--fix",)):  # loads what an ordinary user can't read here
        call_here(theirs, "doctor", "--offline", *arguments)
    for path in (theirs.home.root, *theirs.home.root.rglob("*")):
        shutil.chown(path, _SOMEBODY, _SOMEBODY)
    (theirs.home.root / name).chmod(0)
    with _as_somebody():
        before, fixed, after = (
            call_here(theirs, "doctor", "--offline", *more).stdout for more in ((), ("--fix",), ())
        )
    assert f"{name} may not be read or written." in before
    assert f"Made {name} readable and writable." in fixed
    assert "may not be read" not in after
