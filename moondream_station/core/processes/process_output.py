"""What a child process writes, kept within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from moondream_station.core.home.storage import open_file

LINE_LIMIT_BYTES = 8 * 1024
"""The rest of a longer line is dropped."""

_LAST_LINES = 200


class CappedOutput:
    """The beginning of a stream."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept = bytearray()
        self.truncated = False
        """Whether something was dropped."""

    def feed(self, chunk: bytes) -> None:
        """Take what was read next."""
        room = self._limit - len(self._kept)
        self.truncated = self.truncated or len(chunk) > room
        self._kept += chunk[: max(room, 0)]

    @property
    def content(self) -> bytes:
        """What was kept."""
        return bytes(self._kept)


class Lines:
    """A stream cut into lines of text; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._line = bytearray()

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Take what was read next and give the lines that are complete now, without their ends."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._add(end)
            yield self._take()
        self._add(rest)

    def finish(self) -> Iterator[str]:
        """Give the last line where the stream did not end it."""
        if self._line:
            yield self._take()

    def _add(self, piece: bytes) -> None:
        self._line += piece[: max(self._limit - len(self._line), 0)]

    def _take(self) -> str:
        line = self._line.decode(errors="replace").removesuffix("\r")
        self._line.clear()
        return line


class OutputLog:
    """Lines that go to a file of bounded size; the last ones are kept in memory too.

    At its bound the file moves aside, to its name with ".1" behind, and a new one begins. A file that can't
    be written ends the writing, with a line that says why, and nothing else: the child must be able to go on.
    """

    def __init__(self, path: Path, limit_bytes: int = 4 * 1024 * 1024) -> None:
        self._path = path
        self._limit = limit_bytes
        self._file: BinaryIO | None = None
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_file(path, "ab", buffering=0)
        except OSError as error:
            self._give_up(error)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last 200 lines, oldest first."""
        return tuple(self._last)

    def write(self, line: str) -> None:
        """Take one line, without its end."""
        self._last.append(line)
        if self._file is None:
            return
        record = line.encode(errors="replace") + b"\n"
        try:
            if self._file.tell() + len(record) > self._limit:
                self._file = self._rotate(self._file)
            self._file.write(record)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file; what is written later is kept in memory alone."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rotate(self, file: BinaryIO) -> BinaryIO:
        file.close()
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        return open_file(self._path, "ab", buffering=0)

    def _give_up(self, error: OSError) -> None:
        self._last.append(f"[{self._path} can't be written: {error.strerror}]")
        self.close()
