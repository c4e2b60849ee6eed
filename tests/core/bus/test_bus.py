"""Publishing facts and following them."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path

import anyio
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.bus.bus import STATION_FACTS_REMEMBERED, Bus, Subscription, new_activation_id
from moondream_station.core.bus.journal import Journal, read_history
from moondream_station.core.facts.errors import HistoryGone, SubscriberOverflowed
from moondream_station.core.facts.events import (
    ActivationCancelled,
    BackendActivationRequested,
    CancelReason,
    DownloadProgressed,
    Event,
    Fact,
    Stage,
    StageStarted,
    StopReason,
    WorkerStarted,
    WorkerStopped,
)
from moondream_station.core.facts.state import StationState, apply
from moondream_station.core.home.layout import Home
from support.facts import facts

pytestmark = pytest.mark.anyio

ID = "20261123T100000Z-ab12cd"
STARTED = StageStarted(stage=Stage.LOCK)
REQUESTED = BackendActivationRequested(model="m", backend="b", requirements=(), strategy="auto")
CANCELLED = ActivationCancelled(model="m", stage=Stage.LOCK, reason=CancelReason.USER)


@pytest.fixture
def bus() -> Bus:
    """A bus in memory."""
    return Bus(state=StationState())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of this test's own."""
    return Home(root=tmp_path)


def progress(received: int, file: str = "a.whl") -> DownloadProgressed:
    """Some bytes of a file."""
    return DownloadProgressed(
        file=file,
        received_bytes=received,
        total_bytes=None,
        transferred_bytes=received,
        resumed_from=0,
        overall_received_bytes=received,
        overall_total_bytes=None,
        overall_transferred_bytes=received,
        bytes_per_second=None,
        eta_seconds=None,
    )


async def rest_of(subscription: Subscription) -> list[Event]:
    """Everything until the subscription ends."""
    return [event async for event in subscription]


async def replayed(bus: Bus, after: int) -> list[Event]:
    """What the history gives after an event."""
    async with bus.subscribe(after=after) as subscription:
        subscription.close()
        return await rest_of(subscription)


async def test_a_subscriber_gets_what_is_published_from_then_on(bus: Bus) -> None:
    """In order, once, with the state as it was at the beginning."""
    before = bus.publish(REQUESTED, activation=ID)
    async with bus.subscribe() as subscription:
        assert subscription.state is bus.state
        assert subscription.last_seq == before.seq
        published = [bus.publish(STARTED, activation=ID), bus.publish(CANCELLED, activation=ID)]
        bus.close()
        assert await rest_of(subscription) == published


async def test_a_waiting_subscriber_is_woken(bus: Bus) -> None:
    """A reader that was there first gets the fact as soon as it is published."""
    received: list[Event] = []

    async def read(subscription: Subscription) -> None:
        async for event in subscription:
            received.append(event)  # noqa: PERF401  each as it comes

    async with bus.subscribe() as subscription, anyio.create_task_group() as tasks:
        tasks.start_soon(read, subscription)
        await anyio.wait_all_tasks_blocked()
        event = bus.publish(STARTED)
        await anyio.wait_all_tasks_blocked()
        assert received == [event]
        bus.close()


async def test_every_subscriber_gets_everything(bus: Bus) -> None:
    """One reader takes nothing from another."""
    async with bus.subscribe() as one, bus.subscribe() as other:
        event = bus.publish(STARTED)
        bus.close()
        assert await rest_of(one) == await rest_of(other) == [event]


async def test_progress_is_merged_and_the_order_of_the_rest_stays(bus: Bus) -> None:
    """Of each key the last one waits, and what a reader sees grows by seq."""
    async with bus.subscribe() as subscription:
        for received in range(1, 50):
            bus.publish(progress(received), activation=ID)
            bus.publish(progress(received, "b.whl"), activation=ID)
        bus.publish(STARTED, activation=ID)
        bus.publish(progress(50), activation=ID)
        bus.close()
        events = await rest_of(subscription)
    assert [event.fact for event in events] == [progress(49, "b.whl"), STARTED, progress(50)]
    assert [event.seq for event in events] == sorted(event.seq for event in events)


