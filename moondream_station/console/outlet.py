"""Writing beside other work: a slow reader holds up the writing task alone."""

from __future__ import annotations

import os
import select
import stat
import sys
from typing import Final, TextIO

import anyio

from moondream_station.console.output import write_line
from moondream_station.console.standard_streams import write_nowhere
from moondream_station.core.facts.printable import printable

_ALWAYS_FITS: Final = 512 if sys.platform == "win32" else select.PIPE_BUF
"""Bytes that a pipe which can be written to takes without delay."""

_LAST_SECONDS: Final = 2.0
"""How long a command that is to end waits for a reader that takes nothing."""


class Outlet:
    """A standard stream, for a command that does other things meanwhile.

    A pipe that nobody reads fills up and blocks its writer: here only the task that writes. Nothing else may
    write to the stream before a line is through.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pipe = _pipe_of(stream)
        self._is_hurried = False

    async def write(self, line: str) -> None:
        """Write a line; wait as long as its reader takes.

        One that takes nothing although the command is to end counts as gone: BrokenPipeError.
        """
        if self._pipe is None:
            write_line(self._stream, line)
            return
        data = (printable(line) + "\n").encode(self._stream.encoding, self._stream.errors or "strict")
        try:
            for start in range(0, len(data), _ALWAYS_FITS):
                await self._room(self._pipe)
                os.write(self._pipe, data[start : start + _ALWAYS_FITS])
        except BrokenPipeError:
            write_nowhere(self._pipe)
            self._pipe = None
            raise

    def mention(self, line: str) -> None:
        """Write a short line at once, or not at all where the reader is slow."""
        if self._pipe is not None and not select.select([], [self._pipe], [], 0)[1]:
            return
        write_line(self._stream, line)

    def hurry(self) -> None:
        """The command is to end: a reader that takes nothing gets no more than a moment."""
        self._is_hurried = True

    async def _room(self, pipe: int) -> None:
        while True:
            was_hurried = self._is_hurried
            with anyio.move_on_after(_LAST_SECONDS):
                await anyio.wait_writable(pipe)
                return
            if was_hurried:
                raise BrokenPipeError


def _pipe_of(stream: TextIO) -> int | None:
    """The pipe or socket that a stream goes to, None where it goes to a file or a terminal."""
    if sys.platform == "win32":
        return None  # no loop waits for pipes there
    try:
        descriptor = stream.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):
        return None
    return descriptor if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None
