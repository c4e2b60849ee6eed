"""Signals in event loops: reasons to cancel."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, TypeVarTuple

import anyio
import anyio.from_thread

from moondream_station.console.interrupts import end_at_once, received
from moondream_station.core.facts.events import CancelReason

Args = TypeVarTuple("Args")
T = TypeVar("T")


def run_loop(function: Callable[[*Args], Coroutine[Any, Any, T]], *args: *Args) -> T:
    """Run an event loop until the function has ended. A signal cancels it, a second one ends the process.

    In a thread of an event loop (the prompt's commands) it runs in that loop, and ends when whoever waits for
    the thread is cancelled; signals are that loop's. Either is a KeyboardInterrupt, once all has ended.
    """
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
                end_at_once(number)
            is_cancelled = True
            loop.call_soon_threadsafe(scope.cancel)

        with anyio.CancelScope() as scope, received(cancel), _waking(loop):
            results.append(await function(*args))

    anyio.run(work)
    if not results:
        raise KeyboardInterrupt
    return results[0]


@contextmanager
def cancel_on_signal(cancel: Callable[[CancelReason], object]) -> Iterator[None]:
    """Call `cancel` in the event loop for every signal that comes while the block runs."""
    loop = asyncio.get_running_loop()

    def receive(number: int) -> None:
        reason = CancelReason.USER if number == signal.SIGINT else CancelReason.SHUTDOWN
        loop.call_soon_threadsafe(cancel, reason)

    with received(receive):
        yield


@contextmanager
def _waking(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let a signal end the loop's wait.

    Its handler runs in the main thread alone, which waits on where the signal came in the instant before, or
    where another thread got it.
    """
    if sys.platform == "win32":
        yield  # asyncio does it there
        return
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
