"""Cancels the work for a client when the client leaves or the station stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from moondream_station.core.home.task_groups import as_raised
from moondream_station.http.refusals import StationStopping


async def attend(
    work: Callable[[TaskGroup], Awaitable[None]],
    *,
    receive: Receive,
    stopping: anyio.Event,
    patience_seconds: float = 0.0,
) -> None:
    """Work for a client until the work ends, the client leaves or the station stops.

    The work may start tasks in the group it is given; they end with it. `receive` is the request's ASGI
    channel, its body already read, so that only the disconnect is left. When the station stops, the work may
    continue for `patience_seconds`. Raises `ClientDisconnect` or `StationStopping` where that ended it.
    """
    end: Exception | None = None

    async def until_gone() -> None:
        nonlocal end
        while (await receive())["type"] != "http.disconnect":
            pass
        end = ClientDisconnect()
        attending.cancel_scope.cancel()

    async def until_stopping() -> None:
        nonlocal end
        await stopping.wait()
        with anyio.move_on_after(patience_seconds):
            await anyio.sleep_forever()
        end = StationStopping("The station is stopping")
        attending.cancel_scope.cancel()

    with as_raised():
        async with anyio.create_task_group() as attending:
            attending.start_soon(until_gone)
            attending.start_soon(until_stopping)
            await work(attending)
            end = None
            attending.cancel_scope.cancel()
    if end is not None:
        raise end
