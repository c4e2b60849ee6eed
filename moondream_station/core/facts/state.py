"""The state that the facts add up to, which the panel, `status`, HTTP and the status page all show.

`apply` is a pure fold, total over every legal fact, also where a history begins in the middle: a fact of an
activation whose beginning was not seen changes what it can (machine, active model), nothing else. Until an
activation has succeeded, its worker and verification are its own; the active model's stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from moondream_station.core.facts import events as facts
from moondream_station.core.facts.activation_state import (
    ActivationShown,
    ActivationState,
    Active,
    ActiveShown,
    WorkerFact,
    WorkerState,
    advance,
    requested,
    with_worker,
)
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.codec import from_json, to_json
from moondream_station.core.facts.errors import ErrorInfo, StationError
from moondream_station.core.facts.events import Event, Terminal, VerificationReport

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StationInfo:
    """The station that serves, known before anything is published."""

    instance: str
    pid: int
    address: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StationShown(StationInfo):
    """The station that serves.

    Args:
        instance: This run's own name.
        pid: Its process id.
        address: Its base URL.
        version: Its version.
        seq: The last event that this status includes.
    """

    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShown:
    """A call that the active model answers.

    Args:
        function: Its name.
        seconds: How long the model has been at it.
        done: How far it is, as the backend says, or how much was streamed.
        total: Of how many.
        unit: Of what, mostly `tokens`.
    """

    function: str
    seconds: float
    done: int | None
    total: int | None
    unit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerShown:
    """The active model's worker.

    Args:
        pid: Its process id; null while it does not run.
        functions: The functions that it answers, sorted.
        failure: Why it does not serve, null where it does, or will in a moment.
        last_lines: What it wrote last before it failed, the oldest first.
    """

    pid: int | None
    functions: tuple[str, ...]
    failure: ErrorInfo | None
    last_lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Station, active model and its verification, running activation, machine; null where there is none.

    Args:
        calls: What the active model answers now; null where no station serves, and in snapshots.
        worker: The active model's worker; likewise.
    """

    station: StationShown | None
    active: ActiveShown | None
    verification: VerificationReport | None
    activation: ActivationShown | None
    capabilities: Capabilities | None
    calls: tuple[CallShown, ...] | None = None
    worker: WorkerShown | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedActivation:
    """An activation that ended, and how."""

    activation: ActivationState
    outcome: Terminal
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StationState:
    """Everything there is to show, up to the fact `seq`; `station` is None where a command works alone."""

    seq: int = 0
    station: StationInfo | None = None
    active: Active | None = None
    verification: VerificationReport | None = None
    activation: ActivationState | None = None
    capabilities: Capabilities | None = None
    last: FinishedActivation | None = None


def apply(state: StationState, event: Event) -> StationState:
    """The state after one more fact; never raises on a legal one."""
    fact = event.fact
    state = replace(state, seq=max(state.seq, event.seq))
    match fact:
        case facts.BackendActivationRequested(backend=None) if state.activation is not None:
            pass  # an unknown model: its activation fails at once, and the running one continues
        case facts.BackendActivationRequested():
            state = replace(state, activation=requested(event, fact))
        case facts.ActivationSucceeded():
            state = _ended(_succeeded(state, event, fact), event, fact)
        case facts.ActivationFailed() | facts.ActivationCancelled():
            state = _ended(state, event, fact)
        case facts.CapabilitiesDetected(capabilities=capabilities):
            state = _advanced(replace(state, capabilities=capabilities), event)
        case facts.WorkerStarted() | facts.WorkerStopped() | facts.VerificationCompleted():
            state = _after_worker(state, event, fact)
        case _:
            state = _advanced(state, event)
    return state


def status(
    state: StationState, calls: tuple[CallShown, ...] | None = None, worker: WorkerShown | None = None
) -> dict[str, Any]:
    """The state as `status --json`, `GET /v1/station` and a snapshot show it."""
    shown = Status(
        station=_as(StationShown, state.station, seq=state.seq),
        active=_as(ActiveShown, state.active),
        verification=state.verification,
        activation=_as(ActivationShown, state.activation),
        capabilities=state.capabilities,
        calls=calls,
        worker=worker,
    )
    data: dict[str, Any] = to_json(shown)
    return data


