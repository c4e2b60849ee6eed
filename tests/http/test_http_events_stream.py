"""Following the station's events: order, resuming, overflow and the end, byte by byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.events import ProbeFinished, Stage, StageStarted
from moondream_station.core.facts.state import status
from moondream_station.http.app import last_event_id
from support.http_server import Line, Served, serving
from support.station_api import FakeStation

pytestmark = pytest.mark.anyio


def probe(number: int, *, size: int = 0) -> ProbeFinished:
    """A fact that is never merged."""
    return ProbeFinished(probe=f"p{number}", outcome=Outcome.FOUND, seconds=0.1, detail="x" * size)


async def follow(line: Line, *, after: object = None) -> None:
    """Ask for the events and read the answer's head."""
    resume = "" if after is None else f"Last-Event-ID: {after}\n"
    await line.send(f"GET /v1/station/events HTTP/1.1\nHost: localhost\n{resume}\n")
    code, headers = await line.read_head()
    assert code == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-store"


async def chunk(line: Line) -> list[str]:
    """The lines of one message; each comes in a chunk of its own."""
    size = int(await line.read_line(), 16)
    if size == 0:
        return []
    lines = []
    while size > 0:
        text = await line.read_line()
        lines.append(text)
        size -= len(text) + 1
    await line.read_line()
    return lines


async def message(line: Line) -> dict[str, Any]:
    """The next message; nothing but `id:` and `data:` may be in it."""
    identity, data, end = await chunk(line)
    assert identity.startswith("id: ")
    assert data.startswith("data: ")
    assert end == ""
    content: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert identity == f"id: {content['seq']}"
    return content


async def test_a_follower_gets_a_snapshot_then_what_follows(served: Served) -> None:
    """First everything up to now, then each event as it is published, once and in order."""
    bus = served.station.bus
    bus.publish(probe(0))
    async with served.line() as line:
        await follow(line)
        assert await message(line) == {
            "event": "Snapshot",
            "seq": bus.state.seq,
            "state": status(bus.state),
        }
        published = [bus.publish(probe(number)) for number in range(1, 50)]
        for event in published:
            assert await message(line) == event_to_json(event)


async def test_a_follower_resumes_after_the_last_event_it_saw(served: Served) -> None:
    """What was published in between comes from the history, without a snapshot."""
    bus = served.station.bus
    first, *missed = [bus.publish(StageStarted(stage=stage), activation="a") for stage in Stage]
    async with served.line() as line:
        await follow(line, after=first.seq)
        for event in missed:
            assert await message(line) == event_to_json(event)
        now = bus.publish(probe(1))
        assert await message(line) == event_to_json(now)


@pytest.mark.parametrize("after", [1, 99999999999999999999, "abc", "-1", "", "²", "9" * 40])
async def test_a_follower_that_can_not_resume_gets_a_snapshot(served: Served, after: object) -> None:
    """Whatever it was that it saw last: too old, never published, or no number at all."""
    async with served.line() as line:
        await follow(line, after=after)
        assert (await message(line))["event"] == "Snapshot"
        event = served.station.bus.publish(probe(1))
        assert await message(line) == event_to_json(event)


@given(st.text(alphabet=st.characters(max_codepoint=255)))
def test_any_last_event_id_is_read_without_failing(text: str) -> None:
    """A number of ours, or none."""
    seq = last_event_id(Headers(raw=[(b"last-event-id", text.encode("latin-1"))]))
    assert seq is None or seq >= 0


async def test_a_quiet_stream_shows_signs_of_life() -> None:
    """Comments, which clients pass over, at their interval."""
    async with serving(FakeStation(), comment_seconds=0.01) as served, served.line() as line:
        await follow(line)
        await message(line)
        for _ in range(3):
            assert await chunk(line) == [":", ""]


async def test_a_slow_follower_overflows_alone_and_gets_another_snapshot() -> None:
    """The publisher waits for nobody, another follower misses nothing, and the slow one starts afresh."""
    station = FakeStation(buffer=8)
    async with serving(station) as served, served.line() as slow, served.line() as quick:
        await follow(slow)
        await follow(quick)
        assert (await message(slow))["event"] == "Snapshot"
        assert (await message(quick))["event"] == "Snapshot"
        for number in range(120):
            event = station.bus.publish(probe(number, size=100_000))
            assert await message(quick) == event_to_json(event)
        seen = [await message(slow)]
        while seen[-1]["event"] != "Snapshot":
            seen.append(await message(slow))
        assert seen[-1]["seq"] == station.bus.state.seq
        assert [fact["probe"] for fact in seen[:-1]] == [f"p{number}" for number in range(len(seen) - 1)]
        assert len(seen) < 120
        last = station.bus.publish(probe(1))
        assert await message(slow) == event_to_json(last)


async def test_streams_end_with_the_station() -> None:
    """Every follower sees an orderly end."""
    async with serving(FakeStation()) as served, served.line() as one, served.line() as other:
        for line in (one, other):
            await follow(line)
            await message(line)
        served.stopping.set()
        assert await chunk(one) == await chunk(other) == []


async def test_streams_end_with_the_bus(served: Served) -> None:
    """What was published before still arrives."""
    async with served.line() as line:
        await follow(line)
        await message(line)
        event = served.station.bus.publish(probe(1))
        served.station.bus.close()
        assert await message(line) == event_to_json(event)
        assert await chunk(line) == []


async def test_a_follower_that_leaves_is_forgotten() -> None:
    """Its subscription is closed with its connection."""
    station = FakeStation()
    async with serving(station) as served:
        async with served.line() as line:
            await follow(line)
            await message(line)
            assert station.followers == 1
        await station.left_alone.wait()
    assert station.followers == 0
