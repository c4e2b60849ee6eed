"""Takes a backend's files out of an archive or a folder, only what is safe, within limits.

Taken are folders and plain files with normal paths, as rustup does it: no links, no devices, nothing
absolute, no `..`, nothing twice (also not in another spelling, which is one file on macOS and Windows).
tarfile's data filter does not do: it keeps links, takes names that Windows can't have, and knows no limits.
Everything blocks: callers run it in a thread.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final, TypeAlias, cast

from moondream_station.core.facts.errors import ArchiveUnsafe, BackendUnavailable

_CHUNK_BYTES: Final = 1 << 20
_LONGEST_PART_BYTES: Final = 255
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(1, 10))}
)
_LEFT_OUT = frozenset({"__pycache__", ".git", ".hg", ".svn"})
"""Folders that are not part of a backend's code."""


_HEADER_BYTES: Final = 4 << 20
"""The largest piece of a tar that tarfile may ask for at once: it reads extended headers whole."""

_Opener: TypeAlias = Callable[[Path], io.BufferedIOBase]
_COMPRESSIONS: Final[tuple[tuple[bytes, _Opener], ...]] = (
    (b"\x1f\x8b", gzip.GzipFile),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
)
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, ValueError, OverflowError, RuntimeError, struct.error),
)
"""What the standard library raises over damaged archives; the last line by fuzzing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a backend may be. Real ones are a few small files; there is room for a tokenizer's."""

    members: int = 10_000
    file_bytes: int = 256 << 20
    """One file, unpacked."""
    total_bytes: int = 1 << 30
    ratio: int = 200
    """How many times its archive's size all files may be, beyond the first `free_bytes`."""
    free_bytes: int = 16 << 20
    depth: int = 32
    """Folders inside each other."""


DEFAULT_LIMITS: Final = Limits()


