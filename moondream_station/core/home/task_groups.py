"""Several things at once, with the error that counts by itself instead of a group of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias, TypeVar

from moondream_station.core.facts.errors import StationError

T = TypeVar("T")
_Job: TypeAlias = Callable[[], Coroutine[Any, Any, object]]


async def together(*jobs: _Job) -> None:
    """Do all of them side by side, and wait for all."""
    import anyio  # noqa: PLC0415  the command line takes `as_raised` from here, and starts without anyio

    with as_raised():
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(job)


async def accompanied(job: _Job, by: _Job) -> None:
    """Do one thing, and another beside it that ends when the first has ended."""
    import anyio  # noqa: PLC0415  likewise

    with as_raised():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(by)
            await job()
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def meanwhile(job: Callable[[], Awaitable[T]]) -> AsyncIterator[Callable[[], T]]:
    """Do something while the block does something else; what is yielded gives its result afterwards.

    That raises what the job raised of ours or of the system's, which ends nothing else.
    """
    import anyio  # noqa: PLC0415  likewise

    results: list[T] = []
    failures: list[StationError | OSError] = []

    async def do() -> None:
        try:
            results.append(await job())
        except (StationError, OSError) as error:
            failures.append(error)

    def result() -> T:
        if failures:
            raise failures[0]
        return results[0]

    with as_raised():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(do)
            yield result


@contextmanager
def as_raised() -> Iterator[None]:
    """Around task groups: the one thing that went wrong, or the first of errors all of ours, by itself."""
    cause: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        cause = group
        all_are_ours = group.split(StationError)[1] is None
        while isinstance(cause, BaseExceptionGroup) and (all_are_ours or len(cause.exceptions) == 1):
            cause = cause.exceptions[0]
        if isinstance(cause, BaseExceptionGroup):
            raise
    if cause is not None:
        raise cause
