"""An environment with a real torch, where pip's own configuration can find a small one."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def torch_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with torch (a +cpu wheel), Pillow and numpy.

    Skips where pip's find-links have no such torch for this Python: every other torch takes gigabytes.
    """
    version = small_torch()
    if version is None:
        pytest.skip("pip's find-links have no torch +cpu wheel for this Python")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of the whole run: one for its processes, because it takes 20 s to make
    with FileLock(folder / "real-torch.lock"):
        return _environment(folder / "real-torch", version)


@functools.cache
def small_torch() -> str | None:
    """The version that pip finds in find-links alone, None where it finds none for the processor."""
    command = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--no-index", "torch"]
    said = subprocess.run(
        [sys.executable, "-m", "pip", *command], check=False, capture_output=True, text=True, env=_environ()
    )
    found = re.search(r"Would install torch-(\S+\+cpu)", said.stdout)
    return None if found is None else found[1]


def _environment(folder: Path, version: str) -> Path:
    """Made once a run, also where several modules ask for it."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    whole = folder / "whole"
    if whole.exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, env=_environ())
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-compile", f"torch=={version}", "Pillow", "numpy"],
        check=True,
        capture_output=True,
        env=_environ(),
    )
    whole.touch()
    return python


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
