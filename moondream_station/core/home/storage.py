"""What is written to disks: whether it fits, and so that it survives a kill and a power cut."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from io import BufferedRandom
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast
from zipfile import BadZipFile, ZipFile

from moondream_station.core.facts.codec import from_json
from moondream_station.core.facts.errors import EnvironmentBroken, HomeUnusable, NoSpace
from moondream_station.core.home.layout import Home, in_the_way

T = TypeVar("T")

_REMOVE_SECONDS = 1.0
_RESERVE_BYTES = 64 << 20
_BLOCK_BYTES = 4096
_UNIT = 1000.0
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FEW_INODES = 100


def write_atomically(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Replace a file whole: readers see the old or the new content, after a power cut too."""
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_record(home: Home, path: Path, data: str, *, mode: int = 0o644) -> None:
    """Replace a file of the home whole; on a full disk what can be found out again gives way to it.

    Without that the commands that free space could not run: each has a record to write first.
    """
    with writing_to(home.root):
        try:
            write_atomically(path, data, mode=mode)
        except OSError as error:
            if not is_full(error):
                raise
            for expendable in (home.capabilities, *home.cache.glob("listings/*")):
                with suppress(OSError):
                    expendable.unlink()
            write_atomically(path, data, mode=mode)


def open_file(path: Path, mode: str = "rb", *, buffering: int = -1) -> BufferedRandom:
    """Open a file of the home in a binary mode, where it is one: to open a FIFO could block for ever."""
    return cast("BufferedRandom", open(path, mode, buffering, opener=open_regular))


def open_regular(path: str | Path, flags: int) -> int:
    """The descriptor of a file of the home, where it is one: `os.open` with that check."""
    if wrong := not_a_file(path):
        raise wrong
    return os.open(path, flags, 0o666)


def not_a_file(path: str | Path) -> OSError | None:
    """What is wrong where something other than a file has a file's name; a file or nothing: None."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  of a path in either form
    except OSError:
        return None
    kind = _KINDS.get(stat.S_IFMT(mode))
    return OSError(errno.EISDIR, f"it is {kind}, not a file", str(path)) if kind else None


_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_file(path: Path) -> bytes:
    """The bytes of a file of the home, if it is one."""
    with open_file(path) as file:
        return file.read()


def read_json(path: Path) -> Any:
    """A JSON file's content, None where there is no such file; ValueError says where it breaks off."""
    try:
        content = read_file(path)
    except FileNotFoundError:
        return None
    try:
        return json.loads(content)  # bytes may be UTF-8 with a byte-order mark, or UTF-16
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({flaw_of(error)})") from error


def flaw_of(error: Exception) -> str:
    """What a parser of JSON or TOML found wrong; its one plain ValueError is Python's own bound on digits."""
    return "a number in it has too many digits" if type(error) is ValueError else str(error)


def is_shortage(error: Exception) -> bool:
    """Whether an error says nothing about a file, but that too many are open."""
    return isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class NewerFormat(ValueError):
    """A file is of another version of the station's."""


def read_record(path: Path, kind: type[T], format_: str) -> T | None:
    """The record that a file of the home holds, None where there is no such file.

    A ValueError says that it is damaged, or that another version of the station wrote it.
    """
    data = read_json(path)
    if data is None:
        return None
    found = data.get("format") if isinstance(data, dict) else None
    if found != format_ and str(found).rpartition("/")[0] == format_.rpartition("/")[0]:
        raise NewerFormat(f"a newer version of Moondream Station wrote it ({found})")
    if found != format_:
        raise ValueError(f"its format is not {format_}")
    return from_json(kind, data)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Windows has no such call and keeps its own promise."""
    if sys.platform != "win32":
        with _opened(folder) as descriptor:
            os.fsync(descriptor)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make everything below a folder durable.

    On Linux one `syncfs` of its file system, a tenth of the time of a sync per file; elsewhere file by file,
    because no other platform has that call. Measured on 12,000 files.
    """
    import ctypes  # noqa: PLC0415  for this alone

    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    syncfs = getattr(libc, "syncfs", None)  # musl before 1.2 and other small libraries have none
    if syncfs is not None:
        with _opened(folder) as descriptor:
            if syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(folder))
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


def remove_tree(
    folder: Path, *, seconds: float | None = None, check: Callable[[], object] | None = None
) -> None:
    """Remove a folder and all in it: under another name first, so that nobody meets it half gone.

    Links are removed, never followed. A folder that does not exist is fine. The next sweep removes what
    `seconds` do not suffice for, or what is left when `check`, called before each file, raises.
    """
    trash = folder.with_name(f".trash-{secrets.token_hex(4)}")
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return
    if trash.is_symlink():  # the walk would begin behind it
        trash.unlink()
        return
    # Where a removal was left running and another goes on with it, either may find a file gone already.
    ends = math.inf if seconds is None else time.monotonic() + seconds
    for parent, folders, files in os.walk(trash, topdown=False, onerror=_unless_gone):
        for name in files:
            if time.monotonic() > ends:
                return
            if check is not None:
                check()
            Path(parent, name).unlink(missing_ok=True)
        for name in folders:
            path = Path(parent, name)
            with suppress(FileNotFoundError):
                path.unlink() if path.is_symlink() else path.rmdir()
    with suppress(FileNotFoundError):
        trash.rmdir()


def remove(path: Path, *, check: Callable[[], object] | None = None) -> None:
    """Remove a file, a link or a folder with all in it, as `remove_tree`."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(path, check=check)
    else:
        path.unlink(missing_ok=True)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@asynccontextmanager
async def temporary_folder(parent: Path | None, prefix: str) -> AsyncIterator[Path]:
    """A folder for the time of this context, in the system's own place without a `parent`.

    `sweep` knows by the prefix what a kill left in the home. Removing it goes on by itself after a second.
    """
    import tempfile  # noqa: PLC0415  likewise

    import anyio.to_thread  # noqa: PLC0415  what reads and writes files does without

    name = await anyio.to_thread.run_sync(partial(tempfile.mkdtemp, prefix=prefix, dir=parent))
    try:
        yield Path(name)
    finally:
        with anyio.move_on_after(_REMOVE_SECONDS, shield=True):
            await anyio.to_thread.run_sync(shutil.rmtree, name, abandon_on_cancel=True)


@asynccontextmanager
async def work_folder(home: Home) -> AsyncIterator[Path]:
    """A folder in the home's cache for one run of a tool."""
    with writing_to(home.cache):
        async with temporary_folder(home.cache, "lock-") as folder:
            yield folder


def sync_file(path: Path) -> None:
    """Make a file's bytes durable; a link has none."""
    if path.is_symlink():
        return
    # Windows flushes only what is open for writing.
    with open_file(path, "rb+" if sys.platform == "win32" else "rb", buffering=0) as file:
        os.fsync(file.fileno())


class Need(NamedTuple):
    """Bytes that will be written below a folder that exists."""

    folder: Path
    size_bytes: int


def check_space(needs: Iterable[Need]) -> None:
    """Make sure that each file system has room for what comes to it, and 64 MiB more."""
    by_device: dict[int, list[Need]] = {}
    for need in needs:
        by_device.setdefault(need.folder.stat().st_dev, []).append(need)
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
    if sys.platform != "win32":
        with suppress(OSError):
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
