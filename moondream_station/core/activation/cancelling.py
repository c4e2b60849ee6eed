"""Asking an activation to end, across processes: a file beside its journal."""

from __future__ import annotations

from pathlib import Path

import anyio

from moondream_station.core.home.layout import Home

_POLL_SECONDS = 0.1


def cancel_request(home: Home, activation: str) -> Path:
    """The file whose existence asks an activation to end."""
    return home.activations / f"{activation}.cancel"


def ask_to_cancel(home: Home, activation: str) -> None:
    """Ask an activation of any process to end."""
    cancel_request(home, activation).touch()


def withdraw(home: Home, activation: str) -> None:
    """Take back what was asked of an activation that had ended by itself."""
    cancel_request(home, activation).unlink(missing_ok=True)


async def wait_for_cancel_request(home: Home, activation: str) -> None:
    """Return when somebody asked the activation to end; the request is taken away."""
    path = anyio.Path(cancel_request(home, activation))
    while not await path.exists():  # noqa: ASYNC110  it is another process that makes the file
        await anyio.sleep(_POLL_SECONDS)
    await path.unlink(missing_ok=True)
