"""SIGINT, SIGTERM and SIGHUP end a command: what it started is ended too, and the exit code is 130.

One handler takes them from the first moment to the last and hands each to the present receiver. Nothing is
raised, because an exception in the middle of an import is changed or swallowed by the code that it meets; and
the signals' own actions are never restored in between, as event loops do when they end.

Imports next to nothing, so that it works before anything else is loaded.
"""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

from moondream_station.console.exit_codes import CANCELLED

_Receiver: TypeAlias = Callable[[int], object]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_receivers: list[_Receiver] = []


def heed_signals(code: int = CANCELLED) -> None:
    """From here on a signal goes to the last receiver; without one, it ends the process at once with `code`.

    Signals that are ignored stay ignored: `nohup` ignores SIGHUP, and shells ignore SIGINT for what they
    start in the background.
    """
    _receivers.append(lambda _: os._exit(code))
    for number in _heeded():
        signal.signal(number, _hand_over)


@contextmanager
def received(receiver: _Receiver) -> Iterator[None]:
    """Hand signals' numbers to a receiver while the block runs, before all others.

    It is called between any two steps of the main thread and must not raise.
    """
    _receivers.append(receiver)
    try:
        yield
    finally:
        _receivers.remove(receiver)


def end_at_once(number: int) -> None:
    """End the process as a signal does that nobody receives."""
    _receivers[0](number)


def ignore_signals() -> None:
    """Ignore signals from here on: how the command ends is decided, and what it still does is short."""
    _receivers.append(lambda _: None)


def conclude(code: int) -> None:
    """The command is done: a signal can only bring its end forward.

    The interpreter takes a moment to end. It waits for threads first, which a signal cuts short; then it puts
    the signals' own actions back, with which one would still kill it.
    """

    def ignore() -> None:
        for number in _heeded():
            signal.signal(number, signal.SIG_IGN)

    _receivers[:] = [lambda _: os._exit(code)]
    atexit.register(ignore)


def _heeded() -> list[int]:
    numbers = (getattr(signal, name, None) for name in _NAMES)  # Windows has no SIGHUP
    return [number for number in numbers if number and signal.getsignal(number) is not signal.SIG_IGN]


def _hand_over(number: int, _frame: FrameType | None) -> None:
    _receivers[-1](number)
