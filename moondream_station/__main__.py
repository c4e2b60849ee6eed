"""`python -m moondream_station` and the `moondream-station` command."""

from __future__ import annotations

import sys

from moondream_station import __version__


def main() -> int:
    """Run the command line; `--version` alone loads nothing else, so that it answers at once."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"moondream-station {__version__}\n")
        return 0
    from moondream_station.cli import run  # noqa: PLC0415  what --version does without
    from moondream_station.cli.interrupts import heed_signals  # noqa: PLC0415

    heed_signals()
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
