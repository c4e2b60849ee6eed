"""How many facts a second are published, and what a subscriber that never reads costs.

    python tests/benchmarks/bus.py [--facts 5000] [--runs 5]

The rate is measured with 0, 1, 10 and 100 subscribers that read all they are given, in turn; every fact is
folded into the state and remembered in the history, as always, and written to no journal. Then a whole
installation runs by turns alone and beside 100 subscribers that never read, and what such a subscriber holds
after very many facts is weighed: its buffer is bounded, and once it overflows it holds nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import anyio

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a program: find `support`

from benchmarks.installing.wheels import serve_torch_like

from moondream_station.console.logging import configure_logging
from moondream_station.core.bus.bus import Bus, Subscription
from moondream_station.core.facts.events import DownloadProgressed, Fact, Stage, StageStarted
from moondream_station.core.facts.state import StationState
from support.machines import cpu_only
from support.stations import HERE, Premises, switched
from support.torch_index import TorchIndex

_SUBSCRIBERS = (0, 1, 10, 100)
_BURST = 50
"""So many facts are published before the readers have their turn; no step of an activation has more."""
_BUFFER = 1024
"""How many events may wait for a subscriber."""
_MODEL = "benchmark"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, default=5000, help="how many are published a run (5000)")
    parser.add_argument("--runs", type=int, default=5, help="how often everything is measured (5)")
    options = parser.parse_args()
    configure_logging("error")
    anyio.run(_measure_rates, options.facts, options.runs)
    anyio.run(_measure_installations, options.runs)
    anyio.run(_weigh, options.facts)


async def _measure_rates(facts: int, runs: int) -> None:
    rates: dict[int, list[tuple[float, float]]] = {number: [] for number in _SUBSCRIBERS}
    for _ in range(runs):
        for number, found in rates.items():
            found.append(await _rates(facts, number))
    _say("                               published a second   with everybody's reading")
    for number, found in rates.items():
        published, read = (statistics.median(column) for column in zip(*found, strict=True))
        _say(f"{number:>3} subscribers that read      {published:>15,.0f} {read:>26,.0f}")


async def _rates(facts: int, subscribers: int) -> tuple[float, float]:
    """Facts a second: as whoever publishes sees it, and until everybody has read the last one."""
    bus = Bus(state=StationState())
    publishing = 0.0
    async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
        subscriptions = [await stack.enter_async_context(bus.subscribe()) for _ in range(subscribers)]
        readers = _Readers(subscribers)
        for subscription in subscriptions:
            tasks.start_soon(readers.follow, subscription)
        began = time.perf_counter()
        for _ in range(facts // _BURST):
            burst_began = time.perf_counter()
            for _ in range(_BURST):
                bus.publish(StageStarted(stage=Stage.DOWNLOAD), activation="benchmark")
            publishing += time.perf_counter() - burst_began
            await readers.have_read(bus.state.seq)
        seconds = time.perf_counter() - began
        bus.close()
    return facts / publishing, facts / seconds


class _Readers:
    """Readers that read all they are given.

    Args:
        number: How many they are.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._through = 0
        self._all_through = anyio.Event()
        self._last = 0

    async def follow(self, subscription: Subscription) -> None:
        """Read to the end."""
        async for event in subscription:
            self._through += event.seq == self._last
            if self._through == self._number:
                self._all_through.set()

    async def have_read(self, seq: int) -> None:
        """Wait until everybody has read an event that nobody has read yet."""
        self._last, self._through, self._all_through = seq, 0, anyio.Event()
        if self._number:
            await self._all_through.wait()


async def _measure_installations(runs: int) -> None:
    times: dict[int, list[float]] = {0: [], 100: []}
    with tempfile.TemporaryDirectory() as name, TorchIndex() as index:
        wheels = serve_torch_like(index, 0.05)
        numbers = count()
        for _ in range(runs):
            for subscribers, found in times.items():
                folder = Path(name) / str(next(numbers))
                folder.mkdir()
                premises = Premises(folder=folder, index=index)
                premises.add_model(_MODEL, requirements="\n".join([*wheels.requirements, ""]))
                found.append(await _installation(premises, subscribers))
    alone, beside = (statistics.median(found) for found in times.values())
    _say(f"switch alone                            {alone:.3f} s   ({_spread(times[0])})")
    _say(f"beside 100 subscribers that never read  {beside:.3f} s   ({_spread(times[100])})")
    _say(f"ratio                                   {beside / alone:.3f}")


async def _installation(premises: Premises, subscribers: int) -> float:
    async with premises.station(cpu_only(HERE)) as station, AsyncExitStack() as stack:
        for _ in range(subscribers):
            await stack.enter_async_context(station.bus.subscribe())
        began = time.perf_counter()
        await switched(station, _MODEL)
        return time.perf_counter() - began


async def _weigh(facts: int) -> None:
    """What one subscriber that never reads holds, of progress (which is merged) and of other facts."""
    progress = [_progress(number) for number in range(facts * 10)]
    other: Fact = StageStarted(stage=Stage.DOWNLOAD)
    kinds = (
        ("of one file's progress", progress),
        ("of other kinds, which just fit", [other] * _BUFFER),
        ("of other kinds, which don't fit", [other] * max(facts, _BUFFER + 1)),
    )
    for kind, given in kinds:
        alone, beside = await _held_bytes(given, subscribers=0), await _held_bytes(given, subscribers=1)
        kept = max(0, beside - alone) / 1000
        _say(f"{len(given):>6} facts {kind}: one that never reads holds {kept:.0f} kB")


async def _held_bytes(facts: Sequence[Fact], *, subscribers: int) -> int:
    bus = Bus(state=StationState())
    async with AsyncExitStack() as stack:
        for _ in range(subscribers):
            await stack.enter_async_context(bus.subscribe())
        tracemalloc.start()
        for fact in facts:
            bus.publish(fact, activation="benchmark")
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return held


def _progress(number: int) -> Fact:
    return DownloadProgressed(
        file="torch.whl",
        received_bytes=number,
        total_bytes=None,
        transferred_bytes=number,
        resumed_from=0,
        overall_received_bytes=number,
        overall_total_bytes=None,
        overall_transferred_bytes=number,
        bytes_per_second=None,
        eta_seconds=None,
    )


def _spread(times: Sequence[float]) -> str:
    return f"{min(times):.2f} to {max(times):.2f}"


def _say(text: str) -> None:
    print(text)  # noqa: T201  the result


if __name__ == "__main__":
    main()
