"""Printing: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from moondream_station.console import standard_streams
from moondream_station.core.facts.errors import ErrorInfo, OutputUnwritable

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


def print_error(error: ErrorInfo, *, as_json: bool) -> None:
    """Print an error: to stdout as JSON for programs, else to stderr with its hint."""
    if as_json:
        print_json({"error": asdict(error)})
        return
    print_progress(f"error: {error.message}")
    if error.hint:
        print_progress(f"  hint: {error.hint}")


def print_progress(line: str) -> None:
    """Print a line for people to stderr."""
    write_line(sys.stderr, line)


def write_line(stream: TextIO, line: str) -> None:
    """Write a line, or several, at once, as `write`."""
    write(stream, f"{line}\n")


def write(stream: TextIO, text: str) -> None:
    """Write at once: BrokenPipeError where the stream's reader is gone, else OutputUnwritable."""
    try:
        standard_streams.write(stream, text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputUnwritable(
            f"The output can't be written: {error.strerror or error}.",
            hint="Check what the output is redirected to.",
        ) from error


def terminal_width() -> int | None:
    """Columns of stdout's terminal, None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


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
