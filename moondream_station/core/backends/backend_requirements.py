"""A backend's requirements, read with what its manifest allows them."""

from __future__ import annotations

from pathlib import Path

from moondream_station.core.backends.backend_code import BackendCode
from moondream_station.core.backends.manifest import BackendInfo
from moondream_station.core.builds.requirements import NOTHING, Allowances, Requirements, parse_requirements
from moondream_station.core.facts.errors import BackendUnavailable


def requirements_of(code: BackendCode, info: BackendInfo | None) -> Requirements:
    """The requirements of a backend's code.

    Args:
        code: The code.
        info: What the manifest says about it; None where it no longer has it, and so allows nothing.

    Raises:
        RequirementsUnsafe: A line asks for what is not allowed.
        BackendUnavailable: A file that the manifest allows can't be read.
    """
    return read_requirements(code.requirements_text, info, folder=code.folder, backend=code.id)


def read_requirements(text: str, info: BackendInfo | None, *, folder: Path, backend: str) -> Requirements:
    """The requirements in a backend's requirements.txt.

    Args:
        text: Its content.
        info: As for `requirements_of`.
        folder: Where the backend's files are.
        backend: The backend's id.

    Raises:
        RequirementsUnsafe: A line asks for what is not allowed.
        BackendUnavailable: A file that the manifest allows can't be read.
    """
    allowed = _allowances(info, folder, backend) if info is not None else NOTHING
    return parse_requirements(text.splitlines(), origin=f"requirements.txt of {backend}", allowed=allowed)


def _allowances(info: BackendInfo, folder: Path, backend: str) -> Allowances:
    allow = info.allow
    files = {name: _content(folder / name, backend) for name in allow.files}
    return Allowances(builds=frozenset(allow.builds), urls=frozenset(allow.urls), files=files)


def _content(path: Path, backend: str) -> str:
    """Links inside a backend's folder lead nowhere else: what is taken of it has none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BackendUnavailable(
            f"The backend {backend} has no {path.name} that can be read, which the manifest allows.",
            hint="Correct `allow.files` in the manifest.",
        ) from error
