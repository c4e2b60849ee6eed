"""How a command ends: with which exit code, and by which signals; what it started is ended too.

One handler takes SIGINT, SIGTERM and SIGHUP from the first moment to the last and hands each to the present
receiver. Nothing is raised, because an exception in the middle of an import is changed or swallowed by the
code that it meets; and the signals' own actions are never restored in between, as event loops do at their
end.

Imports next to nothing, so that it works before anything else is loaded.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    import asyncio

    from moondream_station.core.facts.events import CancelReason

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
"""The command line itself is wrong; nothing was done."""
CANCELLED: Final = 130
"""By a signal, by `cancel`, or because another switch took its place."""

Args = TypeVarTuple("Args")
T = TypeVar("T")

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_receivers: list[Callable[[int], object]] = []


def heed_signals(code: int = CANCELLED) -> None:
    """From here on a signal goes to the last receiver; without one, it ends the process at once with `code`.

    Signals that are ignored stay ignored: `nohup` ignores SIGHUP, and shells ignore SIGINT for what they
    start in the background.
    """
    _receivers.append(lambda _: os._exit(code))
    for number in _heeded():
        signal.signal(number, _hand_over)


def ignore_signals() -> None:
    """Ignore signals from here on: how the command ends is decided, and what it still does is short."""
    _receivers.append(lambda _: None)


@contextmanager
def own_receivers() -> Iterator[None]:
    """For a command among others: whoever gets signals while the block runs, afterwards it is as before."""
    before = list(_receivers)
    try:
        yield
    finally:
        _receivers[:] = before


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


def run_loop(function: Callable[[*Args], Coroutine[Any, Any, T]], *args: *Args) -> T:
    """Run an event loop until the function has ended. A signal cancels it, a second one ends the process.

    In a thread of an event loop (the prompt's commands) it runs in that loop, and ends when whoever waits for
    the thread is cancelled; signals are that loop's. Either is a KeyboardInterrupt, once all has ended.
    """
    import asyncio  # noqa: PLC0415  these take longer than a command that waits for nothing
    import concurrent.futures  # noqa: PLC0415
    import threading  # noqa: PLC0415

    import anyio.from_thread  # noqa: PLC0415

    if threading.current_thread() is not threading.main_thread():
        try:
            return anyio.from_thread.run(function, *args)
        except concurrent.futures.CancelledError:
            raise KeyboardInterrupt from None
    results: list[T] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        is_cancelled = False

        def cancel(number: int) -> None:
            nonlocal is_cancelled
            if is_cancelled:
                _receivers[0](number)  # which ends the process
            is_cancelled = True
            loop.call_soon_threadsafe(scope.cancel)

        with anyio.CancelScope() as scope, _received(cancel), _waking(loop):
            results.append(await function(*args))

    anyio.run(work)
    if not results:
        raise KeyboardInterrupt
    return results[0]


@contextmanager
def cancel_on_signal(cancel: Callable[[CancelReason], object]) -> Iterator[None]:
    """Call `cancel` in the event loop for every signal that comes while the block runs."""
    import asyncio  # noqa: PLC0415

    from moondream_station.core.facts.events import CancelReason  # noqa: PLC0415

    loop = asyncio.get_running_loop()

    def receive(number: int) -> None:
        reason = CancelReason.USER if number == signal.SIGINT else CancelReason.SHUTDOWN
        loop.call_soon_threadsafe(cancel, reason)

    with _received(receive):
        yield


@contextmanager
def _received(receiver: Callable[[int], object]) -> Iterator[None]:
    """Hand signals to a receiver, between any two steps of the main thread; it must not raise."""
    _receivers.append(receiver)
    try:
        yield
    finally:
        _receivers.remove(receiver)


@contextmanager
def _waking(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let a signal end the loop's wait.

    Its handler runs in the main thread alone, which waits on where the signal came in the instant before, or
    where another thread got it.
    """
    if sys.platform == "win32":
        yield  # asyncio does it there
    else:
        import socket  # noqa: PLC0415

        receiver, sender = socket.socketpair()
        with receiver, sender:
            receiver.setblocking(False)
            sender.setblocking(False)
            loop.add_reader(receiver, receiver.recv, 4096)
            before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
            try:
                yield
            finally:
                signal.set_wakeup_fd(before)
                loop.remove_reader(receiver)


def _heeded() -> list[int]:
    numbers = (getattr(signal, name, None) for name in _NAMES)  # Windows has no SIGHUP
    return [number for number in numbers if number and signal.getsignal(number) is not signal.SIG_IGN]


def _hand_over(number: int, _frame: FrameType | None) -> None:
    _receivers[-1](number)
