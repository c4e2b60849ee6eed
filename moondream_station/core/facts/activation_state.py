"""How far an activation has come, and what is active: frozen pictures, and the pure step from fact to fact.

An active model's worker is *loading* from `WorkerStarted` on; *ready* by `ActivationSucceeded` or, where a
station starts what is active already, by a `VerificationCompleted` outside any activation (*failed* where
that is not ok); *stopped* by `WorkerStopped`, *failed* where that says crashed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias, assert_never

from moondream_station.core.facts import events as facts
from moondream_station.core.facts.events import Degraded, Event, Stage, StopReason

WorkerFact: TypeAlias = facts.WorkerStarted | facts.WorkerStopped | facts.VerificationCompleted


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationShown:
    """The activation that runs.

    Args:
        id: Its id.
        model: The model asked for.
        strategy: How its build is chosen.
        stage: Where it is.
        started_at: When it was requested.
        stage_started_at: When it came to its stage; null where that was not seen.
        overall_received_bytes: Bytes downloaded, over all files; null before the first.
        overall_total_bytes: Size of all files together; null where unknown.
    """

    id: str
    model: str
    strategy: str
    stage: Stage
    started_at: datetime
    stage_started_at: datetime | None = None
    overall_received_bytes: int | None
    overall_total_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationState(ActivationShown):
    """One activation, as far as it has come; what it has not come to yet is None or empty.

    Args:
        waiting: Which process is waited for; None again as soon as it resumes.
        selection: The build chosen; everything below starts over with it, when a fallback chooses another.
        total_bytes: Their wheels' size together, None also where a server does not tell it.
        files: The last progress of each file, in the order in which they began.
        fallback: The last change to another build, kept when that is chosen.
    """

    waiting: facts.ActivationWaiting | None = None
    probes: tuple[facts.ProbeFinished, ...] = ()
    selection: facts.BuildSelected | None = None
    packages: int | None = None
    total_bytes: int | None = None
    files: tuple[facts.DownloadProgressed, ...] = ()
    overall_received_bytes: int | None = None
    overall_total_bytes: int | None = None
    overall_transferred_bytes: int | None = None
    bytes_per_second: float | None = None
    eta_seconds: float | None = None
    progress: facts.StageProgressed | None = None
    progressed_at: datetime | None = None
    progressed_bytes: int = 0
    environment: str | None = None
    environment_reused: bool | None = None
    worker_pid: int | None = None
    verification: facts.VerificationCompleted | None = None
    fallback: facts.FallbackChosen | None = None


def requested(event: Event, fact: facts.BackendActivationRequested) -> ActivationState:
    """The activation that a request begins."""
    return ActivationState(
        id=event.activation or "",
        model=fact.model,
        strategy=fact.strategy,
        stage=Stage.PREPARE,
        started_at=event.at,
        stage_started_at=event.at,
    )


def advance(activation: ActivationState, event: Event) -> ActivationState:  # noqa: C901, PLR0911, PLR0912  one case a fact
    """The activation after one more of its facts. Its first and last fact belong to the station's fold."""
    fact = event.fact
    if isinstance(fact, facts.ActivationWaiting):
        return replace(activation, waiting=fact)
    if activation.waiting is not None:
        activation = replace(activation, waiting=None)
    match fact:
        case facts.StageStarted(stage=stage):
            return replace(
                activation,
                stage=stage,
                stage_started_at=event.at,
                progress=None,
                bytes_per_second=None,
                eta_seconds=None,
            )
        case facts.StageProgressed():
            return _progressed(activation, fact, event.at)
        case facts.ProbeFinished(probe=probe):
            others = tuple(known for known in activation.probes if known.probe != probe)
            return replace(activation, probes=(*others, fact))
        case facts.BuildSelected():
            return _chosen(activation, fact)
        case facts.RequirementsLocked(packages=packages, total_bytes=total):
            return replace(activation, packages=packages, total_bytes=total, overall_total_bytes=total)
        case facts.DownloadProgressed():
            return _downloaded(activation, fact)
        case facts.EnvironmentBuilt(environment=environment, reused=reused):
            return replace(activation, environment=environment, environment_reused=reused)
        case facts.WorkerStarted(pid=pid):
            return replace(activation, worker_pid=pid)
        case facts.WorkerStopped(pid=pid):
            return replace(activation, worker_pid=None) if pid == activation.worker_pid else activation
        case facts.VerificationCompleted():
            return replace(activation, verification=fact)
        case facts.FallbackChosen():
            return replace(activation, fallback=fact)
        case facts.CapabilitiesDetected() | facts.BackendActivationRequested():
            return activation
        case facts.ActivationSucceeded() | facts.ActivationFailed() | facts.ActivationCancelled():
            return activation
        case _:
            assert_never(fact)


