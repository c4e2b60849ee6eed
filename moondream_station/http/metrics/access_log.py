"""The access log: a line of JSON for each request, once it is answered or its client has left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send


def logged(app: ASGIApp, write: Callable[[str], object]) -> ASGIApp:
    """An application whose requests are written down, without query and headers, which may hold keys."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        at, began = datetime.now(UTC), time.monotonic()
        status: int | None = None
        sent_bytes = 0

        async def counted(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await app(scope, receive, counted)
        finally:
            line = {
                "event": "request",
                "at": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}",
                "client": (scope.get("client") or [None])[0],
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "bytes": sent_bytes,
                "seconds": round(time.monotonic() - began, 6),
            }
            write(json.dumps(line))

    return answer
