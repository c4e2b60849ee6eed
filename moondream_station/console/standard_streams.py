"""The standard streams: there, fit for every text, and no trouble once they take nothing more.

Loads next to nothing, so that `--version` can use it.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TextIO


def make_ready() -> None:
    """Open what whoever started us has closed, and let stdout take every text, as stderr does already.

    Without it the next file or socket that is opened would take the place of the stream that is missing.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  open to the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def write_line(stream: TextIO, line: str) -> None:
    """Write a line at once.

    Raises:
        BrokenPipeError: Whoever read it has gone.
        OSError: It can't be written, because a disk is full, say.
    """
    try:
        stream.write(line + "\n")
        stream.flush()
    except OSError:
        write_nowhere(stream.fileno())
        raise


def write_nowhere(descriptor: int) -> None:
    """Let all that is written from now on go nowhere, so that the end of the program, too, raises nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
