"""`python -m moondream_station` and the `moondream-station` command."""

from __future__ import annotations

import gc
import io
import os
import sys

from moondream_station.console.interrupts import CANCELLED, DONE, conclude, heed_signals
from moondream_station.core.facts.version import VERSION

_UNCOLLECTED = 50_000
"""New objects before the collector looks for garbage. With the interpreter's own 700 to 2,000 a command that
starts spends a tenth of its time looking through what it has just loaded, which all stays."""


def main() -> int:
    """Run the command line; `--version` alone loads nothing else, so that it answers at once."""
    # A signal is how `serve` is meant to end, also before it serves.
    heed_signals(DONE if "serve" in sys.argv[1:3] else CANCELLED)
    gc.set_threshold(_UNCOLLECTED)
    _open_streams()
    if sys.argv[1:] == ["--version"] and _has_printed_version():
        return DONE
    from moondream_station.cli.run import run  # noqa: PLC0415  what --version does without

    code = run(sys.argv[1:])
    conclude(code)
    return code


def _open_streams() -> None:
    """Open the streams that were closed at the start, and let stdout write every text, as stderr does.

    Otherwise the next file or socket that is opened would get the descriptor of a missing stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _has_printed_version() -> bool:
    """Print the version; where that fails, the command line fails likewise, and says why."""
    try:
        sys.stdout.write(f"moondream-station {VERSION}\n")
        sys.stdout.flush()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
