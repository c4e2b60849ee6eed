"""Where programs are found, and where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moondream_station.core.processes.child_process import resolve_program


def program(folder: Path, name: str = "tool", mode: int = 0o755) -> Path:
    """An executable file."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_the_first_folder_of_path_wins(tmp_path: Path) -> None:
    """PATH is searched in its order; what is not executable, or a folder, is passed over."""
    program(tmp_path / "a", mode=0o644)
    (tmp_path / "b" / "tool").mkdir(parents=True)
    wanted = program(tmp_path / "c")
    program(tmp_path / "d")
    path = os.pathsep.join(str(tmp_path / folder) for folder in "abcd")
    assert resolve_program("tool", {"PATH": path}) == wanted


@pytest.mark.parametrize("path", ["", ".", "bin", os.pathsep, f"bin{os.pathsep}", f"{os.pathsep}."])
def test_the_current_folder_is_never_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A program that lies where the station happens to stand is not run by it."""
    program(tmp_path)
    program(tmp_path / "bin")
    monkeypatch.chdir(tmp_path)
    assert resolve_program("tool", {"PATH": path}) is None


@pytest.mark.parametrize("name", ["./tool", "bin/tool", "../tool", ".", "..", ""])
def test_a_relative_path_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Only a bare name is searched for, and only an absolute path is taken as it is."""
    program(tmp_path)
    program(tmp_path / "bin")
    monkeypatch.chdir(tmp_path)
    assert resolve_program(name, {"PATH": str(tmp_path)}) is None


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """A link is not followed: a virtual environment's Python is one, and means something by it."""
    link = tmp_path / "link"
    link.symlink_to(program(tmp_path))
    assert resolve_program(str(link), {}) == link
    assert resolve_program(str(tmp_path / "absent"), {}) is None
    assert resolve_program(str(program(tmp_path, "plain", 0o644)), {}) is None


def test_without_path_the_systems_own_folders_are_searched() -> None:
    """A child without PATH finds the shell where the system keeps it."""
    found = resolve_program("sh", {})
    assert found is not None
    assert found.is_absolute()
