"""What facts add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.facts.activation_state import Active, WorkerState
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.facts.codec import event_from_json, event_to_json
from moondream_station.core.facts.errors import ErrorInfo
from moondream_station.core.facts.events import (
    ActivationFailed,
    ActivationSucceeded,
    ActivationWaiting,
    BackendActivationRequested,
    BuildSelected,
    DownloadProgressed,
    EnvironmentBuilt,
    Event,
    Fact,
    FallbackChosen,
    ProbeFinished,
    RequirementsLocked,
    Stage,
    StageProgressed,
    StageStarted,
    StopReason,
    VerificationCompleted,
    VerificationReport,
    WorkerStarted,
    WorkerStopped,
)
from moondream_station.core.facts.state import StationInfo, StationState, apply, state_from_status, status
from support.facts import events, facts, legal_activations, order_broken, published

ID = "20261123T100000Z-ab12cd"
OLD = Active(
    model="old",
    backend="b",
    build="cpu",
    torch="2.9.0",
    environment="e0",
    worker=WorkerState.READY,
    worker_pid=5,
)
REQUESTED = BackendActivationRequested(model="new", backend="b", requirements=("torch",), strategy="auto")
SELECTED = BuildSelected(
    build="cpu", torch="2.14.1", index_url=None, source="find-links", reason="r", candidates=()
)
BUILT = EnvironmentBuilt(environment="e1", packages=3, reused=False, seconds=1.0)
STARTED = WorkerStarted(model="new", pid=77)
VERIFIED = VerificationCompleted(
    ok=True, report=VerificationReport(torch="2.14.1+cpu", device="cpu"), mismatches=()
)
SUCCEEDED = ActivationSucceeded(
    model="new", backend="b", build="cpu", environment="e1", degraded=None, seconds=2.0
)
FAILED = ActivationFailed(model="new", stage=Stage.LOCK, error=ErrorInfo(code="no-space", message="full"))


def progress(file: str, received: int, overall: int) -> DownloadProgressed:
    """Some bytes of a file of ten."""
    return DownloadProgressed(
        file=file,
        received_bytes=received,
        total_bytes=10,
        transferred_bytes=received,
        resumed_from=0,
        overall_received_bytes=overall,
        overall_total_bytes=20,
        overall_transferred_bytes=overall,
        bytes_per_second=5.0,
        eta_seconds=1.0,
    )


def fold(state: StationState, facts: Iterable[Fact], *, activation: str | None = ID) -> StationState:
    """The state after facts of one activation, or of none."""
    return reduce(apply, published(list(facts), activation=activation, first_seq=state.seq + 1), state)


def assert_valid(state: StationState) -> None:
    """What holds for every state whatever."""
    shown = status(state)
    assert set(shown) == {
        "station",
        "active",
        "verification",
        "activation",
        "capabilities",
        "calls",
        "worker",
    }
    again = status(state_from_status(state.seq, shown))
    assert again == shown
    if state.active is not None and state.active.worker in (WorkerState.STOPPED, WorkerState.FAILED):
        assert state.active.worker_pid is None or state.active.worker is WorkerState.FAILED
    if state.activation is not None and state.activation.files:
        names = [file.file for file in state.activation.files]
        assert len(names) == len(set(names))
        assert state.activation.overall_received_bytes is not None


@given(legal_activations())
def test_every_prefix_of_an_activation_folds_to_a_valid_state(steps: tuple[Fact, ...]) -> None:
    """At every instant there is one running activation until its terminal fact; then it is the last."""
    state = StationState(active=OLD)
    for event in published(steps, activation=ID):
        state = apply(state, event)
        assert_valid(state)
        assert state.seq == event.seq
        assert (state.activation is None) == event.is_terminal
    assert state.last is not None
    assert state.last.activation.id == ID
    assert state.last.outcome is steps[-1]


@given(legal_activations())
def test_an_activation_ends_once_and_in_order(steps: tuple[Fact, ...]) -> None:
    """The order is the contract's, before and after the way through JSON."""
    assert order_broken(steps) is None
    read = [event_from_json(event_to_json(event)).fact for event in published(steps, activation=ID)]
    assert order_broken(read) is None


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [SELECTED],
        [REQUESTED],
        [REQUESTED, SELECTED],
        [REQUESTED, FAILED, FAILED],
        [REQUESTED, FAILED, STARTED],
        [REQUESTED, STARTED, BUILT, SUCCEEDED],
        [REQUESTED, VERIFIED, SELECTED, FAILED],
        [REQUESTED, REQUESTED, FAILED],
    ],
)
def test_a_wrong_order_is_noticed(wrong: list[Fact]) -> None:
    """The check that other tests rely on says no where it must."""
    assert order_broken(wrong) is not None


