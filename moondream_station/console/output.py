"""Printing: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import select
import shutil
import stat
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any, Final, TextIO

from moondream_station.core.facts.errors import ErrorInfo, OutputUnwritable
from moondream_station.core.facts.printable import printable

_ALWAYS_FITS: Final[int] = getattr(select, "PIPE_BUF", 512)
"""Bytes that a pipe which can be written to takes without delay."""

_LAST_SECONDS: Final = 2.0
"""How long a command that is to end waits for a reader that takes nothing."""

_NARROWEST = 20
"""Characters that a table's last column gets, however narrow the terminal is."""


def print_json(data: Any) -> None:
    """Print one JSON line to stdout, at once: in ASCII, which is UTF-8 whatever encoding the stream has."""
    write_line(sys.stdout, json.dumps(data))


def print_result(line: str) -> None:
    """Print a result for people to stdout, at once."""
    write_line(sys.stdout, line)


def print_text(text: str, data: Any, *, as_json: bool) -> None:
    """Print a result to stdout: as text for people, or as JSON for programs."""
    if as_json:
        print_json(data)
    else:
        print_result(text)


def print_coloured(text: str) -> None:
    """Print a result to stdout whose colours are ours, and whose foreign words are printable already."""
    _write(sys.stdout, f"{text}\n")


def print_error(error: ErrorInfo, *, as_json: bool) -> None:
    """Print an error: to stdout as JSON for programs, else to stderr with its hint."""
    if as_json:
        print_json({"error": asdict(error)})
        return
    print_progress(f"error: {error.message}")
    if error.hint:
        print_progress(f"  hint: {error.hint}")


def print_progress(line: str) -> None:
    """Print a line for people to stderr, or several; on a terminal broken between words."""
    write_line(sys.stderr, folded(line, terminal_width(sys.stderr)))


def write_line(stream: TextIO, line: str) -> None:
    """Write a line, or several, as `write`."""
    write(stream, f"{line}\n")


def write(stream: TextIO, text: str) -> None:
    """Write at once, without what would control a terminal.

    Raises BrokenPipeError where the stream's reader is gone, else OutputUnwritable; from then on the stream
    is silent.
    """
    _write(stream, printable(text))


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        _write_nowhere(stream.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputUnwritable(
            f"The output can't be written: {error.strerror or error}.",
            hint="Check what the output is redirected to.",
        ) from error


def _write_nowhere(descriptor: int) -> None:
    """Discard everything written from now on, so that flushing at exit raises nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Columns of a stream's terminal, None where it is none; stdout's by default."""
    return shutil.get_terminal_size().columns if (stream or sys.stdout).isatty() else None


def folded(text: str, width: int | None) -> str:
    """Lines broken to `width` columns, if there is one, between words alone, so that they can be copied.

    What follows of a line stands two columns further in than it begins.
    """
    if width is None:
        return text
    wrap = partial(textwrap.fill, width=width, break_long_words=False, break_on_hyphens=False)
    lines = text.split("\n")
    indents = (" " * (len(line) - len(line.lstrip(" ")) + 2) for line in lines)
    return "\n".join(
        wrap(line, subsequent_indent=indent) for line, indent in zip(lines, indents, strict=True)
    )


def table(rows: Sequence[Mapping[str, str]], columns: Sequence[str], *, width: int | None = None) -> str:
    """Lay out rows under headings, each column as wide as its widest cell.

    The last column is broken to fit `width`, if there is one.
    """
    *first, last = columns
    widths = {column: max(len(column), *(len(row[column]) for row in rows), 0) for column in first}
    margin = " " * sum(widths[column] + 2 for column in first)
    room = max(_NARROWEST, width - len(margin)) if width is not None else None
    lines = []
    for row in ({column: column.upper() for column in columns}, *rows):
        start = "".join(row[column].ljust(widths[column] + 2) for column in first)
        broken = textwrap.wrap(row[last], room, break_long_words=False) if room else [row[last]]
        lines += [f"{start}{(broken or [''])[0]}".rstrip(), *(margin + rest for rest in broken[1:])]
    return "\n".join(lines)


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
            _write_nowhere(self._pipe)
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
        import anyio  # noqa: PLC0415  what a command without an event loop does without

        while True:
            was_hurried = self._is_hurried
            with anyio.move_on_after(_LAST_SECONDS):
                await anyio.wait_writable(pipe)
                return
            if was_hurried:
                raise BrokenPipeError


def _pipe_of(stream: TextIO) -> int | None:
    """The pipe or socket that a stream goes to, None where it goes to a file or a terminal."""
    if sys.platform != "win32":  # no loop waits for pipes there
        with suppress(OSError, ValueError):
            descriptor = stream.fileno()
            mode = os.fstat(descriptor).st_mode
            return descriptor if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None
    return None
