"""A backend's code, ready to be loaded, and its requirements with what its manifest allows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moondream_station.core.backends.manifest import BackendInfo
from moondream_station.core.builds.requirements import (
    NOTHING,
    Allowances,
    Requirements,
    decode_requirements,
    parse_requirements,
)
from moondream_station.core.facts.errors import BackendUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendCode:
    """A backend's folder, which nobody changes while it is used, and what the manifest says about it."""

    id: str
    version: str
    folder: Path
    entry_module: str
    functions: tuple[str, ...]
    """What may be called over HTTP."""
    requirements_text: str
    """The content of its `requirements.txt`, empty where it has none."""
    digest: str
    """sha256 over the names and contents of its files, 64 hex digits."""
    place: str = ""
    """The folder below the home's `backends`, as `commit.json` names it; empty outside of the home."""


def requirements_of(code: BackendCode, info: BackendInfo | None) -> Requirements:
    """The requirements of a backend's code; without `info` nothing is allowed beside names and versions.

    Raises:
        RequirementsUnsafe: A line asks for what is not allowed.
        BackendUnavailable: A file that the manifest allows can't be read.
    """
    return read_requirements(code.requirements_text, info, folder=code.folder, backend=code.id)


def read_requirements(text: str, info: BackendInfo | None, *, folder: Path, backend: str) -> Requirements:
    """The requirements in a backend's requirements.txt."""
    allowed = _allowances(info, folder, backend) if info is not None else NOTHING
    return parse_requirements(text.splitlines(), origin=f"requirements.txt of {backend}", allowed=allowed)


def _allowances(info: BackendInfo, folder: Path, backend: str) -> Allowances:
    allow = info.allow
    files = {name: _content(folder / name, backend) for name in allow.files}
    return Allowances(builds=frozenset(allow.builds), urls=frozenset(allow.urls), files=files)


def _content(path: Path, backend: str) -> str:
    """Links inside a backend's folder lead nowhere else: what is taken of it has none."""
    try:
        return decode_requirements(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BackendUnavailable(
            f"The backend {backend} has no readable {path.name}, which the manifest allows.",
            hint="Correct `allow.files` in the manifest.",
        ) from error
