"""`GET /v1/station/events`: every event as it is published, resumable by its sequence number."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.errors import HistoryGone, SubscriberOverflowed
from moondream_station.core.facts.state import StationState, status
from moondream_station.core.home.task_groups import accompanied
from moondream_station.http.answers import to_json
from moondream_station.http.api import StationApi
from moondream_station.http.connection import attend
from moondream_station.http.refusals import MethodRefused, StationStopping

COMMENT_SECONDS: Final = 15.0
"""How often a stream sends a comment, so that neither proxies nor clients take it for dead."""

FAREWELL_SECONDS: Final = 0.2
"""How long a stopping station sends what was published, and then waits for a client that does not read."""

EVENT_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx holds events back until its buffer is full
]


def snapshot(state: StationState) -> dict[str, Any]:
    """The message that stands for everything up to `seq`."""
    return {"event": "Snapshot", "seq": state.seq, "state": status(state)}


def last_event_id(headers: Headers) -> int | None:
    """The sequence number to resume after; None without a valid one."""
    text = headers.get("last-event-id", "")
    # Sequence numbers are microseconds since 1970: 20 digits last for three million years.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None  # noqa: PLR2004


class EventStream:
    """Sends the bus's events to clients, each at its own speed, until the station stops.

    A client that reads too slowly overflows its own subscription only, and gets a snapshot, as does one
    without `Last-Event-ID` or with one that is no longer in the history.
    """

    def __init__(self, station: StationApi, *, comment_seconds: float = COMMENT_SECONDS) -> None:
        self._station = station
        self._comment_seconds = comment_seconds

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one request, until the client leaves or the station stops."""
        if scope["method"] != "GET":
            raise MethodRefused("/v1/station/events takes GET", headers={"Allow": "GET"})
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
        follow = partial(self._follow, last_event_id(Headers(scope=scope)), send)
        follow_alive = partial(accompanied, follow, by=partial(self._comment, send))
        with suppress(StationStopping):  # what was published before the station began to stop is still sent
            await attend(follow_alive, scope, patience_seconds=FAREWELL_SECONDS)
        with anyio.move_on_after(FAREWELL_SECONDS):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _follow(self, after: int | None, send: Send) -> None:
        while True:
            try:
                async with self._station.subscribe(after=after) as feed:
                    if after is None:
                        await send(_message(feed.state.seq, snapshot(feed.state)))
                    async for event in feed:
                        await send(_message(event.seq, event_to_json(event)))
            except (HistoryGone, SubscriberOverflowed):
                after = None
            else:
                return

    async def _comment(self, send: Send) -> None:
        while True:
            await anyio.sleep(self._comment_seconds)
            await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})


def _message(seq: int, data: dict[str, Any]) -> dict[str, Any]:
    body = b"id: %d\ndata: %b\n\n" % (seq, to_json(data))
    return {"type": "http.response.body", "body": body, "more_body": True}
