"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it started is ended too, and the exit code is 130."""

from __future__ import annotations

import signal
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP")


def heed_signals() -> None:
    """Let them mean SIGINT from here on. A command that waits for signals itself gets them first.

    One that the user lets be ignored stays so (`nohup`).
    """
    for name in _NAMES:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Do what SIGINT would: an event loop has put its own way of ending there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
