"""Facts that several checks need, each found out once, in a task of its own: no check holds up another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

from moondream_station.core.facts.errors import StationError

T = TypeVar("T")


class Unknowable(Exception):
    """A check lacks a fact that could not be found out, and for which another check says why."""

    def __init__(self, fact: str, reason: str) -> None:
        super().__init__(f"{fact} could not be read: {reason}")
        self.fact = fact
        self.reason = reason


class Shared(Generic[T]):
    """One such fact.

    Args:
        name: Its name in the message to checks that can't have it ("the machine").
        find: Finds it out.
    """

    def __init__(self, name: str, find: Callable[[], Awaitable[T]]) -> None:
        self._name = name
        self._find = find
        self._is_known = anyio.Event()
        self._value: tuple[T] | None = None
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Find it out; a failure is kept for those who ask."""
        try:
            self._value = (await self._find(),)
        except Exception as failure:  # noqa: BLE001  whatever it is, it must not end the other checks
            self._failure = failure
            await anyio.lowlevel.checkpoint()
        self._is_known.set()

    async def get(self) -> T:
        """The fact, as soon as it is known.

        Raises:
            Unknowable: It could not be found out.
        """
        await self._is_known.wait()
        if self._value is None:
            raise Unknowable(self._name, explain(self._failure)) from self._failure
        return self._value[0]


def explain(failure: Exception | None) -> str:
    """A failure in words: the station's own as they are, others with their type."""
    match failure:
        case StationError() | Unknowable():
            return str(failure)
        case _:
            return f"{type(failure).__name__}: {failure}".removesuffix(": ")
