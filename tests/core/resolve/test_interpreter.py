"""Which Python environments are made from: the station's own, or the one a user names."""

from __future__ import annotations

import json
import os
import sys
import venv
from pathlib import Path

import pytest

from moondream_station.core.facts.errors import PythonUnsuitable
from moondream_station.core.resolve.interpreter import find_interpreter, own_interpreter

pytestmark = pytest.mark.anyio

BASE = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]


def script(path: Path, *lines: str) -> Path:
    """A program of a few shell lines."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def answer(**changes: object) -> str:
    """What an interpreter would print."""
    plain = {
        "version": "3.12.1",
        "implementation": "cpython",
        "path": "/usr/bin/python3.12",
    }
    return json.dumps({**plain, "markers": {}, "tags": ["py3-none-any"], **changes})


async def test_the_station_s_own_base_is_the_default() -> None:
    """Without a wish it is the Python that the station's own environment was made from."""
    found = await find_interpreter(None, environ=os.environ)
    assert found == own_interpreter()
    assert found.path == BASE
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert found.markers["python_full_version"].startswith(found.minor)


async def test_a_named_interpreter_describes_itself() -> None:
    """An interpreter that is asked gives the same markers and tags as the station has for itself."""
    found = await find_interpreter(own_interpreter().path, environ=os.environ)
    assert found == own_interpreter()


@pytest.mark.parametrize(("abi", "name"), [("cp314", "3.14.2"), ("cp314t", "3.14.2t")])
async def test_a_free_threaded_python_has_a_name_of_its_own(tmp_path: Path, abi: str, name: str) -> None:
    """Its version and markers are the ordinary one's; the wheels that it takes are not."""
    told = answer(version="3.14.2", tags=[f"cp314-{abi}-linux_x86_64", "py3-none-any"])
    found = await find_interpreter(script(tmp_path / "python", f"echo '{told}'"), environ=os.environ)
    assert (found.name, found.version, found.minor) == (name, "3.14.2", "3.14")


async def test_a_virtual_environment_stands_for_its_base(tmp_path: Path) -> None:
    """Naming a virtual environment's Python means the Python it was made from."""
    venv.create(tmp_path / "venv", with_pip=False)
    found = await find_interpreter(tmp_path / "venv" / "bin" / "python", environ=os.environ)
    assert found.path == own_interpreter().path


async def test_what_stands_in_the_current_folder_has_no_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither PYTHONPATH nor modules of the current folder answer for the interpreter."""
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert (
        await find_interpreter(own_interpreter().path, environ=environ)
    ).version == own_interpreter().version


@pytest.mark.parametrize("name", ["missing", "folder", "text"])
async def test_what_can_t_be_started_is_no_interpreter(tmp_path: Path, name: str) -> None:
    """A path that does not exist, a folder, or a file that is no program is refused with a remedy."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no program")
    with pytest.raises(PythonUnsuitable) as caught:
        await find_interpreter(tmp_path / name, environ=os.environ)
    assert str(tmp_path / name) in caught.value.message
    assert caught.value.hint is not None


async def test_another_program_is_no_interpreter(tmp_path: Path) -> None:
    """A program that does not answer as a Python does is refused; what it said is kept."""
    program = script(tmp_path / "program", "echo unknown option >&2", "exit 2")
    with pytest.raises(PythonUnsuitable, match="exited with 2") as caught:
        await find_interpreter(program, environ=os.environ)
    assert caught.value.log == "unknown option\n"


async def test_an_old_python_is_refused(tmp_path: Path) -> None:
    """A Python older than the worker needs is refused, with the version that would do."""
    program = script(tmp_path / "python", f"echo '{answer(version='3.9.18')}'")
    with pytest.raises(PythonUnsuitable, match=r"Python 3\.9\.18; environments need 3\.11"):
        await find_interpreter(program, environ=os.environ)


async def test_another_implementation_is_refused(tmp_path: Path) -> None:
    """PyTorch has wheels for CPython alone, so no other is taken."""
    program = script(tmp_path / "pypy", f"echo '{answer(implementation='pypy')}'")
    with pytest.raises(PythonUnsuitable, match="pypy"):
        await find_interpreter(program, environ=os.environ)