async def test_progress_of_two_activations_is_not_merged(bus: Bus) -> None:
    """The same file in another activation is another matter."""
    async with bus.subscribe() as subscription:
        for activation in (ID, "20261123T100001Z-000000"):
            bus.publish(progress(1), activation=activation)
        bus.close()
        assert len(await rest_of(subscription)) == 2


async def test_a_subscriber_that_overflows_is_closed_alone(bus: Bus) -> None:
    """It is told where to resume and loses nothing by that; the others read on."""
    async with bus.subscribe(buffer=3) as slow, bus.subscribe() as quick:
        published = [bus.publish(STARTED, activation=ID) for _ in range(2)]
        assert await anext(slow) == published[0]
        published += [bus.publish(STARTED, activation=ID) for _ in range(4)]
        with pytest.raises(SubscriberOverflowed) as caught:
            await anext(slow)
        assert caught.value.last_seq == published[0].seq
        with pytest.raises(SubscriberOverflowed):
            await anext(slow)
        async with bus.subscribe(after=caught.value.last_seq) as again:
            bus.close()
            assert await rest_of(again) == published[1:]
        assert await rest_of(quick) == published


async def test_merged_progress_never_overflows(bus: Bus) -> None:
    """A reader may sleep through a whole download."""
    async with bus.subscribe(buffer=2) as subscription:
        bus.publish(STARTED, activation=ID)
        for received in range(1000):
            bus.publish(progress(received), activation=ID)
        bus.close()
        assert [event.fact for event in await rest_of(subscription)] == [STARTED, progress(999)]


async def test_a_subscriber_that_never_reads_costs_bounded_memory(bus: Bus) -> None:
    """Neither its buffer nor the history grows with what is published."""
    with structlog.testing.capture_logs() as logs:

        def publish_many() -> int:
            for number in range(1500):
                bus.publish(WorkerStarted(model="m", pid=number))
                bus.publish(progress(number), activation=ID)
            logs.clear()
            return tracemalloc.get_traced_memory()[0]

        async with bus.subscribe(buffer=50):
            tracemalloc.start()
            try:
                first = publish_many()
                second = publish_many()
            finally:
                tracemalloc.stop()
    assert second - first < 100_000


async def test_a_closed_bus_ends_every_subscription(bus: Bus) -> None:
    """Also those that begin later; facts are still published and folded."""
    async with bus.subscribe() as subscription:
        bus.close()
        event = bus.publish(REQUESTED, activation=ID)
        assert await rest_of(subscription) == []
    async with bus.subscribe(after=0) as late:
        assert await rest_of(late) == [event]
    assert bus.state.activation is not None


async def test_leaving_the_context_ends_the_subscription(bus: Bus) -> None:
    """Nothing reaches it any more, and the bus forgets it."""
    async with bus.subscribe() as subscription:
        pass
    bus.publish(STARTED)
    assert await rest_of(subscription) == []


async def test_a_cancelled_reader_loses_no_event(bus: Bus) -> None:
    """What it was about to take is there for the next time."""
    async with bus.subscribe() as subscription:
        event = bus.publish(STARTED)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(subscription)
        with anyio.move_on_after(0):
            await anext(subscription)
        assert await anext(subscription) == event


async def test_two_readers_of_one_subscription_are_refused(bus: Bus) -> None:
    """Each would miss what the other took."""
    async with bus.subscribe() as subscription, anyio.create_task_group() as tasks:
        tasks.start_soon(rest_of, subscription)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await anext(subscription)
        bus.close()


