"""Task groups raise groups of errors; whoever tells people or programs needs the one that counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moondream_station.core.facts.errors import StationError


@contextmanager
def one_error() -> Iterator[None]:
    """Around task groups: what an error of the station's own has ended, ends with that error by itself.

    Raises:
        StationError: The first one, where no other exceptions came with it.
    """
    try:
        yield
    except ExceptionGroup as group:
        ours, others = group.split(StationError)
        if ours is None or others is not None:
            raise
        raise _first(ours) from group


def _first(group: ExceptionGroup[StationError]) -> StationError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, ExceptionGroup) else found
