"""Several things at once, with the failure of one as the failure of all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import anyio

from moondream_station.core.errors import StationError

_Job: TypeAlias = Callable[[], Coroutine[Any, Any, object]]


async def together(*jobs: _Job) -> None:
    """Do all of them side by side, and wait for all.

    Raises:
        StationError: The first that one of them raised, by itself; the others were cancelled for it.
    """
    with _one_error():
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(job)


async def accompanied(job: _Job, by: _Job) -> None:
    """Do one thing, and another beside it that ends when the first has ended.

    Raises:
        StationError: Whichever of them raised, by itself.
    """
    with _one_error():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(by)
            await job()
            tasks.cancel_scope.cancel()


@contextmanager
def _one_error() -> Iterator[None]:
    try:
        yield
    except ExceptionGroup as group:
        ours, others = group.split(StationError)
        if ours is None or others is not None:
            raise
        raise _first(ours) from group


def _first(group: ExceptionGroup[StationError]) -> StationError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, ExceptionGroup) else found