class _Unpacking:
    """Writes members below a fresh folder; a folder that is copied has no packed size, and so no ratio."""

    def __init__(self, folder: Path, origin: str, limits: Limits, packed_bytes: int | None = None) -> None:
        self._folder = folder
        self._origin = origin
        self._limits = limits
        self._room_bytes = limits.total_bytes
        if packed_bytes is not None:
            self._room_bytes = min(self._room_bytes, max(limits.free_bytes, packed_bytes * limits.ratio))
        self._members = 0
        self._spellings: dict[str, str] = {}
        self._files: set[str] = set()

    def add(self, name: str, mode: int, size_bytes: int, read: Callable[[], IO[bytes]]) -> None:
        """Make a folder, or write a file: which one it is, its mode says, as `os.stat` gives it."""
        is_folder = stat.S_ISDIR(mode)
        if not is_folder and not stat.S_ISREG(mode):
            raise self.unsafe(name, "is neither a folder nor a plain file")
        parts = self._parts(name)
        path = self._folder.joinpath(*parts)
        if is_folder:
            self._enter(name, parts)
            path.mkdir(parents=True, exist_ok=True)
            return
        if not parts:
            raise self.unsafe(name, "is a file without a name")
        self._enter(name, parts[:-1])
        key = _key(parts)
        if key in self._spellings:
            raise self.unsafe(name, "is a duplicate, or differs from another only in spelling")
        self._spellings[key] = "/".join(parts)
        self._files.add(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with read() as content, path.open("xb") as file:
            self._copy(name, content, file, size_bytes)
        path.chmod(0o755 if mode & stat.S_IXUSR else 0o644)

    def unsafe(self, name: str, why: str) -> ArchiveUnsafe:
        """The error for a member."""
        return ArchiveUnsafe(
            f"{self._origin}: {name[:200]!a} {why}. Nothing was unpacked.",
            hint="A backend may hold folders and plain files only; ask its author for another archive.",
        )

    def _copy(self, name: str, content: IO[bytes], file: IO[bytes], size_bytes: int) -> None:
        if size_bytes > self._limits.file_bytes:
            raise self.unsafe(name, f"has {size_bytes} bytes; the limit is {self._limits.file_bytes}")
        written = 0
        while chunk := content.read(_CHUNK_BYTES):
            written += len(chunk)
            self._room_bytes -= len(chunk)
            if written > size_bytes:
                raise self.unsafe(name, f"has more than its announced {size_bytes} bytes")
            if self._room_bytes < 0:
                raise self.unsafe(name, "exceeds the limit for all files of a backend together")
            file.write(chunk)
        if written < size_bytes:
            raise self.unsafe(name, f"has {written} of its announced {size_bytes} bytes")

    def _enter(self, name: str, parts: tuple[str, ...]) -> None:
        """Note the folders on a member's way, each in one spelling and none a file."""
        for end in range(1, len(parts) + 1):
            above = parts[:end]
            key, spelled = _key(above), "/".join(above)
            if key in self._files or self._spellings.setdefault(key, spelled) != spelled:
                raise self.unsafe(name, "is a duplicate, or differs from another only in spelling")

    def _parts(self, name: str) -> tuple[str, ...]:
        if name.startswith("/"):
            raise self.unsafe(name, "is an absolute path")
        parts = tuple(part for part in name.split("/") if part not in {"", "."})
        if len(parts) > self._limits.depth:
            raise self.unsafe(name, f"lies deeper than {self._limits.depth} folders")
        for part in parts:
            if (why := _strange(part)) is not None:
                raise self.unsafe(name, why)
        self._members += 1
        if self._members > self._limits.members:
            raise self.unsafe(name, f"exceeds the limit of {self._limits.members} files and folders")
        return parts


def unpack_archive(archive: Path, into: Path, *, origin: str, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack a tar (plain, gzip, bzip2, xz) or a zip; which one it is, its first bytes say.

    `ArchiveUnsafe` for what must not be unpacked, `BackendUnavailable` for what is damaged or no archive.
    """
    unpacking = _Unpacking(into, origin, limits, archive.stat().st_size)
    with archive.open("rb") as file:
        magic = file.read(8)
    try:
        if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            _unpack_zip(archive, unpacking)
        else:
            _unpack_tar(archive, magic, unpacking, into.with_name(f"{into.name}.tar"), limits)
    except (*_DAMAGED, OSError) as error:
        # bz2 gives no number for broken data, and zipfile seeks where nothing is.
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
            raise
        raise BackendUnavailable(
            f"{origin} can't be unpacked: {error}.", hint="Use an undamaged tar (also .gz, .bz2, .xz) or zip."
        ) from error


def _unpack_tar(archive: Path, magic: bytes, unpacking: _Unpacking, plain: Path, limits: Limits) -> None:
    """Write a compressed tar out first: what is between members counts too, and headers can be bounded."""
    opener = next((opener for start, opener in _COMPRESSIONS if magic.startswith(start)), None)
    if opener is None:
        _unpack_plain_tar(archive, unpacking)
        return
    room = min(max(limits.free_bytes, archive.stat().st_size * limits.ratio), limits.total_bytes)
    room += limits.members * 2 * tarfile.BLOCKSIZE
    try:
        with opener(archive) as source, plain.open("xb") as target:
            while chunk := source.read(_CHUNK_BYTES):
                room -= len(chunk)
                if room < 0:
                    raise unpacking.unsafe(archive.name, "unpacks to more than the limit for a backend")
                target.write(chunk)
        _unpack_plain_tar(plain, unpacking)
    finally:
        plain.unlink(missing_ok=True)


class _BoundedReads(io.FileIO):
    """A file that nobody may ask for a large piece of."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size) or b""


def _unpack_plain_tar(archive: Path, unpacking: _Unpacking) -> None:
    with _BoundedReads(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            is_file = member.type in {tarfile.REGTYPE, tarfile.AREGTYPE} and not member.issparse()
            kind = stat.S_IFDIR if member.isdir() else stat.S_IFREG if is_file else 0
            read = partial(tar.extractfile, member)  # gives None for what is no file alone
            mode = kind | stat.S_IMODE(member.mode)
            unpacking.add(member.name, mode, member.size, cast("Callable[[], IO[bytes]]", read))


def _unpack_zip(archive: Path, unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if member.flag_bits & 0x1:
                raise unpacking.unsafe(member.filename, "is encrypted")
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) in {0, stat.S_IFREG, stat.S_IFDIR}:  # the name says which of them it is
                mode = (stat.S_IFDIR if member.is_dir() else stat.S_IFREG) | stat.S_IMODE(mode)
            unpacking.add(member.filename, mode, member.file_size, partial(opened.open, member))


def copy_folder(source: Path, into: Path, *, origin: str, limits: Limits = DEFAULT_LIMITS) -> None:
    """Copy a backend's folder. Links inside it are followed as long as they stay inside."""
    unpacking = _Unpacking(into, origin, limits)
    root = source.resolve()
    for path, name in _walk(source, ""):
        if not path.resolve().is_relative_to(root):
            raise unpacking.unsafe(name, "is a link that leads out of the folder")
        status = path.stat()
        unpacking.add(name, status.st_mode, status.st_size, partial(io.FileIO, path))


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
    if re.search(r'[\\:*?"<>|\x00-\x1f\x7f]', part):
        return "has a character in its name that not every system allows"
    if part != part.rstrip(". ") or part.partition(".")[0].casefold() in _RESERVED:
        return "has a name that not every system allows"
    try:
        encoded = part.encode()
    except UnicodeEncodeError:
        return "has a name that is not valid text"
    return "has too long a name" if len(encoded) > _LONGEST_PART_BYTES else None
