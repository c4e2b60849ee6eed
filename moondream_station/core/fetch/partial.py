"""A file that is being fetched: what is here of it, hashed as it grows, and by what it may be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio.from_thread

from moondream_station.core.home.storage import open_file, open_regular, read_json

_REHASH_BYTES = 32 << 20


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
    """The open file and the hash of its bytes. Its methods block: they belong into a worker thread.

    Bytes are written at their own offset, not appended, so that a second process that fetches the same
    content writes the same bytes to the same places.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.validator: Validator | None = None
        self._hash = hashlib.sha256()
        self._writing = threading.Lock()
        self._is_closed = False
        self._descriptor = self._opened()

    def _opened(self) -> int:
        return open_regular(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))

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
            while piece := file.read(_REHASH_BYTES):
                self._hash.update(piece)
                self.size += len(piece)
                anyio.from_thread.check_cancelled()  # a cancellation need not wait for the whole file

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
        self.discard()
        self.size = 0
        self.validator = None
        self._hash = hashlib.sha256()
        self._is_closed = False
        self._descriptor = self._opened()

    def note(self, validator: Validator) -> None:
        """Keep what the server said of the file, for a later process to resume by."""
        if validator != self.validator:
            # Not durable on purpose: a note that is torn or lost costs an `If-Range`, and syncing costs more.
            with open_file(_note_of(self.path), "wb") as file:
                file.write(json.dumps(asdict(validator)).encode())
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

    def discard(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
        _note_of(self.path).unlink(missing_ok=True)


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
