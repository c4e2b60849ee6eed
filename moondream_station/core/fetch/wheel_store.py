"""Wheels that are downloaded, and known again without reading them while nobody touched them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import anyio.from_thread

from moondream_station.core.fetch.lock import LockedFile
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import open_file, read_json, sync_file

_HASH_BYTES = 32 << 20


def find_finished(home: Home, file: LockedFile) -> Path | None:
    """A finished download, None where there is none; blocks.

    A file that is the same (by inode, size and time) as when its hash was last checked is not read again. One
    that turns out to be another is removed.
    """
    path = home.downloads / file.stored_name
    with suppress(FileNotFoundError, ValueError):
        if read_json(_note_of(path)) == _identity(path):
            return path
    sha256 = sha256_of(path)
    if sha256 is None:
        return None
    if sha256 != file.sha256:
        discard_finished(path)
        return None
    note_finished(path)
    return path


def note_finished(path: Path) -> None:
    """Note that a file's hash was checked, just now."""
    # Not durable on purpose: without its note a file is read again.
    with open_file(_note_of(path), "wb") as file:
        file.write(json.dumps(_identity(path)).encode())


def settle(paths: Iterable[Path]) -> None:
    """Make downloads whose hash was just checked durable, and note them.

    In this order: a power cut may take bytes of a file that nobody noted, and that is found by its hash.
    """
    for path in paths:
        sync_file(path)
        note_finished(path)


def discard_finished(path: Path) -> None:
    """Remove a finished download and its note."""
    path.unlink(missing_ok=True)
    _note_of(path).unlink(missing_ok=True)


def _identity(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"inode": status.st_ino, "size_bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def sha256_of(path: Path) -> str | None:
    """A file's hash in hexadecimal digits, None where there is no such file; for a worker thread."""
    digest = hashlib.sha256()
    try:
        with open_file(path) as file:
            while piece := file.read(_HASH_BYTES):
                digest.update(piece)
                anyio.from_thread.check_cancelled()  # a cancellation need not wait for the whole file
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