@given(legal_activations(), st.data())
def test_a_history_may_begin_in_the_middle(steps: tuple[Fact, ...], data: st.DataObject) -> None:
    """Facts of an activation whose request was not seen never raise and never show half an activation."""
    rest = steps[data.draw(st.integers(1, len(steps))) :]
    state = fold(StationState(), rest)
    assert_valid(state)
    assert state.activation is None
    assert state.last is None


@given(st.lists(events(), max_size=12))
def test_any_facts_in_any_order_fold(some: list[Event]) -> None:
    """The fold is total, and its seq never goes back."""
    state = StationState()
    for event in some:
        following = apply(state, event)
        assert following.seq >= state.seq
        assert_valid(following)
        state = following


@given(legal_activations())
def test_the_active_model_changes_with_success_alone(steps: tuple[Fact, ...]) -> None:
    """Until then, and for ever after a failure, what was active still is."""
    before = fold(StationState(active=OLD), steps[:-1])
    assert before.active == OLD
    after = fold(before, steps[-1:])
    if isinstance(steps[-1], ActivationSucceeded):
        assert after.active is not None
        assert after.active.model == steps[-1].model
        assert after.active.worker is WorkerState.READY
    else:
        assert after.active == OLD


def test_a_whole_activation_ends_with_a_ready_model() -> None:
    """Active, its torch without the local part, its verification and its worker come from the facts."""
    steps: list[Fact] = [REQUESTED, SELECTED, BUILT, STARTED, VERIFIED, SUCCEEDED]
    state = fold(StationState(active=OLD), steps)
    assert state.active == Active(
        model="new",
        backend="b",
        build="cpu",
        torch="2.14.1",
        environment="e1",
        worker=WorkerState.READY,
        worker_pid=77,
    )
    assert state.verification == VERIFIED.report


def test_the_replaced_worker_ends_without_a_trace() -> None:
    """Its end comes after the terminal fact and is not the new worker's."""
    state = fold(StationState(active=OLD), [REQUESTED, BUILT, STARTED, VERIFIED, SUCCEEDED])
    stopped = fold(state, [WorkerStopped(model="old", pid=5, reason=StopReason.REPLACED)], activation=None)
    assert stopped.active == state.active


@pytest.mark.parametrize(
    ("reason", "worker"),
    [(StopReason.CRASHED, WorkerState.FAILED), (StopReason.SHUTDOWN, WorkerState.STOPPED)],
)
def test_the_end_of_the_active_worker_shows(reason: StopReason, worker: WorkerState) -> None:
    """A crash is a failure, every other end is none."""
    state = fold(
        StationState(active=OLD), [WorkerStopped(model="old", pid=5, reason=reason)], activation=None
    )
    assert state.active is not None
    assert (state.active.worker, state.active.worker_pid) == (worker, None)


def test_the_end_of_another_worker_changes_nothing() -> None:
    """Only the process id tells one worker of a model from the next."""
    other = WorkerStopped(model="old", pid=6, reason=StopReason.CRASHED)
    assert fold(StationState(active=OLD), [other], activation=None).active == OLD


