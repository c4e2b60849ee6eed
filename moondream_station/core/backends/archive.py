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
from pathlib import Path
from typing import IO, Final, TypeAlias

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
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
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


class Unpacking:
    """Writes members below a fresh folder; a folder that is copied has no packed size, and so no ratio."""

    def __init__(
        self, folder: Path, *, origin: str, limits: Limits = DEFAULT_LIMITS, packed_bytes: int | None = None
    ) -> None:
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
        if parts:
            self._enter(name, parts)
            self._folder.joinpath(*parts).mkdir(parents=True, exist_ok=True)

    def add_file(self, name: str, content: IO[bytes], *, size_bytes: int, executable: bool) -> None:
        """Write a file."""
        parts = self._parts(name)
        if not parts:
            raise self.unsafe(name, "is a file without a name")
        self._enter(name, parts[:-1])
        key = _key(parts)
        if key in self._spellings:
            raise self.unsafe(name, "is a duplicate, or differs from another only in spelling")
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

    Raises:
        ArchiveUnsafe: It holds something that must not be unpacked.
        BackendUnavailable: It is damaged, or no archive.
        OSError: It can't be read, or its files can't be written.
    """
    unpacking = Unpacking(into, origin=origin, limits=limits, packed_bytes=archive.stat().st_size)
    with archive.open("rb") as file:
        magic = file.read(8)
    try:
        if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            _unpack_zip(archive, unpacking)
        else:
            _unpack_tar(archive, magic, unpacking, into.with_name(f"{into.name}.tar"), limits)
    except _DAMAGED as error:
        raise _damaged(origin, str(error)) from error
    except OSError as error:
        if error.errno in {None, errno.EINVAL}:  # bz2 says so of broken data, zipfile seeks where nothing is
            raise _damaged(origin, str(error)) from error
        raise


def _unpack_tar(archive: Path, magic: bytes, unpacking: Unpacking, plain: Path, limits: Limits) -> None:
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


def _unpack_plain_tar(archive: Path, unpacking: Unpacking) -> None:
    with _BoundedReads(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isdir():
                unpacking.add_folder(member.name)
            elif member.type in {tarfile.REGTYPE, tarfile.AREGTYPE} and not member.issparse():
                content = tar.extractfile(member)
                if content is None:
                    raise tarfile.ReadError(f"{member.name} has no content")
                executable = bool(member.mode & stat.S_IXUSR)
                unpacking.add_file(member.name, content, size_bytes=member.size, executable=executable)
            else:
                raise unpacking.unsafe(member.name, "is neither a folder nor a plain file")


def _unpack_zip(archive: Path, unpacking: Unpacking) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise unpacking.unsafe(member.filename, "is neither a folder nor a plain file")
            if member.flag_bits & 0x1:
                raise unpacking.unsafe(member.filename, "is encrypted")
            if member.is_dir():
                unpacking.add_folder(member.filename)
                continue
            with opened.open(member) as content:
                executable, size = bool(mode & stat.S_IXUSR), member.file_size
                unpacking.add_file(member.filename, content, size_bytes=size, executable=executable)


def _damaged(origin: str, why: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"{origin} can't be unpacked: {why}.",
        hint="Use an undamaged tar (also .gz, .bz2, .xz) or zip.",
    )


def copy_folder(source: Path, unpacking: Unpacking) -> None:
    """Copy a backend's folder. Links inside it are followed as long as they stay inside."""
    root = source.resolve()
    for path, name in _walk(source, ""):
        if not path.resolve().is_relative_to(root):
            raise unpacking.unsafe(name, "is a link that leads out of the folder")
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
    if re.search(r'[\\:*?"<>|\x00-\x1f\x7f]', part):
        return "has a character in its name that not every system allows"
    if part != part.rstrip(". ") or part.partition(".")[0].casefold() in _RESERVED:
        return "has a name that not every system allows"
    try:
        encoded = part.encode()
    except UnicodeEncodeError:
        return "has a name that is not valid text"
    return "has too long a name" if len(encoded) > _LONGEST_PART_BYTES else None
