"""A command that stands still at a checkpoint of the core, so that a test can break something just there."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moondream_station.core.facts.events import Stage
from moondream_station.core.home.checkpoints import VARIABLE, Point
from support.commands import Premises, started

CHECKPOINTS = (*Stage, *Point)
"""The name of every checkpoint."""

_ARRIVE_SECONDS = 60.0
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Stopped:
    """A command that stands still.

    Args:
        process: Its process.
        folder: Where it waits for leave.
        name: The checkpoint.
    """

    process: subprocess.Popen[str]
    folder: Path
    name: str

    def go_on(self) -> None:
        """Let it go on, here and at every later checkpoint of that name."""
        (self.folder / f"{self.name}.go").touch()

    def end(self) -> tuple[int, str]:
        """Wait for its end; gives the exit code and what it printed to stdout."""
        printed, _ = self.process.communicate(timeout=60)
        return self.process.returncode, printed


@contextmanager
def stopped_at(name: str, premises: Premises, *arguments: str, **variables: str) -> Iterator[Stopped]:
    """Run a command up to a checkpoint, where it stands still."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = {VARIABLE: f"{name}:{folder}", **variables}
        with started(premises, *arguments, log=None, **wanted) as process:
            stopped = Stopped(process, Path(folder), name)
            try:
                await_file(stopped.folder / f"{name}.arrived", process)
                yield stopped
            finally:
                stopped.go_on()  # whoever stands still hears no signal but SIGKILL


def await_file(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a process has made a file.

    Raises:
        AssertionError: It ended before, or did not in a minute.
    """
    for _ in range(int(_ARRIVE_SECONDS / _LOOK_SECONDS)):
        if path.exists():
            return
        assert process.poll() is None, f"it ended before {path.name}: {process.communicate()}"
        time.sleep(_LOOK_SECONDS)
    raise AssertionError(f"it did not come to {path.name}")
