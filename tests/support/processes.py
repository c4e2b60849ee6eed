"""Processes that a test can find again, wherever in the system they have got to."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

TREE_PROGRAM = Path(__file__).with_name("tree_program.py")


def tree(marker: str, *words: str) -> list[str]:
    """The argument list that grows a family of processes; tree_program.py knows the words."""
    return [sys.executable, "-S", str(TREE_PROGRAM), marker, *words]


def marked(marker: str) -> list[psutil.Process]:
    """Every living process with the marker in its command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if marker in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def left_in_the_end(marker: str) -> list[psutil.Process]:
    """The processes with the marker that do not go within ten seconds."""
    psutil.wait_procs(marked(marker), timeout=10)
    return marked(marker)


@contextlib.contextmanager
def nothing_left() -> Iterator[str]:
    """Give a marker, and hold the test to leaving no process with it behind."""
    marker = f"marker-{uuid.uuid4().hex}"
    yield marker
    survivors = left_in_the_end(marker)
    for process in survivors:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert survivors == []
