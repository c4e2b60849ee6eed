"""The interpreter of a process, and what speaks against installing into it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from moondream_station.core.facts.errors import PythonUnsuitable
from moondream_station.core.in_place.running_python import RunningPython

MARKER = "[externally-managed]\nError=Use apt install python3-xyz.\n 100% of it.\n"


@pytest.fixture
def python(tmp_path: Path) -> RunningPython:
    """An interpreter outside any virtual environment, with folders of the test's own."""
    stdlib, site_packages = tmp_path / "lib", tmp_path / "lib" / "site-packages"
    site_packages.mkdir(parents=True)
    return RunningPython(
        executable=tmp_path / "bin" / "python",
        prefix=tmp_path,
        is_virtual=False,
        stdlib=stdlib,
        site_packages=site_packages,
        paths=(str(site_packages),),
        imported=frozenset({"torch", "numpy"}),
    )


def test_this_process_is_told_as_it_is() -> None:
    """Paths that stand for the current folder are left out; what is imported is named."""
    here = RunningPython.here()
    assert str(here.executable) == sys.executable
    assert here.is_virtual == (sys.prefix != sys.base_prefix)
    assert "" not in here.paths
    assert {"sys", "pytest"} <= here.imported


def test_an_interpreter_without_a_marker_may_be_changed(python: RunningPython) -> None:
    """Whether its folder of packages is there yet or not."""
    python.check_changeable()
    python.site_packages.rmdir()
    python.check_changeable()


def test_an_externally_managed_interpreter_is_refused_with_the_remedy(python: RunningPython) -> None:
    """PEP 668; the packagers' own words go along."""
    (python.stdlib / "EXTERNALLY-MANAGED").write_text(MARKER, encoding="utf-8")
    with pytest.raises(PythonUnsuitable, match="package manager owns this Python") as refused:
        python.check_changeable()
    assert "python3 -m venv" in (refused.value.hint or "")
    assert refused.value.log == "Use apt install python3-xyz.\n100% of it."


@pytest.mark.parametrize("text", ["", "no section\n", "[externally-managed]\nOther=1\n"])
def test_a_marker_without_words_refuses_too(python: RunningPython, text: str) -> None:
    """Its being there is what counts."""
    (python.stdlib / "EXTERNALLY-MANAGED").write_text(text, encoding="utf-8")
    with pytest.raises(PythonUnsuitable) as refused:
        python.check_changeable()
    assert refused.value.log is None


def test_a_virtual_environment_of_a_managed_interpreter_may_be_changed(python: RunningPython) -> None:
    """The marker is about the interpreter's own packages."""
    (python.stdlib / "EXTERNALLY-MANAGED").write_text(MARKER, encoding="utf-8")
    replace(python, is_virtual=True).check_changeable()


def test_a_moved_interpreter_is_refused(python: RunningPython) -> None:
    """Whoever installs does not get PYTHONHOME, and would fill another one."""
    with pytest.raises(PythonUnsuitable, match="PYTHONHOME"):
        replace(python, home="/elsewhere").check_changeable()


def test_packages_that_cannot_be_written_are_told_before_anything_is_fetched(
    python: RunningPython, tmp_path: Path
) -> None:
    """Here a file is in the way of the folder."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PythonUnsuitable, match="can't be written") as refused:
        replace(python, site_packages=tmp_path / "file" / "site-packages").check_changeable()
    assert "python3 -m venv" in (refused.value.hint or "")


def test_what_is_imported_is_not_replaced(python: RunningPython) -> None:
    """The process would go on with half of each; the remedy is to restart."""
    python.check_replaceable(["torchvision", "pytorch-triton"])
    with pytest.raises(PythonUnsuitable, match="torch must be replaced") as refused:
        python.check_replaceable(["torchvision", "torch"])
    assert "Restart Python" in (refused.value.hint or "")
