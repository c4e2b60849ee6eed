"""Ctrl-C and its relatives, as reasons to cancel."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import anyio
from anyio.abc import TaskStatus

from moondream_station.core.events import CancelReason

_REASONS = {signal.SIGINT: CancelReason.USER, signal.SIGTERM: CancelReason.SHUTDOWN}
if sys.platform != "win32":
    _REASONS[signal.SIGHUP] = CancelReason.SHUTDOWN


async def cancel_on_signal(
    cancel: Callable[[CancelReason], object],
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Call `cancel` for every SIGINT, SIGTERM and SIGHUP, until this task is cancelled itself.

    Args:
        cancel: Takes the reason; called again for each further signal.
        task_status: Told when signals are caught from here on.
    """
    if sys.platform == "win32":
        # No loop can wait for signals there: Ctrl-C raises KeyboardInterrupt in the main thread.
        task_status.started()
        await anyio.sleep_forever()
    with anyio.open_signal_receiver(*_REASONS) as signals:
        task_status.started()
        async for number in signals:
            cancel(_REASONS[signal.Signals(number)])
