"""The exact wheels of an environment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath

_NAME_BYTES = 200
"""File systems take 255 bytes."""


def stored_name(sha256: str, filename: str) -> str:
    """The name under which a file is kept; it fits any file system, also with an ending after it."""
    end = PurePosixPath(filename).name.encode()[-_NAME_BYTES:].decode(errors="ignore")
    return f"{sha256[:16]}-{end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file to fetch, by a URL without credentials; hash (lower case) and size are None where unknown."""

    filename: str
    url: str
    sha256: str | None
    size_bytes: int | None

    @property
    def partial_name(self) -> str:
        """The name of what is here of it: one for each content where that is known, else for each place."""
        key = self.sha256 or hashlib.sha256(self.url.encode()).hexdigest()
        return f"{stored_name(key, self.filename)}.partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedFile(RemoteFile):
    """One wheel, or one archive of sources that a wheel is made of before it is installed.

    The name is normalized ("torch"), the version has its local part ("2.13.0+cpu"). `index` is the one that
    named it, None where the lock does not say.
    """

    name: str
    version: str
    index: str | None
    sha256: str

    @property
    def stored_name(self) -> str:
        """The name under which a finished download is kept: one for each content."""
        return stored_name(self.sha256, self.filename)


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The wheels of an environment, one a package, sorted by name.

    `requires_python` is a specifier ("==3.11.*"); `tool_output` what the resolver said, for the journal.
    """

    files: tuple[LockedFile, ...]
    requires_python: str
    tool_output: str = ""

    @cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 over names, versions, file names and hashes: not over URLs, indexes or times."""
        rows = sorted([file.name, file.version, file.filename, file.sha256] for file in self.files)
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def packages(self) -> Mapping[str, str]:
        """Version by normalized name."""
        return {file.name: file.version for file in self.files}

    @property
    def sources(self) -> Lock:
        """The archives of sources alone, that wheels must be built from."""
        return replace(self, files=tuple(file for file in self.files if not file.filename.endswith(".whl")))

    @property
    def torch(self) -> str | None:
        """The version of torch with its local part, None for a lock without torch."""
        return self.packages.get("torch")

    @property
    def total_bytes(self) -> int | None:
        """Size of all wheels, None while one is unknown."""
        return total_of(file.size_bytes for file in self.files)


def total_of(sizes: Iterable[int | None]) -> int | None:
    """The sum of sizes, None while one is unknown."""
    known = list(sizes)
    return None if None in known else sum(size or 0 for size in known)
