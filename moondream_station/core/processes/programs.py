"""Where a program is, looked up as safely as an installer must."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def resolve_program(name: str, environ: Mapping[str, str]) -> Path | None:
    """Find a program as a shell would, but never in the current folder.

    Relative and empty entries of PATH are passed over: what they name depends on where the station happens to
    stand. Links are kept, because a virtual environment's Python is one. On Windows only .exe and .com are
    found: the arguments of a batch file can't be quoted safely.

    Args:
        name: A bare name, or an absolute path. Any other path is not found.
        environ: The variables that hold PATH.

    Returns:
        The absolute path of an executable file, or None.
    """
    path = Path(name)
    if path.is_absolute():
        return path if _is_executable(path) else None
    if not name or path.name != name:
        return None
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        if os.path.isabs(folder):  # noqa: PTH117  an empty entry is Path("."), and this says so plainly
            for candidate in _spellings(Path(folder) / name):
                if _is_executable(candidate):
                    return candidate
    return None


def _spellings(path: Path) -> list[Path]:
    if sys.platform == "win32" and path.suffix.lower() not in {".exe", ".com"}:
        return [path.with_name(path.name + suffix) for suffix in (".com", ".exe")]
    return [path]


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