def _progressed(activation: ActivationState, fact: facts.StageProgressed, at: datetime) -> ActivationState:
    """With the speed of bytes: a mean over the last seconds, as downloads have it."""
    before, rate, eta = activation.progress, None, None
    if fact.unit == "bytes" and before is not None and before.unit == "bytes" and activation.progressed_at:
        seconds = (at - activation.progressed_at).total_seconds()
        kept = 0.5 ** (max(0.0, seconds) / _HALF_LIFE_SECONDS)
        if seconds < _SAMPLE_SECONDS:  # too short to say anything: the next one counts from the same moment
            return replace(activation, progress=fact)
        rate = max(0, fact.done - activation.progressed_bytes) / seconds
        if activation.bytes_per_second is not None:
            rate = activation.bytes_per_second * kept + rate * (1 - kept)
        if rate and fact.total is not None:
            eta = max(0, fact.total - fact.done) / rate
    return replace(
        activation,
        progress=fact,
        progressed_at=at,
        progressed_bytes=fact.done,
        bytes_per_second=rate,
        eta_seconds=eta,
    )


def _chosen(activation: ActivationState, fact: facts.BuildSelected) -> ActivationState:
    """A build was chosen: what came of another one is no longer true of this one."""
    kept = {name: getattr(activation, name) for name in _OF_EVERY_BUILD}
    return ActivationState(**kept, selection=fact)


_SAMPLE_SECONDS = 1.0
_HALF_LIFE_SECONDS = 5.0
_OF_EVERY_BUILD = ("id", "model", "strategy", "stage", "started_at", "stage_started_at", "probes", "fallback")


def _downloaded(activation: ActivationState, fact: facts.DownloadProgressed) -> ActivationState:
    files = {file.file: file for file in activation.files} | {fact.file: fact}
    overall = {name: getattr(fact, name) for name in _OVERALL}
    return replace(activation, files=tuple(files.values()), **overall)


_OVERALL = (
    *("overall_received_bytes", "overall_total_bytes", "overall_transferred_bytes"),
    *("bytes_per_second", "eta_seconds"),
)


class WorkerState(StrEnum):
    """What the active model's worker does."""

    STOPPED = "stopped"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveShown:
    """The active model.

    Args:
        model: Its id.
        backend: The backend that serves it.
        build: The PyTorch build, null for a backend without torch.
        torch: The torch version without its local part.
        environment: The environment's name.
        worker: What its worker does.
        degraded: What it should have been, null where it is that.
    """

    model: str
    backend: str
    build: str | None
    torch: str | None
    environment: str
    worker: WorkerState
    degraded: Degraded | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Active(ActiveShown):
    """The active model, with what `status` does not show of its worker."""

    worker: WorkerState = WorkerState.STOPPED
    worker_pid: int | None = None
    further_pids: tuple[int, ...] = ()
    """Of workers beside that one: the model is ready while any of them is."""
    degraded: Degraded | None = None

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """The process ids of all workers; there are several where each answers one request."""
        return () if self.worker_pid is None else (self.worker_pid, *self.further_pids)


def with_worker(active: Active, fact: WorkerFact) -> Active:
    """The active model after a fact about a worker outside its activation; others change nothing."""
    match fact:
        case facts.WorkerStarted(model=model, pid=pid):
            if model != active.model:
                return active
            if active.worker is WorkerState.READY and active.worker_pid is not None:
                return replace(active, further_pids=(*active.further_pids, pid))
            return replace(active, worker=WorkerState.LOADING, worker_pid=pid)
        case facts.WorkerStopped():
            return _without(active, fact)
        case facts.VerificationCompleted(ok=ok):
            return replace(active, worker=WorkerState.READY if ok else WorkerState.FAILED)
        case _:
            assert_never(fact)


def _without(active: Active, fact: facts.WorkerStopped) -> Active:
    """The active model after the end of a worker, of which there may be others."""
    if fact.pid in active.further_pids:
        return replace(active, further_pids=tuple(pid for pid in active.further_pids if pid != fact.pid))
    if not _is_its_worker(active, fact):
        return active
    if active.further_pids:
        pid, *others = active.further_pids
        return replace(active, worker_pid=pid, further_pids=tuple(others))
    worker = WorkerState.FAILED if fact.reason is StopReason.CRASHED else WorkerState.STOPPED
    return replace(active, worker=worker, worker_pid=None)


def _is_its_worker(active: Active, fact: facts.WorkerStopped) -> bool:
    if active.worker_pid is not None:
        return fact.pid == active.worker_pid
    # Its start was not seen. A worker that was replaced is the one before, though its model may be the same.
    is_running = active.worker in (WorkerState.LOADING, WorkerState.READY)
    return is_running and fact.model == active.model and fact.reason is not StopReason.REPLACED
