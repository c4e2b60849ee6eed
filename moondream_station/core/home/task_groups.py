"""Several things at once, with the error that counts by itself instead of a group of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from moondream_station.core.facts.errors import StationError

_Job: TypeAlias = Callable[[], Coroutine[Any, Any, object]]


async def together(*jobs: _Job) -> None:
    """Do all of them side by side, and wait for all."""
    import anyio  # noqa: PLC0415  the command line takes `one_error` from here, and starts without anyio

    with one_error():
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(job)


async def accompanied(job: _Job, by: _Job) -> None:
    """Do one thing, and another beside it that ends when the first has ended."""
    import anyio  # noqa: PLC0415  the command line takes `one_error` from here, and starts without anyio

    with one_error():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(by)
            await job()
            tasks.cancel_scope.cancel()


@contextmanager
def one_error() -> Iterator[None]:
    """Around task groups: what an error of the station's own has ended, ends with that error by itself."""
    try:
        yield
    except ExceptionGroup as group:
        ours, others = group.split(StationError)
        if ours is None or others is not None:
            raise
        raise _first(ours) from group


@contextmanager
def as_raised() -> Iterator[None]:
    """Around a task group: the one thing that went wrong in it reaches the caller as it was raised."""
    single: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        single = group.exceptions[0]
    if single is not None:
        raise single


def _first(group: ExceptionGroup[StationError]) -> StationError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