async def test_a_reader_lets_others_run(bus: Bus) -> None:
    """A full buffer is no reason to keep the event loop to oneself."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with bus.subscribe() as subscription, anyio.create_task_group() as tasks:
        for _ in range(100):
            bus.publish(STARTED)
        bus.close()
        tasks.start_soon(others)
        assert len(await rest_of(subscription)) == 100
        tasks.cancel_scope.cancel()
    assert turns >= 50


async def test_history_is_replayed_and_goes_on_live(bus: Bus) -> None:
    """No gap and no repetition between what was and what comes."""
    published = [bus.publish(STARTED, activation=ID) for _ in range(3)]
    async with bus.subscribe(after=published[0].seq) as subscription:
        published.append(bus.publish(CANCELLED, activation=ID))
        bus.close()
        assert await rest_of(subscription) == published[1:]


async def test_of_progress_the_history_keeps_the_last(bus: Bus) -> None:
    """A reader that comes late sees where things are, not how they came there."""
    first = bus.publish(REQUESTED, activation=ID)
    for received in range(20):
        bus.publish(progress(received), activation=ID)
    assert [event.fact for event in await replayed(bus, first.seq)] == [progress(19)]
    assert [event.fact for event in await replayed(bus, first.seq + 5)] == [progress(19)]


async def test_a_replay_longer_than_the_buffer_is_no_overflow(bus: Bus) -> None:
    """The buffer bounds what waits, not what was missed."""
    published = [bus.publish(STARTED, activation=ID) for _ in range(20)]
    async with bus.subscribe(after=0, buffer=1) as subscription:
        assert [await anext(subscription) for _ in range(20)] == published


async def test_the_last_twenty_activations_are_remembered(bus: Bus) -> None:
    """Who resumes from before is told so, instead of getting a part."""
    ids = [f"20261123T1000{number:02d}Z-ab12cd" for number in range(22)]
    events = [bus.publish(REQUESTED, activation=activation) for activation in ids]
    assert await replayed(bus, events[1].seq) == events[2:]
    with pytest.raises(HistoryGone):
        await replayed(bus, events[0].seq)


async def test_the_stations_own_facts_are_bounded_too(bus: Bus) -> None:
    """A station that serves for a year does not grow."""
    first, *_, last = [bus.publish(STARTED) for _ in range(STATION_FACTS_REMEMBERED + 1)]
    assert len(await replayed(bus, first.seq)) == STATION_FACTS_REMEMBERED
    bus.publish(STARTED)
    with pytest.raises(HistoryGone):
        await replayed(bus, first.seq)
    assert len(await replayed(bus, last.seq)) == 1


@pytest.mark.parametrize("offset", [-1_000_000, 1, 10**9])
async def test_an_event_that_nobody_here_has_seen_is_unknown(bus: Bus, offset: int) -> None:
    """Neither one of a run that left no journal nor one that is still to come can be resumed from."""
    event = bus.publish(STARTED)
    with pytest.raises(HistoryGone):
        await replayed(bus, event.seq + offset)


async def test_a_reader_resumes_across_a_restart(home: Home) -> None:
    """The journals are the history of the next station, and seq goes on growing."""
    first = Bus(state=StationState(), journal=Journal(home))
    seen = first.publish(REQUESTED, activation=ID)
    missed = [first.publish(progress(5), activation=ID), first.publish(CANCELLED, activation=ID)]
    missed.append(first.publish(WorkerStopped(model="m", pid=1, reason=StopReason.SHUTDOWN)))
    second = Bus(state=StationState(), journal=Journal(home))
    assert second.state.seq == missed[-1].seq
    new = second.publish(STARTED)
    assert await replayed(second, seen.seq) == [*missed, new]
    assert await replayed(second, 0) == [seen, *missed, new]


async def test_what_was_lost_in_a_restart_cannot_be_resumed_from(home: Home) -> None:
    """Whoever has seen an event that was never written gets no history with a hole in it."""
    written = Bus(state=StationState(), journal=Journal(home)).publish(STARTED)
    lost = Bus(state=StationState(seq=written.seq)).publish(STARTED)
    second = Bus(state=StationState(), journal=Journal(home))
    second.publish(STARTED)
    assert len(await replayed(second, written.seq)) == 1
    with pytest.raises(HistoryGone):
        await replayed(second, lost.seq)


def test_seq_grows_although_the_clock_does_not(home: Home) -> None:
    """A clock that stands still or was set back gives the next number, also after a restart."""
    now = datetime(2026, 11, 23, tzinfo=UTC)
    moments = [now, now, now - timedelta(days=1), now + timedelta(seconds=1)]
    bus = Bus(state=StationState(), journal=Journal(home), clock=iter([now, *moments]).__next__)
    seqs = [bus.publish(STARTED).seq for _ in moments]
    micros = int(now.timestamp()) * 1_000_000
    assert seqs == [micros, micros + 1, micros + 2, micros + 1_000_000]
    early = Bus(state=StationState(), journal=Journal(home), clock=lambda: now - timedelta(days=3))
    assert early.publish(STARTED).seq == micros + 1_000_001


PUBLISHER = """
import sys
from pathlib import Path
import structlog
from moondream_station.core.bus.bus import Bus
from moondream_station.core.facts.events import Stage, StageStarted
from moondream_station.core.home.layout import Home
from moondream_station.core.bus.journal import Journal
from moondream_station.core.facts.state import StationState
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
bus = Bus(state=StationState(), journal=Journal(Home(root=Path(sys.argv[1]))))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(100):
    bus.publish(StageStarted(stage=Stage.LOCK), activation=sys.argv[2])
    bus.publish(StageStarted(stage=Stage.LOCK))
