"""Publishing facts and following them.

Publishing is synchronous and never waits: each subscriber has a bounded buffer of its own, in which progress
of one key is merged and nothing else is. Everything here belongs to one event loop: `publish`, `close` and
the subscriptions are called in its thread alone (or, while nobody subscribes, where no loop runs).
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final, TypeAlias

import anyio
import anyio.lowlevel

from moondream_station.core.bus.journal import Journal
from moondream_station.core.facts.activation_state import WorkerState
from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.errors import HistoryGone, SubscriberOverflowed
from moondream_station.core.facts.events import Event, Fact
from moondream_station.core.facts.state import StationState, apply
from moondream_station.core.home.log import Log, is_logged

ACTIVATIONS_REMEMBERED: Final = 20
STATION_FACTS_REMEMBERED: Final = 1000

# Facts by merge key, or by a key of their own. A later one of the same key takes its place, at the end.
_Facts: TypeAlias = dict[object, Event]


class History:
    """Every fact of the last 20 activations and the last 1000 of the station's own.

    Of `past`, the facts of earlier runs, none after `complete_after` is missing (None: nobody knows). What
    lies between `seq`, the last one seen so far, and `begins_at`, the first one that can be given now, was
    published by a run that could not write it down: whoever has seen it can't go on from there.
    """

    def __init__(
        self, past: Iterable[Event] = (), *, complete_after: int | None = 0, seq: int, begins_at: int
    ) -> None:
        self._of_station: _Facts = {}
        self._of_activations: dict[str, _Facts] = {}
        self._known_after = seq if complete_after is None else complete_after
        self._last = self._seq = seq
        self._begins_at = begins_at
        for event in past:
            self.add(event)

    def add(self, event: Event) -> None:
        """Remember a fact, and forget the oldest beyond the bounds."""
        self._last = max(self._last, event.seq)
        if event.activation is None:
            _put(self._of_station, event)
            if len(self._of_station) > STATION_FACTS_REMEMBERED:
                oldest = self._of_station.pop(next(iter(self._of_station)))
                self._known_after = max(self._known_after, oldest.seq)
            return
        _put(self._of_activations.setdefault(event.activation, {}), event)
        if len(self._of_activations) > ACTIVATIONS_REMEMBERED:
            forgotten = self._of_activations.pop(next(iter(self._of_activations)))
            self._known_after = max(self._known_after, *(fact.seq for fact in forgotten.values()))

    def after(self, seq: int) -> list[Event]:
        """What followed an event, by seq; of progress the last one a key.

        `HistoryGone` where some of it is forgotten, or nobody here has seen that event.
        """
        is_between_runs = self._seq < seq < self._begins_at
        if not self._known_after <= seq <= self._last or is_between_runs:
            raise HistoryGone(
                f"The events after {seq} are no longer complete.", hint="Start with a snapshot."
            )
        everything = chain(self._of_station.values(), *map(dict.values, self._of_activations.values()))
        return sorted((event for event in everything if event.seq > seq), key=lambda event: event.seq)


def _put(facts: _Facts, event: Event) -> None:
    key = event.merge_key or object()
    facts.pop(key, None)
    facts[key] = event


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = Log()


def new_activation_id(*, after: int = 0) -> str:
    """An id for an activation that begins now: `20261123T100000123456Z-ab12cd`.

    Ids sort as their activations began, also when the clock was set back: `after` is the last seq.
    """
    moment = max(datetime.now(UTC), _EPOCH + timedelta(microseconds=after + 1))
    return f"{moment:%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(3)}"


class Subscription:
    """An async iterator of events, for one reader. It ends when the bus or the subscription is closed."""

    def __init__(self, *, state: StationState, after: int, replay: Sequence[Event], buffer: int) -> None:
        self.state = state
        self.last_seq = after
        self._replay = deque(replay)
        self._buffer: dict[object, Event] = {}
        self._limit = buffer
        self._news: anyio.Event | None = None
        self._guard = anyio.ResourceGuard("iterating over")
        self._is_closed = False
        self._is_overflowed = False

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """The next event, for one task alone; `SubscriberOverflowed` where more waited than there is room."""
        with self._guard:
            # Nothing is taken before this, and nothing is awaited after: a cancelled reader loses no event.
            await anyio.lowlevel.checkpoint()
            while True:
                if self._is_overflowed:
                    raise SubscriberOverflowed(last_seq=self.last_seq)
                event = self._taken()
                if event is not None:
                    self.last_seq = event.seq
                    return event
                if self._is_closed:
                    raise StopAsyncIteration
                self._news = anyio.Event()
                await self._news.wait()

    def offer(self, event: Event) -> None:
        """Take an event for the reader; never blocks. Called by the bus."""
        if self._is_closed or self._is_overflowed:
            return
        key = event.merge_key or object()
        # Put at the end, so that the order by seq stays as it is.
        self._buffer.pop(key, None)
        if len(self._buffer) < self._limit:
            self._buffer[key] = event
        else:
            self._is_overflowed = True
            self._buffer.clear()
            self._replay.clear()
        self._wake()

    def close(self) -> None:
        """End the iteration once what waits has been read."""
        self._is_closed = True
        self._wake()

    def _taken(self) -> Event | None:
        if self._replay:
            return self._replay.popleft()
        if self._buffer:
            return self._buffer.pop(next(iter(self._buffer)))
        return None

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()


class Bus:
    """Where every fact is published, once; without a journal they are kept in memory alone.

    `observe` sees each of them at once, and none twice.
    """

    def __init__(
        self,
        *,
        state: StationState,
        journal: Journal | None = None,
        observe: Callable[[Event], object] = lambda _: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._journal = journal
        self._observe = observe
        self._clock = clock
        self._subscriptions: set[Subscription] = set()
        self._is_closed = False
        events: list[Event] = []
        complete_after: int | None = state.seq
        if journal is not None:
            events, complete_after = journal.past(activations=ACTIVATIONS_REMEMBERED + 1)
        seq = max([state.seq, *(event.seq for event in events)])
        self._state = replace(state, seq=seq)
        self._history = History(
            events, complete_after=complete_after, seq=seq, begins_at=self._next_seq(clock())
        )

    @property
    def state(self) -> StationState:
        """The fold of the first state and everything published."""
        return self._state

    def amend_worker(self, worker: WorkerState) -> None:
        """What the active model's worker does by now, where the fact of it must come later."""
        active = self._state.active and replace(self._state.active, worker=worker)
        self._state = replace(self._state, active=active)

    def publish(self, fact: Fact, *, activation: str | None = None) -> Event:
        """Let everybody know, without waiting for anybody."""
        at = self._clock()
        event = Event(seq=self._next_seq(at), at=at, activation=activation, fact=fact)
        if self._journal is not None:
            self._journal.record(event)
        self._state = apply(self._state, event)
        self._history.add(event)
        self._observe(event)
        for subscription in self._subscriptions:
            subscription.offer(event)
        _log_fact(event)
        return event

    @asynccontextmanager
    async def subscribe(self, *, after: int | None = None, buffer: int = 1024) -> AsyncIterator[Subscription]:
        """Follow what is published, from the moment the context is entered.

        What followed the event `after` is replayed first, of progress the last one a key; `HistoryGone` where
        it is not known in full. `buffer` events may wait for the reader; one more closes this subscription.
        """
        replay = [] if after is None else self._history.after(after)
        seen = self._state.seq if after is None else after
        subscription = Subscription(state=self._state, after=seen, replay=replay, buffer=buffer)
        if self._is_closed:
            subscription.close()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            subscription.close()

    def close(self) -> None:
        """End every subscription, also later ones. Facts may still be published, and are written."""
        self._is_closed = True
        for subscription in self._subscriptions:
            subscription.close()

    def _next_seq(self, at: datetime) -> int:
        # Microseconds since the epoch grow across restarts and processes without a file of their own.
        return max(self._state.seq + 1, (at - _EPOCH) // timedelta(microseconds=1))


def _log_fact(event: Event) -> None:
    level, log = (logging.INFO, _log.info) if event.merge_key is None else (logging.DEBUG, _log.debug)
    if is_logged(level):
        fields = event_to_json(event)
        del fields["event"], fields["at"]
        log(event.name, **fields)
