"""The exact wheels of an environment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedFile:
    """One wheel, or one archive of sources that a wheel is made of before it is installed.

    Args:
        name: The package's normalized name ("torch").
        version: Its version, with a local part ("2.13.0+cpu").
        filename: The wheel's file name.
        url: Where it is: `https://`, `http://` or `file://`, without credentials.
        index: The index that named it, None where the lock does not say.
        sha256: 64 hexadecimal digits, in lower case.
        size_bytes: Its size, None where nobody said.
    """

    name: str
    version: str
    filename: str
    url: str
    index: str | None
    sha256: str
    size_bytes: int | None

    @property
    def is_wheel(self) -> bool:
        """Whether it can be installed as it is."""
        return self.filename.endswith(".whl")

    @property
    def stored_name(self) -> str:
        """The name under which a finished download is kept: one for each content."""
        return f"{self.sha256[:16]}-{PurePosixPath(self.filename).name}"


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The wheels of an environment, sorted by name.

    Args:
        files: One wheel a package.
        requires_python: The Pythons it was made for, as a specifier ("==3.11.*").
        tool_output: What the resolver said, for the journal.
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
        return replace(self, files=tuple(file for file in self.files if not file.is_wheel))

    @property
    def torch(self) -> str | None:
        """The version of torch with its local part, None for a lock without torch."""
        return self.packages.get("torch")

    @property
    def total_bytes(self) -> int | None:
        """Size of all wheels, None while one is unknown."""
        sizes = [file.size_bytes for file in self.files]
        return None if any(size is None for size in sizes) else sum(size or 0 for size in sizes)
