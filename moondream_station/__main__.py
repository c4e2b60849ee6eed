"""`python -m moondream_station` and the `moondream-station` command."""

from __future__ import annotations

import gc
import sys

from moondream_station.console.exit_codes import CANCELLED, DONE
from moondream_station.console.interrupts import conclude, heed_signals
from moondream_station.console.standard_streams import make_ready
from moondream_station.core.facts.version import VERSION

_UNCOLLECTED = 50_000
"""New objects before the collector looks for garbage. With the interpreter's own 700 to 2,000 a command that
starts spends a tenth of its time looking through what it has just loaded, which all stays."""


def main() -> int:
    """Run the command line; `--version` alone loads nothing else, so that it answers at once."""
    # A signal is how `serve` is meant to end, also before it serves.
    heed_signals(DONE if "serve" in sys.argv[1:3] else CANCELLED)
    gc.set_threshold(_UNCOLLECTED)
    make_ready()
    if sys.argv[1:] == ["--version"] and _has_printed_version():
        return DONE
    from moondream_station.cli.app import run  # noqa: PLC0415  what --version does without

    code = run(sys.argv[1:])
    conclude(code)
    return code


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
