"""Points at which a test lets the station's process stand still, to break something just there.

Inert without `MOONDREAM_STATION_CHECKPOINT=NAME:FOLDER`. With it, the process that reaches NAME writes its id
to `FOLDER/NAME.arrived` and stands still, whole, until `FOLDER/NAME.go` exists. The names are those of the
stages, and `Point`'s.
"""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Final

VARIABLE: Final = "MOONDREAM_STATION_CHECKPOINT"
_LOOK_SECONDS: Final = 0.005


class Point(StrEnum):
    """Instants inside a stage at which a death would hurt most."""

    FETCHED = "fetched"
    """A file is here whole and checked, and has not got its name."""
    FILLED = "filled"
    """An environment is filled, and its files have not been checked."""
    SYNCED = "synced"
    """An environment is durable, and `commit.json` does not say so yet."""
    COMMITTED = "committed"
    """`commit.json` is written, and `active.json` names the environment before."""
    NAMED = "named"
    """`active.json` names the new environment, and nothing has been published."""


def reached(name: str) -> None:
    """Stand still here, if a test wants it."""
    point, _, folder = os.environ.get(VARIABLE, "").partition(":")
    if point != name:
        return
    Path(folder, f"{name}.arrived").write_text(str(os.getpid()), encoding="ascii")
    go = Path(folder, f"{name}.go")
    while not go.exists():
        time.sleep(_LOOK_SECONDS)
