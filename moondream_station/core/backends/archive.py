"""Takes a backend's files out of an archive or a folder, only what is safe, within limits.

Taken are folders and plain files with normal paths, as rustup does it: no links, no devices, nothing
absolute, no `..`, nothing twice (also not in another spelling, which is one file on macOS and Windows).
Everything is synchronous: callers run it in a thread.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from moondream_station.core.facts.errors import ArchiveUnsafe

_CHUNK_BYTES: Final = 1 << 20
_LONGEST_PART_BYTES: Final = 255
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(1, 10))}
)
_LEFT_OUT = frozenset({"__pycache__", ".git", ".hg", ".svn"})
"""Folders that are no part of a backend's code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a backend may be. Real ones are a few small files; there is room for a tokenizer's.

    Args:
        members: Files and folders.
        file_bytes: One file, unpacked.
        total_bytes: All files, unpacked.
        ratio: How many times its archive's size all files may be, beyond the first `free_bytes`.
        free_bytes: What may be unpacked whatever the archive's size.
        depth: Folders inside each other.
    """

    members: int = 10_000
    file_bytes: int = 256 << 20
    total_bytes: int = 1 << 30
    ratio: int = 200
    free_bytes: int = 16 << 20
    depth: int = 32


DEFAULT_LIMITS: Final = Limits()


class Unpacking:
    """Writes members below a fresh folder, and refuses what must not be written."""

    def __init__(self, folder: Path, *, origin: str, limits: Limits, packed_bytes: int | None) -> None:
        self._folder = folder
        self._origin = origin
        self._limits = limits
        self._room_bytes = limits.total_bytes
        if packed_bytes is not None:
            self._room_bytes = min(self._room_bytes, max(limits.free_bytes, packed_bytes * limits.ratio))
        self._members = 0
        self._spellings: dict[str, str] = {}
        self._files: set[str] = set()

    def add_folder(self, name: str) -> None:
        """Make a folder."""
        parts = self._parts(name)
        self._count(name)
        if parts:
            self._enter(name, parts)
            self._folder.joinpath(*parts).mkdir(parents=True, exist_ok=True)

    def add_file(self, name: str, content: IO[bytes], *, size_bytes: int, executable: bool) -> None:
        """Write a file."""
        parts = self._parts(name)
        self._count(name)
        if not parts:
            raise self.unsafe(name, "is a file without a name")
        self._enter(name, parts[:-1])
        key = _key(parts)
        if key in self._spellings:
            raise self.unsafe(name, "is there twice, or differs from another only in spelling")
        self._spellings[key] = "/".join(parts)
        self._files.add(key)
        path = self._folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            self._copy(name, content, file, size_bytes)
        path.chmod(0o755 if executable else 0o644)

    def unsafe(self, name: str, why: str) -> ArchiveUnsafe:
        """The error for a member."""
        return ArchiveUnsafe(
            f"{self._origin}: {_printable(name)} {why}. Nothing of it was kept.",
            hint="A backend may hold folders and plain files only; ask whoever made it for another archive.",
        )

    def _copy(self, name: str, content: IO[bytes], file: IO[bytes], size_bytes: int) -> None:
        if size_bytes > self._limits.file_bytes:
            raise self.unsafe(name, f"has {size_bytes} bytes; at most {self._limits.file_bytes} are taken")
        written = 0
        while chunk := content.read(_CHUNK_BYTES):
            written += len(chunk)
            self._room_bytes -= len(chunk)
            if written > size_bytes:
                raise self.unsafe(name, f"has more than the {size_bytes} bytes that are announced")
            if self._room_bytes < 0:
                raise self.unsafe(name, "is too much: together the files are larger than a backend may be")
            file.write(chunk)
        if written < size_bytes:
            raise self.unsafe(name, f"has {written} bytes, {size_bytes} are announced")

    def _count(self, name: str) -> None:
        self._members += 1
        if self._members > self._limits.members:
            raise self.unsafe(
                name, f"is one too many: at most {self._limits.members} files and folders are taken"
            )

    def _enter(self, name: str, parts: tuple[str, ...]) -> None:
        """Note the folders on a member's way, each in one spelling and none a file."""
        for end in range(1, len(parts) + 1):
            above = parts[:end]
            key, spelled = _key(above), "/".join(above)
            if key in self._files or self._spellings.setdefault(key, spelled) != spelled:
                raise self.unsafe(name, "is there twice, or differs from another only in spelling")

    def _parts(self, name: str) -> tuple[str, ...]:
        if name.startswith("/"):
            raise self.unsafe(name, "is an absolute path")
        parts = tuple(part for part in name.split("/") if part not in {"", "."})
        if len(parts) > self._limits.depth:
            raise self.unsafe(name, f"lies deeper than {self._limits.depth} folders")
        for part in parts:
            if (why := _strange(part)) is not None:
                raise self.unsafe(name, why)
        return parts


def copy_folder(source: Path, unpacking: Unpacking) -> None:
    """Copy a backend's folder. Links inside it are followed as long as they stay inside."""
    root = source.resolve()
    for path, name in _walk(source, ""):
        if not path.resolve().is_relative_to(root):
            raise unpacking.unsafe(name, "is a link out of the folder")
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            unpacking.add_folder(name)
        elif stat.S_ISREG(mode):
            with path.open("rb") as content:
                size = os.fstat(content.fileno()).st_size
                unpacking.add_file(name, content, size_bytes=size, executable=bool(mode & stat.S_IXUSR))
        else:
            raise unpacking.unsafe(name, "is neither a folder nor a plain file")


def _walk(folder: Path, above: str) -> Iterator[tuple[Path, str]]:
    """Everything below a folder in the order of its names, each folder before what is in it."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name in _LEFT_OUT:
            continue
        name = f"{above}{entry.name}"
        yield Path(entry.path), name
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{name}/")


def _key(parts: tuple[str, ...]) -> str:
    return unicodedata.normalize("NFC", "/".join(parts)).casefold()


def _strange(part: str) -> str | None:
    """What is wrong with one part of a path, None where it is a normal name."""
    if part == "..":
        return "leads out of the archive"
    if any(
        character in '\\:*?"<>|' or ord(character) < ord(" ") or character == "\x7f" for character in part
    ):
        return "has a character in its name that not every system allows"
    if part != part.rstrip(". ") or part.partition(".")[0].casefold() in _RESERVED:
        return "has a name that not every system allows"
    try:
        encoded = part.encode()
    except UnicodeEncodeError:
        return "has a name that is no text"
    return "has too long a name" if len(encoded) > _LONGEST_PART_BYTES else None


def _printable(name: str) -> str:
    return ascii(name[:200])