"""


def test_two_processes_publish_to_one_home(home: Home) -> None:
    """No fact is lost or torn, and for each of them seq grows."""
    ids = [ID, "20261123T100001Z-000000"]
    argv = [sys.executable, "-c", PUBLISHER, str(home.root)]
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen([*argv, one], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for one in ids
        ]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in running:
            process.communicate()
            assert process.returncode == 0
    events = read_history(home)
    assert len(events) == 400
    for activation in ids:
        seqs = [event.seq for event in events if event.activation == activation]
        assert len(set(seqs)) == 100


@given(st.lists(st.tuples(facts(), st.sampled_from([None, ID])), max_size=15))
def test_the_state_is_the_fold_of_everything_published(published: Sequence[tuple[Fact, str | None]]) -> None:
    """Nobody needs to fold for himself to know where things are."""
    first = StationState()
    bus = Bus(state=first)
    events = [bus.publish(fact, activation=activation) for fact, activation in published]
    assert bus.state == reduce(apply, events, first)


@given(st.lists(st.tuples(facts(), st.sampled_from([None, ID])), max_size=15), st.data())
def test_any_reader_sees_the_same_order(
    published: Sequence[tuple[Fact, str | None]], data: st.DataObject
) -> None:
    """Wherever it resumes: every fact that is no progress, the last progress of each key, growing by seq."""

    async def main() -> None:
        bus = Bus(state=StationState())
        events = [bus.publish(fact, activation=activation) for fact, activation in published]
        start = data.draw(st.integers(0, len(events)))
        got = await replayed(bus, events[start - 1].seq if start else 0)
        last = {event.merge_key or event.seq: event for event in events[start:]}
        assert got == sorted(last.values(), key=lambda event: event.seq)

    anyio.run(main)


def test_every_fact_is_logged_once(bus: Bus) -> None:
    """Under its own name, with its fields as keys: progress at debug, the rest at info."""
    with structlog.testing.capture_logs() as logs:
        event = bus.publish(WorkerStarted(model="m", pid=3))
        bus.publish(progress(1), activation=ID)
    assert logs[0] == {
        "event": "WorkerStarted",
        "log_level": "info",
        "seq": event.seq,
        "model": "m",
        "pid": 3,
    }
    assert [(log["event"], log["log_level"]) for log in logs[1:]] == [("DownloadProgressed", "debug")]
    assert logs[1]["activation"] == ID


def test_ids_of_activations_sort_as_they_began() -> None:
    """They are file names that everyone can read; one that follows a clock that was ahead comes after it."""
    ahead = (datetime(2126, 11, 23, 10, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    first = new_activation_id(after=int(ahead * 1_000_000) - 1)
    assert re.fullmatch(r"21261123T100000000000Z-[0-9a-f]{6}", first)
    assert first < new_activation_id(after=int(ahead * 1_000_000))
    assert new_activation_id() < first
    assert new_activation_id() != new_activation_id()