@pytest.mark.parametrize(("ok", "worker"), [(True, WorkerState.READY), (False, WorkerState.FAILED)])
def test_a_station_starts_its_active_model(ok: bool, worker: WorkerState) -> None:  # noqa: FBT001  a parameter
    """Outside an activation a worker loads from its start and is ready, or not, by its verification."""
    stopped = StationState(
        active=Active(model="old", backend="b", build="cpu", torch="2.9.0", environment="e0")
    )
    loading = fold(stopped, [WorkerStarted(model="old", pid=9)], activation=None)
    assert loading.active is not None
    assert (loading.active.worker, loading.active.worker_pid) == (WorkerState.LOADING, 9)
    report = VerificationReport(torch="2.9.0+cpu")
    verified = fold(loading, [VerificationCompleted(ok=ok, report=report, mismatches=())], activation=None)
    assert verified.active is not None
    assert verified.active.worker is worker
    assert verified.verification == report


def test_the_old_worker_makes_way_and_comes_back() -> None:
    """Where memory is short it stops inside the activation, and starts again when that failed."""
    away = fold(
        StationState(active=OLD), [REQUESTED, WorkerStopped(model="old", pid=5, reason=StopReason.MEMORY)]
    )
    assert away.active is not None
    assert away.active.worker is WorkerState.STOPPED
    back = fold(away, [STARTED, WorkerStopped(model="new", pid=77, reason=StopReason.CRASHED)])
    assert back.active == away.active
    assert back.activation is not None
    assert back.activation.worker_pid is None
    back = fold(back, [WorkerStarted(model="old", pid=8), FAILED])
    assert back.active is not None
    assert (back.active.worker, back.active.worker_pid) == (WorkerState.LOADING, 8)


def test_going_back_to_a_running_worker_keeps_it() -> None:
    """Success without a new worker means that the one there is serves on."""
    same = ActivationSucceeded(
        model="old", backend="b", build="cpu", environment="e0", degraded=None, seconds=0.1
    )
    state = StationState(active=OLD, verification=VERIFIED.report)
    after = fold(state, [REQUESTED, same])
    assert after.active == OLD
    assert after.verification == VERIFIED.report


def test_a_success_whose_beginning_was_not_seen_counts() -> None:
    """The model is active all the same; what nobody told is unknown, and its later crash shows."""
    state = fold(StationState(active=OLD, verification=VERIFIED.report), [SUCCEEDED])
    assert state.active is not None
    assert (state.active.model, state.active.torch, state.active.worker_pid) == ("new", None, None)
    assert state.verification is None
    crashed = fold(state, [WorkerStopped(model="new", pid=1, reason=StopReason.CRASHED)], activation=None)
    assert crashed.active is not None
    assert crashed.active.worker is WorkerState.FAILED


def test_the_last_progress_of_each_file_is_kept() -> None:
    """In the order in which the files began, with the overall numbers of the last fact."""
    lock = RequirementsLocked(packages=2, total_bytes=21, seconds=0.1)
    state = fold(StationState(), [REQUESTED, SELECTED, lock])
    assert state.activation is not None
    assert (state.activation.overall_received_bytes, state.activation.overall_total_bytes) == (None, 21)
    state = fold(state, [progress("a", 1, 1), progress("b", 2, 3), progress("a", 5, 7)])
    assert state.activation is not None
    assert [(file.file, file.received_bytes) for file in state.activation.files] == [("a", 5), ("b", 2)]
    assert status(state)["activation"]["overall_received_bytes"] == 7
    assert state.activation.bytes_per_second == 5.0
    state = fold(state, [StageStarted(stage=Stage.BUILD)])
    assert state.activation is not None
    assert state.activation.bytes_per_second is None
    assert len(state.activation.files) == 2


