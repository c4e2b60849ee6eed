"""The standard streams: open, able to write every text, and silent once they can't be written.

Imports next to nothing, not even `pathlib` (3 ms), so that `--version` can use it.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from moondream_station.core.facts.printable import printable


def make_ready() -> None:
    """Open the streams that were closed at the start, and let stdout write every text, as stderr does.

    Otherwise the next file or socket that is opened would get the descriptor of a missing stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def write(stream: TextIO, text: str) -> None:
    """Write at once; whatever would control a terminal is left out."""
    try:
        stream.write(printable(text))
        stream.flush()
    except OSError:
        write_nowhere(stream.fileno())
        raise


def write_nowhere(descriptor: int) -> None:
    """Discard everything written from now on, so that flushing at exit raises nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
