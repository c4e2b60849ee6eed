"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it started is ended too, and the exit code is 130."""

from __future__ import annotations

import atexit
import os
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


def conclude(code: int) -> None:
    """The command is done, and its exit code is known: no signal changes that any more.

    The interpreter takes a moment to end. It waits for threads first, which a signal cuts short; then it puts
    the signals' own actions back, with which one would still kill it.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        os._exit(code)

    def ignore() -> None:
        for number in caught:
            signal.signal(number, signal.SIG_IGN)

    numbers = (getattr(signal, name, None) for name in ("SIGINT", *_NAMES))
    caught = [number for number in numbers if number and signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, leave)
    atexit.register(ignore)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Do what SIGINT would: an event loop has put its own way of ending there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
