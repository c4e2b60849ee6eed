"""How far a backend's `init_backend` is, told to the station.

Loaded by `worker_main.py` by path inside a backend's environment: standard library only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Self

_APART_SECONDS = 0.25


class Progress:
    """Tells how far one request is, from whichever thread, until its last frame is due."""

    def __init__(self, send: Callable[[dict[str, Any]], None], request: int) -> None:
        self._send = send
        self._request = request
        self._lock = threading.Lock()
        self._is_over = False
        self._told_at = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """From here on nothing is told: the request's last frame comes next."""
        with self._lock:
            self._is_over = True

    def __call__(self, done: int, total: int | None = None, unit: str = "bytes") -> None:
        """Tell how far it is; more often than four times a second only the end is sent."""
        with self._lock:
            now = time.monotonic()
            if self._is_over or (now - self._told_at < _APART_SECONDS and done != total):
                return
            self._told_at = now
            self._send(
                {
                    "kind": "progress",
                    "id": self._request,
                    "done": int(done),
                    "total": None if total is None else int(total),
                    "unit": str(unit)[:100],
                }
            )
