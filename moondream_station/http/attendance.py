"""Cancels the work for a client when the client leaves or the station stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto

import anyio
from starlette.types import Receive

from moondream_station.core.home.task_groups import as_raised


class End(Enum):
    """Why the work for a client ended."""

    DONE = auto()
    CLIENT_GONE = auto()
    STATION_STOPPING = auto()


async def attend(
    work: Callable[[], Awaitable[None]],
    *,
    receive: Receive,
    stopping: anyio.Event,
    patience_seconds: float = 0.0,
) -> End:
    """Work for a client until the work ends, the client leaves or the station stops.

    `receive` is the request's ASGI channel, its body already read, so that only the disconnect is left. When
    the station stops, the work may continue for `patience_seconds`.

    Raises:
        Exception: The work's own.
    """
    end = End.DONE

    async def until_gone() -> None:
        nonlocal end
        while (await receive())["type"] != "http.disconnect":
            pass
        end = End.CLIENT_GONE
        attending.cancel_scope.cancel()

    async def until_stopping() -> None:
        nonlocal end
        await stopping.wait()
        end = End.STATION_STOPPING
        with anyio.move_on_after(patience_seconds):
            await anyio.sleep_forever()
        attending.cancel_scope.cancel()

    with as_raised():
        async with anyio.create_task_group() as attending:
            attending.start_soon(until_gone)
            attending.start_soon(until_stopping)
            await work()
            attending.cancel_scope.cancel()
    return end
