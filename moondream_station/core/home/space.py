"""Whether what is to come fits, on each file system for itself."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from moondream_station.core.facts.errors import EnvironmentBroken, HomeUnusable, NoSpace
from moondream_station.core.home.layout import in_the_way

_RESERVE_BYTES = 64 << 20
_BLOCK_BYTES = 4096
_UNIT = 1000.0
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FEW_INODES = 100


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that will be written below a folder that exists."""

    folder: Path
    size_bytes: int


def check_space(needs: Iterable[Need]) -> None:
    """Make sure that each file system has room for what comes to it, and 64 MiB more."""
    by_device: dict[int, list[Need]] = {}
    for need in needs:
        by_device.setdefault(os.stat(need.folder).st_dev, []).append(need)  # noqa: PTH116  only the device
    for group in by_device.values():
        folder = group[0].folder
        needed = sum(need.size_bytes for need in group)
        free = shutil.disk_usage(folder).free
        if needed and needed + _RESERVE_BYTES > free:
            missing = needed + _RESERVE_BYTES - free
            raise NoSpace(
                f"Not enough space on the file system of {folder}: {in_words(needed)} needed and"
                f" {in_words(_RESERVE_BYTES)} (64 MiB) to stay free, {in_words(free)} free;"
                f" {in_words(missing)} more must be freed.",
                hint=no_space_hint(None),
            )


def no_space_hint(freeable_bytes: int | None) -> str:
    """What a user can do about a full disk."""
    if freeable_bytes is None:
        prune = "Free some space (`moondream-station prune` removes what nothing refers to)"
    elif freeable_bytes:
        prune = (
            f"`moondream-station prune` would free {in_words(freeable_bytes)}; or free some space elsewhere"
        )
    else:
        prune = "Free some space elsewhere (`moondream-station prune` would free nothing)"
    return (
        f"{prune}, or set MOONDREAM_STATION_HOME to a folder on a larger disk. Then run the command again:"
        " downloads resume."
    )


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Translate what the file system raises about that folder; what fails elsewhere passes."""
    try:
        yield
    except OSError as error:
        named = [Path(name) for name in (error.filename, error.filename2) if isinstance(name, str | Path)]
        is_about_disk = error.errno in {*_FULL, errno.EIO, errno.EROFS, errno.EFBIG}
        if any(path.is_relative_to(folder) for path in named) if named else is_about_disk:
            raise storage_failure(error, folder) from error
        raise


def storage_failure(error: OSError, folder: Path) -> NoSpace | HomeUnusable:
    """Why a folder can't be written to."""
    if is_full(error):
        return NoSpace(f"{_what_is_full(error, folder)}.", hint=no_space_hint(None))
    return in_the_way(error) or HomeUnusable(
        f"{error.filename or folder} can't be used: {error.strerror or error}.",
        hint="Check the disk and its permissions, or set MOONDREAM_STATION_HOME to another folder.",
    )


def is_full(error: OSError) -> bool:
    """Whether there is no space, or no inode, or the user's share of them is used up."""
    return error.errno in _FULL


def _what_is_full(error: OSError, folder: Path) -> str:
    if error.errno == errno.EDQUOT:
        return f"Your quota on the file system of {folder} is used up"
    with suppress(OSError, AttributeError):  # Windows has no such call
        disk = os.statvfs(folder)
        # Removing what was half written may have given some back by now.
        few = max(_FEW_INODES, disk.f_files // _FEW_INODES)
        if disk.f_files and disk.f_favail < few and disk.f_bavail * disk.f_frsize > _RESERVE_BYTES:
            return f"The file system of {folder} has no inodes left, so it can't hold more files"
    return f"The file system of {folder} is full"


def unpacked_bytes(wheels: Iterable[Path]) -> int:
    """How much space wheels take once they are unpacked, from their tables of contents, in whole blocks."""
    total = 0
    for wheel in wheels:
        try:
            with ZipFile(wheel) as archive:
                sizes = [info.file_size for info in archive.infolist()]
        except (BadZipFile, OSError) as error:
            raise EnvironmentBroken(f"{wheel.name} can't be unpacked: {error}") from error
        total += sum(-(-size // _BLOCK_BYTES) * _BLOCK_BYTES for size in sizes)
    return total


def in_words(size_bytes: int) -> str:
    """A size for people ("1.2 GB"), in powers of a thousand."""
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < _UNIT:
            return f"{size:.0f} {unit}"
        size /= _UNIT
    return f"{size:.1f} GB"
