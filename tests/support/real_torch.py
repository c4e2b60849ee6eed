"""An environment with a real torch, where pip's own configuration can find a small one."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def torch_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with torch (a +cpu wheel), Pillow and numpy.

    Skips where pip's find-links have no such torch for this Python: every other torch takes gigabytes.
    """
    version = small_torch()
    if version is None:
        pytest.skip("pip's find-links have no torch +cpu wheel for this Python")
    return _environment(tmp_path_factory.getbasetemp() / "real-torch", version)


@functools.cache
def small_torch() -> str | None:
    """The version that pip finds in find-links alone, None where it finds none for the processor."""
    command = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--no-index", "torch"]
    said = subprocess.run(
        [sys.executable, "-m", "pip", *command], check=False, capture_output=True, text=True, env=_environ()
    )
    found = re.search(r"Would install torch-(\S+\+cpu)", said.stdout)
    return None if found is None else found[1]


@functools.cache
def _environment(folder: Path, version: str) -> Path:
    """Made once a run, also where several modules ask for it."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, env=_environ())
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-compile", f"torch=={version}", "Pillow", "numpy"],
        check=True,
        capture_output=True,
        env=_environ(),
    )
    return python


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
