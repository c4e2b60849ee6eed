"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it started is ended too, and the exit code is 130.

While modules are imported, before a command does anything and between its steps, a signal ends the process at
once: an exception that comes in the middle of an import is changed, swallowed or mistaken by whatever it
meets there. While an event loop runs, it is cancelled instead, and what it has begun is undone.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import TypeVar, TypeVarTuple

Args = TypeVarTuple("Args")
T = TypeVar("T")

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_CANCELLED = 130


def leave_on_signals(code: int) -> None:
    """Let each of them end the process from here on, with this exit code.

    One that the user lets be ignored stays so (`nohup`; shells do it to SIGINT of what they start in the
    background).
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        os._exit(code)

    for number in _heeded():
        signal.signal(number, leave)


def run_loop(function: Callable[[*Args], Awaitable[T]], *args: *Args) -> T:
    """Run an event loop, which a signal cancels.

    A command that waits for signals itself gets them first; so does the prompt, whose commands have a thread of
    their own.

    Raises:
        KeyboardInterrupt: One came, and the loop has ended in order.
    """
    import anyio  # noqa: PLC0415  many commands do without

    if threading.current_thread() is not threading.main_thread():
        return anyio.run(function, *args)
    for number in _heeded():
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _interrupt)
    try:
        return anyio.run(function, *args)
    finally:
        leave_on_signals(_CANCELLED)


def conclude(code: int) -> None:
    """The command is done, and its exit code is known: no signal changes that any more.

    The interpreter takes a moment to end. It waits for threads first, which a signal cuts short; then it puts
    the signals' own actions back, with which one would still kill it.
    """
    leave_on_signals(code)
    atexit.register(_ignore)


def _ignore() -> None:
    for number in _heeded():
        signal.signal(number, signal.SIG_IGN)


def _heeded() -> list[int]:
    numbers = (getattr(signal, name, None) for name in _NAMES)  # Windows has no SIGHUP
    return [number for number in numbers if number and signal.getsignal(number) is not signal.SIG_IGN]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Do what SIGINT would: an event loop has put its own way of ending there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)
