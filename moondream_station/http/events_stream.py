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
from moondream_station.core.facts.state import status
from moondream_station.core.home.task_groups import accompanied
from moondream_station.http.api import MethodRefused, StationApi, StationStopping
from moondream_station.http.connection import attend
from moondream_station.http.messages import to_json

COMMENT_SECONDS: Final = 15.0
"""How often a stream sends a comment, so that neither proxies nor clients take it for dead."""

FAREWELL_SECONDS: Final = 0.2
"""How long a stopping station sends what was published, and then waits for a client that does not read."""

EVENT_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx holds events back until its buffer is full
]


def last_event_id(headers: Headers) -> int | None:
    """The sequence number to resume after; None without a valid one."""
    text = headers.get("last-event-id", "")
    # Sequence numbers are microseconds since 1970: 20 digits last for three million years.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None  # noqa: PLR2004


async def send_events(
    station: StationApi, comment_seconds: float, scope: Scope, _receive: Receive, send: Send
) -> None:
    """Send a client the bus's events at its own speed, until it leaves or the station stops.

    A client that reads too slowly overflows its own subscription only, and gets a snapshot, as does one
    without `Last-Event-ID` or with one that is no longer in the history.
    """
    if scope["method"] != "GET":
        raise MethodRefused("/v1/station/events takes GET", headers={"Allow": "GET"})
    await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
    follow = partial(_follow, station, last_event_id(Headers(scope=scope)), send)
    follow_alive = partial(accompanied, follow, by=partial(_comment, comment_seconds, send))
    with suppress(StationStopping):  # what was published before the station began to stop is still sent
        await attend(follow_alive, scope, patience_seconds=FAREWELL_SECONDS)
    with anyio.move_on_after(FAREWELL_SECONDS):
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _follow(station: StationApi, after: int | None, send: Send) -> None:
    while True:
        try:
            async with station.subscribe(after=after) as feed:
                if after is None:
                    state = feed.state
                    snapshot = {"event": "Snapshot", "seq": state.seq, "state": status(state)}
                    await send(_message(state.seq, snapshot))
                async for event in feed:
                    await send(_message(event.seq, event_to_json(event)))
        except (HistoryGone, SubscriberOverflowed):
            after = None
        else:
            return


async def _comment(seconds: float, send: Send) -> None:
    while True:
        await anyio.sleep(seconds)
        await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})


def _message(seq: int, data: dict[str, Any]) -> dict[str, Any]:
    body = b"id: %d\ndata: %b\n\n" % (seq, to_json(data))
    return {"type": "http.response.body", "body": body, "more_body": True}