def test_another_build_begins_anew() -> None:
    """After a fallback nothing that belonged to the first build is shown as the second's."""
    fallback = FallbackChosen(from_build="cu126", to_build="cpu", reason="r")
    tried: list[Fact] = [REQUESTED, SELECTED, progress("a", 1, 1), BUILT, STARTED, VERIFIED, fallback]
    state = fold(StationState(), [*tried, SELECTED])
    assert state.activation is not None
    assert state.activation.fallback == fallback
    assert state.activation.selection == SELECTED
    assert (state.activation.files, state.activation.environment, state.activation.verification) == (
        (),
        None,
        None,
    )
    assert state.activation.model == "new"


def test_waiting_is_shown_while_it_lasts() -> None:
    """The next fact of the activation ends it."""
    waiting = ActivationWaiting(holder_pid=3, holder_command="switch x", since=None)
    state = fold(StationState(), [REQUESTED, waiting])
    assert state.activation is not None
    assert state.activation.waiting == waiting
    state = fold(state, [StageStarted(stage=Stage.DETECT)])
    assert state.activation is not None
    assert (state.activation.waiting, state.activation.stage) == (None, Stage.DETECT)


def test_a_probe_and_a_stage_show_their_last_word() -> None:
    """A probe asked again replaces its answer; a stage's progress ends with the stage."""
    absent = ProbeFinished(probe="nvcc", outcome=Outcome.ABSENT, seconds=0.1, detail="")
    found = ProbeFinished(probe="nvcc", outcome=Outcome.FOUND, seconds=0.1, detail="13.0")
    files = StageProgressed(stage=Stage.BUILD, done=1, total=2, unit="files")
    state = fold(StationState(), [REQUESTED, absent, found, files])
    assert state.activation is not None
    assert state.activation.probes == (found,)
    assert state.activation.progress == files
    state = fold(state, [StageStarted(stage=Stage.START)])
    assert state.activation is not None
    assert state.activation.progress is None


@given(facts())
def test_facts_of_another_activation_leave_the_running_one(fact: Fact) -> None:
    """Nobody else's progress is shown as the running activation's, unless it takes its place."""
    state = fold(StationState(), [REQUESTED])
    other = Event(seq=9, at=datetime.now(UTC), activation="20270101T000000Z-000000", fact=fact)
    after = apply(state, other)
    if not isinstance(fact, BackendActivationRequested):
        assert after.activation == state.activation


def test_a_model_that_nobody_knows_takes_no_place() -> None:
    """Its request fails at once: what runs is shown as before, and goes on; alone it is what ended last."""
    unknown = BackendActivationRequested(model="nope", backend=None, requirements=(), strategy="auto")
    refused = ActivationFailed(
        model="nope", stage=Stage.PREPARE, error=ErrorInfo(code="unknown-model", message="nope")
    )
    running = fold(StationState(), [REQUESTED])
    after = fold(running, [unknown, refused], activation="20270101T000000Z-000000")
    assert after == replace(running, seq=after.seq)
    advanced = fold(after, [StageStarted(stage=Stage.LOCK)])
    assert advanced.activation is not None
    assert advanced.activation.stage is Stage.LOCK
    alone = fold(StationState(), [unknown, refused])
    assert alone.last is not None
    assert alone.last.outcome == refused


def test_status_shows_the_station_with_its_seq() -> None:
    """The station's own part is there when one serves."""
    info = StationInfo(instance="i", pid=4, address="http://127.0.0.1:2020", version="1.0")
    shown = status(StationState(seq=12, station=info))
    assert shown["station"] == {
        "instance": "i",
        "pid": 4,
        "address": "http://127.0.0.1:2020",
        "version": "1.0",
        "seq": 12,
    }
    assert status(StationState()) == dict.fromkeys(shown)


def test_a_snapshot_that_is_none_is_refused() -> None:
    """A client that talks to something else says so."""
    with pytest.raises(ValueError, match="station"):
        state_from_status(1, {"active": None})
