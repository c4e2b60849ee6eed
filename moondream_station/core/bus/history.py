"""The facts that a subscriber may still ask for: bounded, of progress the last one a key."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Final, TypeAlias

from moondream_station.core.facts.errors import HistoryGone
from moondream_station.core.facts.events import Event

ACTIVATIONS_REMEMBERED: Final = 20
STATION_FACTS_REMEMBERED: Final = 1000

# Facts by merge key, or by a key of their own. A later one of the same key takes its place, at the end.
_Facts: TypeAlias = dict[object, Event]


class History:
    """Every fact of the last 20 activations and the last 1000 of the station's own.

    Args:
        past: Facts of earlier runs by their seq.
        complete_after: None of the facts after this seq is missing in `past`; None where that is not known.
        seq: The last seq that anybody can have seen from here so far.
        begins_at: The first seq that can be given now. What lies between `seq` and this was published by a
            run that could not write it down, so whoever has seen it can't go on from there.
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

        Raises:
            HistoryGone: Some of it is forgotten, or nobody here has seen that event.
        """
        is_between_runs = self._seq < seq < self._begins_at
        if not self._known_after <= seq <= self._last or is_between_runs:
            raise HistoryGone(
                f"What followed event {seq} is no longer known in full.", hint="Begin with a snapshot."
            )
        everything = chain(self._of_station.values(), *map(dict.values, self._of_activations.values()))
        return sorted((event for event in everything if event.seq > seq), key=lambda event: event.seq)


def _put(facts: _Facts, event: Event) -> None:
    key = event.merge_key or object()
    facts.pop(key, None)
    facts[key] = event
