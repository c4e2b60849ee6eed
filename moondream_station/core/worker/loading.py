"""Waiting for a backend that fetches or loads its model: as long as it does something."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, TypedDict

import anyio
import anyio.to_thread
import psutil

from moondream_station.core.facts.errors import (
    NoSpace,
    StationError,
    WeightsUnreachable,
    WorkerFailed,
    WorkerTimeout,
)
from moondream_station.core.worker.requests import Frame, Request

_LOOK_SECONDS: Final = 5.0
"""How often a worker that loads its model is looked at for signs of life."""
_STALL_SECONDS: Final = 600.0
_TOLD_BY_BACKENDS: Final[tuple[type[StationError], ...]] = (WeightsUnreachable, NoSpace)
"""The errors whose code a backend may give as the cause of what it raises."""


class LoadOptions(TypedDict, total=False):
    """How a backend fetches or loads its model, and how it is watched meanwhile.

    Attributes:
        device: What verification computed on; passed on where the backend's function names it.
        stall_seconds: How long nothing may be seen of it (ten minutes): no line of output, no processor time,
            no change of `signs_of_life`.
        signs_of_life: Something that changes while work is done elsewhere, the size of a folder that is
            downloaded to, say. It is called in a thread.
        progress: Told how far the backend says it is: done, total where known, and of what.
    """

    device: str | None
    stall_seconds: float
    signs_of_life: Callable[[], Hashable] | None
    progress: Callable[[int, int | None, str], object]


def _ignore(_done: int, _total: int | None, _unit: str) -> None:
    """Nobody wants to know."""


async def last_frame(
    request: Request, options: LoadOptions, *, pid: int, lines: Callable[[], tuple[str, ...]]
) -> Frame:
    """The answer to a request that may take as long as the worker lives.

    Args:
        request: The request.
        options: How it is watched.
        pid: The worker's process.
        lines: What the worker wrote last.

    Raises:
        WorkerFailed: The worker died.
        WorkerTimeout: It stalled.
    """
    stall_seconds = options.get("stall_seconds", _STALL_SECONDS)
    progress = options.get("progress", _ignore)
    life = _Life(pid, lines, options.get("signs_of_life"))
    look_seconds = min(_LOOK_SECONDS, stall_seconds / 4)
    seen: Hashable = None
    seen_at = anyio.current_time()
    while True:
        frame = None
        with anyio.move_on_after(look_seconds):
            frame = await request.inbox.get()
        if frame is not None and frame["kind"] != "progress":
            return frame
        if frame is not None:
            progress(frame["done"], frame["total"], frame["unit"])
            seen_at = anyio.current_time()
        elif (signs := await life.signs()) != seen:
            seen, seen_at = signs, anyio.current_time()
        elif anyio.current_time() - seen_at >= stall_seconds:
            raise WorkerTimeout(
                f"`{request.subject}` gave no sign of life for {stall_seconds:g} s: no output, no"
                " processor time, nothing downloaded.",
                hint="`moondream-station logs` shows what it wrote last.",
                log="\n".join(lines()),
            )


class _Life:
    """What changes while a worker does something, whether or not it answers.

    Args:
        pid: The worker's process.
        lines: What it wrote last.
        elsewhere: What changes outside of it; called in a thread, because it may look at many files.
    """

    def __init__(
        self,
        pid: int,
        lines: Callable[[], tuple[str, ...]],
        elsewhere: Callable[[], Hashable] | None,
    ) -> None:
        self._pid = pid
        self._lines = lines
        self._elsewhere = elsewhere

    async def signs(self) -> Hashable:
        """Something that compares equal as long as nothing happens."""
        outside = await anyio.to_thread.run_sync(self._elsewhere) if self._elsewhere else None
        return (_processor_seconds(self._pid), self._lines(), outside)


def not_loaded(backend: str, frame: Frame, *, log: str) -> StationError:
    """Why a backend could not be initialised; it may have said by which cause."""
    for kind in _TOLD_BY_BACKENDS:
        if frame.get("cause") == kind.code:
            return kind(frame["message"], hint=frame.get("hint"), log=log)
    return WorkerFailed(
        f"The backend {backend} could not be initialised: {frame.get('type')}: {frame['message']}",
        hint="`moondream-station logs` shows what it wrote.",
        log=log,
    )


def _processor_seconds(pid: int) -> float:
    """Processor time of a process and its children so far; 0 once it is gone."""
    total = 0.0
    try:
        leader = psutil.Process(pid)
        for process in (leader, *leader.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
    except psutil.Error:
        return total  # gone meanwhile, which the link reports
    return total
