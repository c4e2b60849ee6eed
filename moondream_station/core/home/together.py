"""Several things at once, with the failure of one as the failure of all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import anyio

from moondream_station.core.home.one_error import one_error

_Job: TypeAlias = Callable[[], Coroutine[Any, Any, object]]


async def together(*jobs: _Job) -> None:
    """Do all of them side by side, and wait for all.

    Raises:
        StationError: The first that one of them raised, by itself; the others were cancelled for it.
    """
    with one_error():
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(job)


async def accompanied(job: _Job, by: _Job) -> None:
    """Do one thing, and another beside it that ends when the first has ended.

    Raises:
        StationError: Whichever of them raised, by itself.
    """
    with one_error():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(by)
            await job()
            tasks.cancel_scope.cancel()
