"""Facts as JSON and back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.codec import (
    FACTS,
    event_from_json,
    event_to_json,
    from_json,
    time_from_text,
    time_to_text,
    to_json,
)
from moondream_station.core.facts.events import Event, VerificationReport, WorkerStarted
from support.facts import events, instances

EVENT = Event(
    seq=7,
    at=datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC),
    activation="20261122T100000Z-ab12cd",
    fact=WorkerStarted(model="selftest", pid=12),
)
WRITTEN: dict[str, Any] = {
    "event": "WorkerStarted",
    "seq": 7,
    "at": "2026-11-22T10:00:00.123456Z",
    "activation": "20261122T100000Z-ab12cd",
    "model": "selftest",
    "pid": 12,
}


def test_an_event_is_written_to_the_letter() -> None:
    """The name, the common fields and the fact's own, in this order."""
    assert event_to_json(EVENT) == WRITTEN
    assert list(event_to_json(EVENT)) == list(WRITTEN)


def test_an_event_outside_an_activation_has_no_such_key() -> None:
    """The key is absent, not null."""
    assert "activation" not in event_to_json(replace(EVENT, activation=None))


@given(events())
def test_every_event_comes_back_as_it_was(event: Event) -> None:
    """Writing and reading again gives an equal event, by way of real JSON text."""
    text = json.dumps(event_to_json(event), allow_nan=False)
    assert event_from_json(json.loads(text)) == event


@given(events())
def test_every_written_event_is_written_the_same_again(event: Event) -> None:
    """Reading and writing again gives equal JSON: nothing is lost on either way."""
    data = event_to_json(event)
    assert event_to_json(event_from_json(data)) == data


@pytest.mark.parametrize("name", FACTS)
def test_no_fact_shadows_a_common_field(name: str) -> None:
    """A fact's own fields can stand beside the common ones."""
    assert not {field.name for field in fields(FACTS[name])} & {"event", "seq", "at", "activation"}


@pytest.mark.parametrize(
    "change",
    [
        {"event": "WorkerExploded"},
        {"event": None},
        {"event": ["WorkerStarted"]},
        {"seq": "7"},
        {"seq": True},
        {"seq": -1},
        {"seq": 7.0},
        {"at": "2026-11-22T10:00:00Z"},
        {"at": "2026-11-22T10:00:00.123456+00:00"},
        {"at": "0001-01-01T00:00:00.000000+05:00"},
        {"at": "yesterdayZ"},
        {"at": 1763805600},
        {"activation": None},
        {"activation": 3},
        {"pid": "12"},
        {"pid": 12.5},
        {"pid": True},
        {"pid": None},
        {"model": "\ud800"},
        {"model": {1, 2}},
        {"colour": "blue"},
    ],
)
def test_what_is_not_exactly_an_event_is_refused(change: dict[str, Any]) -> None:
    """An unknown event or field and a value of another type are errors, never guessed at."""
    with pytest.raises(ValueError, match=r"\S"):
        event_from_json({**WRITTEN, **change})


@pytest.mark.parametrize("missing", ["event", "seq", "at", "model", "pid"])
def test_a_missing_field_is_refused(missing: str) -> None:
    """Nothing but the activation may be missing."""
    with pytest.raises(ValueError, match=r"\S"):
        event_from_json({name: value for name, value in WRITTEN.items() if name != missing})


TEXT = st.text(max_size=8)
JSON = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    st.lists(st.integers() | TEXT, max_size=3),
    st.dictionaries(TEXT, st.integers() | TEXT, max_size=3),
)


@given(st.sampled_from([*FACTS, "Nothing"]), st.dictionaries(st.sampled_from([*WRITTEN, "report"]), JSON))
def test_reading_anything_gives_an_event_or_a_value_error(name: str, data: dict[str, Any]) -> None:
    """Whatever comes from outside, the reader says no in one way only."""
    try:
        event = event_from_json({**WRITTEN, **data, "event": name})
    except ValueError:
        return
    assert event.name == name


def test_an_unknown_field_deep_inside_is_refused() -> None:
    """Strictness does not end at the first level."""
    machine = Capabilities(system="Linux", release="6.8", machine="x86_64", python="3.12.3")
    with pytest.raises(ValueError, match="colour"):
        from_json(Capabilities, {**to_json(machine), "gpus": [{"vendor": "nvidia", "colour": "green"}]})


@given(instances(Capabilities))
def test_capabilities_come_back_as_they_were(capabilities: Capabilities) -> None:
    """A snapshot survives the cache and a record."""
    assert from_json(Capabilities, json.loads(json.dumps(to_json(capabilities)))) == capabilities


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_has_not_is_null(number: float) -> None:
    """A broken computation's error of not-a-number must not break its readers."""
    assert to_json(VerificationReport(max_abs_error=number))["max_abs_error"] is None


def test_undecodable_text_is_escaped() -> None:
    """A file name that is no Unicode can still be told of."""
    assert to_json("wheel-\udcff.whl") == "wheel-\\udcff.whl"


def test_paths_and_moments_have_a_json_form() -> None:
    """Records hold them; both come back."""

    @dataclass(frozen=True)
    class Place:
        path: Path
        since: datetime

    place = Place(path=Path("/srv/a"), since=EVENT.at)
    assert to_json(place) == {"path": str(Path("/srv/a")), "since": "2026-11-22T10:00:00.123456Z"}
    assert from_json(Place, to_json(place)) == place


def test_what_has_no_json_form_is_a_programming_error() -> None:
    """Nothing is turned into its repr silently."""
    with pytest.raises(TypeError, match="object"):
        to_json(object())


def test_a_moment_is_written_in_utc() -> None:
    """Other zones are converted, microseconds are always there."""
    moment = datetime(2026, 11, 22, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    assert time_to_text(moment) == "2026-11-22T10:00:00.000000Z"
    assert time_from_text(time_to_text(moment)) == moment
