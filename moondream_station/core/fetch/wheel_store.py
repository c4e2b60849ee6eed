"""Downloads on the disk: partial ones, hashed as they grow, and finished ones, known again without reading.

Everything here blocks: it belongs into a worker thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import anyio.from_thread

from moondream_station.core.fetch.lock import LockedFile
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import open_file, open_regular, read_json, sync_file

_HASH_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Validator:
    """What tells whether a server still has the file that a part was fetched of.

    `url_sha256` is of the URL that sent it: another URL's validators mean nothing. `etag` is a strong one.
    """

    url_sha256: str
    etag: str | None = None
    last_modified: str | None = None

    @property
    def if_range(self) -> str | None:
        """What `If-Range` is to say, None where the server gave nothing that can be said."""
        return self.etag or self.last_modified


class PartialFile:
    """The open file and the hash of its bytes.

    Bytes are written at their own offset, not appended, so that a second process that fetches the same
    content writes the same bytes to the same places.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self.size = 0
        self.validator: Validator | None = None
        self._hash = hashlib.sha256()
        self._is_closed = False
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._descriptor = open_regular(self.path, flags)

    @property
    def sha256(self) -> str:
        """Hash of the first `size` bytes, in hexadecimal digits."""
        return self._hash.hexdigest()

    def resume(self) -> None:
        """Take over what an earlier process left: its note, if that can be read, and its bytes."""
        with suppress(OSError, ValueError, TypeError):
            data = read_json(_note_of(self.path))
            self.validator = None if data is None else Validator(**data)
        with os.fdopen(self._descriptor, "rb", closefd=False) as file:
            self.size = _digest(file, self._hash)

    def write(self, pieces: list[bytes]) -> None:
        """Add bytes to the end."""
        try:
            with self._writing:
                os.lseek(self._descriptor, self.size, os.SEEK_SET)
                for piece in pieces:
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[os.write(self._descriptor, rest) :]
                    self._hash.update(piece)
                    self.size += len(piece)
        finally:
            if self._is_closed:
                self._close_unless_writing()

    def restart(self) -> None:
        """Throw away what is here. The file is a new one: whoever else has the old one open keeps it."""
        self.close()
        discard(self.path)
        self._begin()

    def note(self, validator: Validator) -> None:
        """Keep what the server said of the file, for a later process to resume by."""
        if validator != self.validator:
            _note(self.path, asdict(validator))
            self.validator = validator

    def finish(self, final: Path) -> bool:
        """Give the file its name; False where another process has put another file in its place."""
        mine = os.fstat(self._descriptor)
        self.close()
        try:
            there = self.path.stat()
            if (there.st_ino, there.st_size) != (mine.st_ino, self.size):
                return False
            self.path.replace(final)
        except FileNotFoundError:  # another process gave it its name, before or since the look at it
            return False
        _note_of(self.path).unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Close the file; what is here of it stays. Closing twice is fine.

        A write that was abandoned in its thread closes it when it ends: else it would go on into whatever
        file gets the descriptor next.
        """
        self._is_closed = True
        self._close_unless_writing()

    def _close_unless_writing(self) -> None:
        if self._writing.acquire(blocking=False):
            try:
                if self._descriptor >= 0:
                    os.close(self._descriptor)
                    self._descriptor = -1
            finally:
                self._writing.release()


def find_finished(home: Home, file: LockedFile) -> Path | None:
    """A finished download, None where there is none.

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
        discard(path)
        return None
    note_finished(path)
    return path


def settle(paths: Iterable[Path]) -> None:
    """Make downloads whose hash was just checked durable, and note them.

    In this order: a power cut may take bytes of a file that nobody noted, and that is found by its hash.
    """
    for path in paths:
        sync_file(path)
        note_finished(path)


def note_finished(path: Path) -> None:
    """Note that a file's hash was checked, just now."""
    _note(path, _identity(path))


def discard(path: Path) -> None:
    """Remove a download and its note."""
    path.unlink(missing_ok=True)
    _note_of(path).unlink(missing_ok=True)


def sha256_of(path: Path) -> str | None:
    """A file's hash in hexadecimal digits, None where there is no such file."""
    digest = hashlib.sha256()
    try:
        with open_file(path) as file:
            _digest(file, digest)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def _digest(file: BinaryIO, digest: hashlib._Hash) -> int:
    size = 0
    while piece := file.read(_HASH_BYTES):
        digest.update(piece)
        size += len(piece)
        anyio.from_thread.check_cancelled()  # a cancellation need not wait for the whole file
    return size


def _identity(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"inode": status.st_ino, "size_bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _note(path: Path, data: Mapping[str, Any]) -> None:
    # Not durable on purpose, because syncing costs more: without its note a finished file is read again, and
    # a partial one asked for without `If-Range`.
    with open_file(_note_of(path), "wb") as file:
        file.write(json.dumps(data).encode())


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