def worker_shown(state: StationState, functions: Iterable[str], failure: StationError | None) -> WorkerShown:
    """The active model's worker; `failure` is why it does not serve."""
    return WorkerShown(
        pid=state.active.worker_pid if state.active else None,
        functions=tuple(sorted(functions)),
        failure=failure.info if failure else None,
        last_lines=tuple(failure.log.splitlines()) if failure and failure.log else (),
    )


def state_from_status(seq: int, data: Mapping[str, Any]) -> StationState:
    """The state that a snapshot shows, to fold what follows it; ValueError where it is not a status.

    What `status` does not show is missing.
    """
    shown = from_json(Status, data)
    return StationState(
        seq=seq,
        station=_as(StationInfo, shown.station),
        active=_as(Active, shown.active),
        verification=shown.verification,
        activation=_as(ActivationState, shown.activation),
        capabilities=shown.capabilities,
    )


def _as(kind: type[T], source: DataclassInstance | None, **more: Any) -> T | None:
    """The fields that two pictures of one thing share, as the other picture."""
    if source is None:
        return None
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # only called with dataclasses
    shared = {field.name for field in fields(source)} & names
    return kind(**{name: getattr(source, name) for name in shared}, **more)


def _running(state: StationState, event: Event) -> ActivationState | None:
    """The running activation, if the event is one of its own."""
    if state.activation is None or event.activation != state.activation.id:
        return None
    return state.activation


def _advanced(state: StationState, event: Event) -> StationState:
    running = _running(state, event)
    return state if running is None else replace(state, activation=advance(running, event))


def _ended(state: StationState, event: Event, outcome: Terminal) -> StationState:
    running = _running(state, event)
    if running is None:
        return state
    last = FinishedActivation(activation=running, outcome=outcome, finished_at=event.at)
    active = state.active
    if (
        state.station is not None
        and active is not None
        and active.worker is WorkerState.STOPPED
        and running.model == active.model
        and not isinstance(outcome, facts.ActivationSucceeded)
    ):
        active = replace(active, worker=WorkerState.FAILED)  # it was to be made again, to be started at all
    return replace(state, activation=None, last=last, active=active)


def _succeeded(state: StationState, event: Event, fact: facts.ActivationSucceeded) -> StationState:
    before, running = state.active, _running(state, event)
    kept = before
    if before is not None and (before.model, before.environment) != (fact.model, fact.environment):
        kept = None
    verification = state.verification if kept is not None else None
    pid = kept.worker_pid if kept is not None else None  # the same model again: its worker may still run
    torch = kept.torch if kept is not None else None
    if running is not None:
        pid = running.worker_pid if running.worker_pid is not None else pid
        verification = running.verification.report if running.verification is not None else verification
        torch = running.selection.torch if running.selection is not None else torch
    if torch is None and verification is not None and verification.torch is not None:
        torch = verification.torch.partition("+")[0]
    active = Active(
        model=fact.model,
        backend=fact.backend,
        build=fact.build,
        torch=torch,
        environment=fact.environment,
        worker=WorkerState.READY,
        worker_pid=pid,
        degraded=fact.degraded,
    )
    return replace(state, active=active, verification=verification)


def _after_worker(state: StationState, event: Event, fact: WorkerFact) -> StationState:
    if event.activation is not None and not _is_of_the_old_worker(state, event):
        return _advanced(state, event)
    if state.active is None:
        return state
    verification = fact.report if isinstance(fact, facts.VerificationCompleted) else state.verification
    return replace(state, active=with_worker(state.active, fact), verification=verification)


def _is_of_the_old_worker(state: StationState, event: Event) -> bool:
    """Whether a fact inside an activation is about the active model's worker, ended or started again."""
    running = _running(state, event)
    match event.fact:
        case facts.WorkerStarted(model=model):
            return running is not None and model != running.model
        case facts.WorkerStopped(pid=pid):
            return running is None or pid != running.worker_pid
        case _:
            return False
