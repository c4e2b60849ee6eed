"""Reading and writing locks in their standard form, PEP 751's `pylock.toml`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

from packaging.markers import Environment
from packaging.pylock import (
    Package,
    PackageArchive,
    PackageSdist,
    PackageWheel,
    Pylock,
    PylockSelectError,
    PylockValidationError,
)
from packaging.tags import Tag

from moondream_station.core.builds.requirements import filename_of
from moondream_station.core.facts.errors import ResolutionConflict
from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.fetch.lock import Lock, LockedFile
from moondream_station.core.home.storage import flaw_of

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEMES = ("https", "http", "file")


def read_pylock(
    text: str,
    *,
    markers: Mapping[str, str],
    tags: Sequence[Tag],
    builds: Collection[str] = (),
    tool_output: str = "",
) -> Lock:
    """The wheels that a lock gives one interpreter; sources will do for the packages of `builds`."""
    try:
        data = tomllib.loads(text)
        pylock = Pylock.from_dict(data)
        chosen = list(pylock.select(environment=cast("Environment", dict(markers)), tags=tags))
        files = sorted(
            (_locked_file(package, file, builds=builds) for package, file in chosen),
            key=lambda file: file.name,
        )
    except PylockSelectError as error:
        machine = f"{markers['platform_system']} {markers['platform_machine']}"
        raise ResolutionConflict(
            f"No usable wheel for Python {markers['python_full_version']} on {machine}: {_first_line(error)}",
            hint="Another Python (--python) or an older version of the package may have one.",
            log=tool_output,
        ) from error
    except (ValueError, PylockValidationError, RecursionError) as error:
        raise ResolutionConflict(f"The lock can't be read: {_first_line(error)}", log=tool_output) from error
    return Lock(
        files=tuple(files), requires_python=str(pylock.requires_python or ""), tool_output=tool_output
    )


def read_stored_pylock(text: str) -> Lock:
    """A lock that `write_pylock` wrote with URLs: one wheel a package, chosen when it was made."""
    try:
        pylock = Pylock.from_dict(tomllib.loads(text))
        files = tuple(_locked_file(package, *(package.wheels or ())) for package in pylock.packages)
    except (ValueError, PylockValidationError, TypeError, RecursionError) as error:
        raise ResolutionConflict(f"The lock can't be read: {_first_line(error)}") from error
    return Lock(files=files, requires_python=str(pylock.requires_python or ""))


def write_pylock(lock: Lock, *, sources: Mapping[str, Path | str] | None = None) -> str:
    """A lock as TOML; `sources` stand in for its own places: wheels on disk, or URLs, by file name."""
    lines = ['lock-version = "1.0"', 'created-by = "moondream-station"']
    if lock.requires_python:
        lines.append(f"requires-python = {toml(lock.requires_python)}")
    if not lock.files:
        lines.append("packages = []")  # the key is required
    for file in lock.files:
        lines += ["", "[[packages]]", f"name = {toml(file.name)}", f"version = {toml(file.version)}"]
        if file.index is not None and sources is None:
            lines.append(f"index = {toml(file.index)}")
        source = file.url if sources is None else sources[file.filename]
        kind = "path" if isinstance(source, Path) else "url"
        where = f"{kind} = {toml(str(source))}"
        size = f", size = {file.size_bytes}" if file.size_bytes is not None else ""
        hashes = f"{{ sha256 = {toml(file.sha256)} }}"
        name = toml(file.filename)
        lines.append(f"wheels = [{{ name = {name}, {where}{size}, hashes = {hashes} }}]")
    return "\n".join([*lines, ""])


def _locked_file(package: Package, chosen: object, *, builds: Collection[str] = ()) -> LockedFile:
    if not isinstance(chosen, PackageWheel | PackageSdist | PackageArchive):
        raise PylockValidationError(f"{package.name} has no wheel")
    url = chosen.url or (Path(chosen.path).absolute().as_uri() if chosen.path else "")
    filename = filename_of(url) if isinstance(chosen, PackageArchive) else chosen.filename
    if not filename.endswith(".whl") and package.name not in builds:
        raise PylockValidationError(f"{package.name} has no wheel")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise PylockValidationError(f"{package.name} has no usable URL") from error
    digest = chosen.hashes.get("sha256", "").lower()
    if "/" in filename or "\\" in filename:
        raise PylockValidationError(f"{filename!r} is not a file name")
    if parts.scheme not in _SCHEMES or ".." in unquote(parts.path).split("/"):
        raise PylockValidationError(f"{package.name} has no usable URL")
    if not _SHA256.fullmatch(digest):
        raise PylockValidationError(f"{package.name} has no sha256")
    if chosen.size is not None and chosen.size <= 0:
        raise PylockValidationError(f"{package.name} has the size {chosen.size}")
    version = str(package.version) if package.version is not None else unquote(filename).split("-")[1]
    return LockedFile(
        name=package.name,
        version=version,
        filename=filename,
        url=without_credentials(url),
        index=without_credentials(package.index) if package.index is not None else None,
        sha256=digest,
        size_bytes=chosen.size,
    )


def _first_line(error: Exception) -> str:
    return flaw_of(error).partition("\n")[0]


def toml(value: str | Iterable[str]) -> str:
    """A string, or an array of strings. JSON's form is TOML's too, but for DEL, which TOML wants escaped."""
    items = value if isinstance(value, str) else list(value)
    return json.dumps(items, ensure_ascii=False).replace("\x7f", "\\u007f")
