"""The account of a download: bytes that are here, bytes transferred, speed, remaining time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import anyio

from moondream_station.core.facts.events import DownloadProgressed
from moondream_station.core.fetch.lock import total_of

_REPORT_SECONDS = 0.25
"""At most four reports a second for a file."""

_SILENCE_SECONDS = 1.0
"""When nothing came for so long, that is reported: the speed falls, and the remaining time grows."""

_HALF_LIFE_SECONDS = 5.0
_SAMPLE_SECONDS = 0.25
_SAMPLES_AT_LEAST = 4


@dataclass(slots=True)
class _Entry:
    total_bytes: int | None
    resumed_from: int
    received_bytes: int
    transferred_bytes: int = 0
    reported_at: float = -math.inf
    is_reported: bool = True


class Rate:
    """Bytes a second, smoothed with a half-life of five seconds; None until a second of samples is in."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sampled_at = clock()
        self._pending = self._samples = 0
        self._bytes = self._seconds = 0.0

    def add(self, size_bytes: int) -> None:
        """Note bytes that arrived."""
        self._pending += size_bytes
        elapsed = self._clock() - self._sampled_at
        if elapsed < _SAMPLE_SECONDS:
            return
        # Both sums fade alike: their quotient is a mean over the last few half-lives, right from the start.
        kept = 0.5 ** (elapsed / _HALF_LIFE_SECONDS)
        self._bytes = self._bytes * kept + self._pending
        self._seconds = self._seconds * kept + elapsed
        self._samples += 1
        self._sampled_at += elapsed
        self._pending = 0

    @property
    def bytes_per_second(self) -> float | None:
        """The rate, None until it means something, and again when it is nothing."""
        rate = self._bytes / self._seconds if self._samples >= _SAMPLES_AT_LEAST else 0.0
        return rate if rate >= 1 else None


class Ledger:
    """What has become of each file of a download; makes the facts about it.

    Every file has a first and a last fact; between them they come at most four times a second, and while
    nothing arrives, once a second for as long as the speed still falls.
    """

    def __init__(self, publish: Callable[[DownloadProgressed], object], clock: Callable[[], float]) -> None:
        self._publish = publish
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._rate = Rate(clock)
        self._latest: str | None = None
        self._reports_rate = False

    def open(self, files: Iterable[tuple[str, int | None, int]]) -> None:
        """Enter every file before the first byte: its name, its size if known, and how much of it is here."""
        for name, total_bytes, received_bytes in files:
            self._entries[name] = _Entry(total_bytes, received_bytes, received_bytes)

    def report(self, file: str) -> None:
        """Publish how far a file is, now."""
        entry = self._entries[file]
        entry.reported_at = self._clock()
        entry.is_reported = True
        rate = self._rate.bytes_per_second
        self._reports_rate = rate is not None
        received = sum(each.received_bytes for each in self._entries.values())
        total = total_of(each.total_bytes for each in self._entries.values())
        eta = (total - received) / rate if rate and total is not None else None
        self._publish(
            DownloadProgressed(
                file=file,
                received_bytes=entry.received_bytes,
                total_bytes=entry.total_bytes,
                transferred_bytes=entry.transferred_bytes,
                resumed_from=entry.resumed_from,
                overall_received_bytes=received,
                overall_total_bytes=total,
                overall_transferred_bytes=sum(each.transferred_bytes for each in self._entries.values()),
                bytes_per_second=rate,
                eta_seconds=max(0.0, eta) if eta is not None else None,
            )
        )

    def learn_size(self, file: str, total_bytes: int) -> None:
        """Note the size of a file that nobody knew before."""
        self._entries[file].total_bytes = total_bytes

    def transferred(self, file: str, size_bytes: int, *, received_bytes: int) -> None:
        """Note transferred bytes, and how much of the file is here now; report it if it is time."""
        entry = self._entries[file]
        entry.transferred_bytes += size_bytes
        entry.received_bytes = received_bytes
        entry.is_reported = False
        self._latest = file
        self._rate.add(size_bytes)
        if self._clock() - entry.reported_at >= _REPORT_SECONDS:
            self.report(file)

    async def keep_reporting(self) -> None:
        """Catch up again and again, until cancelled."""
        while True:
            await anyio.sleep(_REPORT_SECONDS)
            self.catch_up()

    def catch_up(self) -> None:
        """Report what no further piece has brought up: the last bytes before a silence, and the silence."""
        now = self._clock()
        self._rate.add(0)
        for file, entry in self._entries.items():
            age = now - entry.reported_at
            is_silent = self._reports_rate and file == self._latest and age >= _SILENCE_SECONDS
            if is_silent or (not entry.is_reported and age >= _REPORT_SECONDS):
                self.report(file)

    def restarted(self, file: str) -> None:
        """Note that nothing of a file is here any more (what was resumed was wrong); report it at once."""
        entry = self._entries[file]
        entry.received_bytes = entry.resumed_from = 0
        self.report(file)
