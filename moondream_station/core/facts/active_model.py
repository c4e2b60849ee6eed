"""The active model and its worker: a frozen picture, and the pure step from one fact to the next.

The worker is *loading* from `WorkerStarted` on; *ready* by `ActivationSucceeded` or, where a station starts
what is active already, by a `VerificationCompleted` outside any activation (*failed* where that is not ok);
*stopped* by `WorkerStopped`, *failed* where that says crashed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from moondream_station.core.facts.events import (
    Degraded,
    StopReason,
    VerificationCompleted,
    WorkerStarted,
    WorkerStopped,
)


class WorkerState(StrEnum):
    """What the active model's worker does."""

    STOPPED = "stopped"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """The active model.

    Args:
        model: Its id.
        backend: The backend that serves it.
        build: The PyTorch build, None for a backend without torch.
        torch: The torch version without its local part ("2.14.1"), None where it is not known.
        environment: The environment's name.
        worker: What its worker does.
        worker_pid: That worker's process id, None where none is known.
        degraded: What it should have been, None where it is that.
    """

    model: str
    backend: str
    build: str | None
    torch: str | None
    environment: str
    worker: WorkerState = WorkerState.STOPPED
    worker_pid: int | None = None
    degraded: Degraded | None = None


def with_worker(active: Active, fact: WorkerStarted | WorkerStopped | VerificationCompleted) -> Active:
    """The active model after a fact about a worker outside its activation; others change nothing."""
    match fact:
        case WorkerStarted(model=model, pid=pid):
            if model != active.model:
                return active
            return replace(active, worker=WorkerState.LOADING, worker_pid=pid)
        case WorkerStopped(reason=reason):
            if not _is_its_worker(active, fact):
                return active
            worker = WorkerState.FAILED if reason is StopReason.CRASHED else WorkerState.STOPPED
            return replace(active, worker=worker, worker_pid=None)
        case VerificationCompleted(ok=ok):
            return replace(active, worker=WorkerState.READY if ok else WorkerState.FAILED)
        case _:
            assert_never(fact)


def _is_its_worker(active: Active, fact: WorkerStopped) -> bool:
    if active.worker_pid is not None:
        return fact.pid == active.worker_pid
    # Its start was not seen. A worker that was replaced is the one before, though its model may be the same.
    is_running = active.worker in (WorkerState.LOADING, WorkerState.READY)
    return is_running and fact.model == active.model and fact.reason is not StopReason.REPLACED
