"""Facts that several checks need, each found out once, in a task of its own: no check holds up another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

from moondream_station.core.facts.errors import StationError

T = TypeVar("T")


class Unknowable(Exception):
    """What a check needs to know could not be found out; another check says why.

    Args:
        what: What that is ("the machine").
        reason: Why not.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} could not be looked at: {reason}")
        self.what = what
        self.reason = reason


class Shared(Generic[T]):
    """One such fact.

    Args:
        what: What it is, for those who can't have it ("the machine").
        find: Finds it out.
    """

    def __init__(self, what: str, find: Callable[[], Awaitable[T]]) -> None:
        self._what = what
        self._find = find
        self._is_found = anyio.Event()
        self._value: tuple[T] | None = None
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Find it out; a failure is kept for those who ask."""
        try:
            self._value = (await self._find(),)
        except Exception as failure:  # noqa: BLE001  whatever it is, it must not end the other checks
            self._failure = failure
            await anyio.lowlevel.checkpoint()
        self._is_found.set()

    async def get(self) -> T:
        """The fact, as soon as it is found out.

        Raises:
            Unknowable: It could not be.
        """
        await self._is_found.wait()
        if self._value is None:
            raise Unknowable(self._what, explain(self._failure)) from self._failure
        return self._value[0]


def explain(failure: Exception | None) -> str:
    """A failure in words: our own say it themselves, others are named."""
    match failure:
        case StationError() | Unknowable():
            return str(failure)
        case _:
            return f"{type(failure).__name__}: {failure}".removesuffix(": ")
