"""What is said of the machine, of loading a model, and of a download, where there is no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from moondream_station.core.facts.events import (
    CapabilitiesDetected,
    DownloadProgressed,
    Event,
    Stage,
    StageProgressed,
)
from moondream_station.panel.words import PlainLines
from support.snapshots import linux

START = datetime(2026, 11, 22, tzinfo=UTC)


def said(
    steps: Sequence[tuple[float, int, int | None]], *, stage: Stage = Stage.VERIFY, unit: str = "bytes"
) -> list[str]:
    """The lines for progress: seconds since the start, done, total."""
    lines = PlainLines()
    events = (
        Event(
            seq=number,
            at=START + timedelta(seconds=seconds),
            activation="a",
            fact=StageProgressed(stage=stage, done=done, total=total, unit=unit),
        )
        for number, (seconds, done, total) in enumerate(steps)
    )
    return [line for event in events for line in lines.lines(event)]


def test_that_no_gpu_was_found_does_not_mean_that_none_is_there() -> None:
    """A probe may have failed; its own line says so."""
    fact = CapabilitiesDetected(capabilities=linux(), from_cache=False, seconds=0.1)
    line = "Detected this machine in 0.10 s: Linux, no GPU found"
    assert PlainLines().lines(Event(seq=1, at=START, activation="a", fact=fact)) == (line,)


def test_loading_says_something_every_tenth_or_five_seconds() -> None:
    """Often enough to see that it goes on, and the end for certain."""
    total = 3_900_000_000
    steps = [(0.25 * number, number * total // 400, total) for number in range(401)]
    lines = said(steps)
    assert lines[0] == "Model: 0 bytes of 3.9 GB (0%)"
    assert lines[-1] == "Model: 3.9 GB of 3.9 GB (100%), 39.0 MB/s"
    assert 10 <= len(lines) <= 25


def test_a_wheel_that_is_fetched_to_be_locked_is_named() -> None:
    """With the speed since the last line."""
    steps = [(0.0, 0, 700_000_000), (10.0, 40_000_000, 700_000_000), (20.0, 60_000_000, 700_000_000)]
    assert said(steps, stage=Stage.LOCK)[1:] == [
        "Fetching a wheel to read it: 40.0 MB of 700.0 MB (6%), 4.0 MB/s",
        "Fetching a wheel to read it: 60.0 MB of 700.0 MB (9%), 2.0 MB/s",
    ]


def test_progress_of_other_stages_and_without_a_whole_says_nothing() -> None:
    """Building and verifying have lines of their own; without a total there is no share to speak of."""
    assert said([(0, 1, 2), (9, 2, 2)], stage=Stage.BUILD) == []
    assert said([(0, 1, 3), (9, 3, 3)], unit="steps") == []
    assert said([(0, 100, None)]) == []


def downloaded(received_bytes: int, *, resumed_from: int = 0) -> Event:
    """A file of a thousand bytes, so far."""
    fact = DownloadProgressed(
        file="torch.whl",
        received_bytes=received_bytes,
        total_bytes=1000,
        transferred_bytes=received_bytes,
        resumed_from=resumed_from,
        overall_received_bytes=received_bytes,
        overall_total_bytes=1000,
        overall_transferred_bytes=received_bytes,
        bytes_per_second=None,
        eta_seconds=None,
    )
    return Event(seq=1, at=START, activation="a", fact=fact)


def test_a_download_that_restarts_says_so() -> None:
    """Bytes that were counted and no longer do are not taken back in silence."""
    lines = PlainLines()
    assert any("resumes at 500" in line for line in lines.lines(downloaded(500, resumed_from=500)))
    told = lines.lines(downloaded(0))
    assert told == ("Download: torch.whl restarts, because its partial download can't be used",)
    assert not any("restarts" in line for line in lines.lines(downloaded(900)))
