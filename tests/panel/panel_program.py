"""Shows an activation in the panel, fact by fact as it is told to; run by tests in a terminal of their own.

    panel_program.py SCRIPT PIPE

PIPE is a named pipe. Each number read from it lets so many more facts happen; `cancel` asks for the end,
`log` writes a line to stderr meanwhile.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import anyio

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from moondream_station.console.presenting import presenter_for_people  # noqa: E402  the paths come first
from support.scripted_activation import SCRIPTS, events  # noqa: E402

script, pipe = sys.argv[1:]
happening = iter(events(SCRIPTS[script]()))
presenter = presenter_for_people()
with Path(pipe).open(encoding="utf-8") as orders:
    for order in orders:
        match order.strip():
            case "cancel":
                presenter.cancelling()
            case "log":
                print("a line of the log", file=sys.stderr)  # noqa: T201  what it is about
            case number:
                for _ in range(int(number)):
                    anyio.run(presenter.show, replace(next(happening), at=datetime.now(UTC)))
presenter.close()
