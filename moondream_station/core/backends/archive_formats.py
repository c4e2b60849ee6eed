"""Reads tar and zip archives member by member. What may be written is decided by `archive.Unpacking`."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from moondream_station.core.backends.archive import DEFAULT_LIMITS, Limits, Unpacking
from moondream_station.core.facts.errors import BackendUnavailable

_CHUNK_BYTES: Final = 1 << 20
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
    opener = next((opener for start, opener in _COMPRESSIONS if magic.startswith(start)), None)
    if opener is None:
        _unpack_plain_tar(archive, unpacking)
        return
    try:
        _decompress(archive, opener, plain, unpacking, limits)
        _unpack_plain_tar(plain, unpacking)
    finally:
        plain.unlink(missing_ok=True)


def _decompress(archive: Path, opener: _Opener, plain: Path, unpacking: Unpacking, limits: Limits) -> None:
    """Write the tar out first: what is between its members counts too, and headers can be bounded."""
    most = max(limits.free_bytes, archive.stat().st_size * limits.ratio)
    room = min(most, limits.total_bytes) + limits.members * 2 * tarfile.BLOCKSIZE
    with opener(archive) as source, plain.open("xb") as target:
        while chunk := source.read(_CHUNK_BYTES):
            room -= len(chunk)
            if room < 0:
                raise unpacking.unsafe(archive.name, "unpacks to more than a backend may be")
            target.write(chunk)


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
                unpacking.add_file(
                    member.filename,
                    content,
                    size_bytes=member.file_size,
                    executable=bool(mode & stat.S_IXUSR),
                )


def _damaged(origin: str, why: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"{origin} can't be unpacked: {why}.",
        hint="A tar (also .gz, .bz2, .xz) or a zip is needed; this one is damaged, or something else.",
    )
