"""Facts as plain lines, where there is no terminal."""

from __future__ import annotations

from datetime import UTC, datetime

from moondream_station.cli.plain import PlainLines
from moondream_station.core.events import DownloadProgressed, Event


def progress(received_bytes: int, *, resumed_from: int = 0) -> Event:
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
    return Event(seq=1, at=datetime(2026, 11, 25, tzinfo=UTC), activation="a", fact=fact)


def test_a_download_that_begins_anew_says_so() -> None:
    """Bytes that were counted and no longer do are not taken back in silence."""
    lines = PlainLines()
    assert any("goes on from 500" in line for line in lines.lines(progress(500, resumed_from=500)))
    told = lines.lines(progress(0))
    assert told == ("Download: torch.whl begins anew: what was here of it can't be used",)
    assert not any("begins anew" in line for line in lines.lines(progress(900)))
