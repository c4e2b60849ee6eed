"""How long a look at the machine takes: all probes at once, the slowest one, one by one, and the cache.

    python tests/benchmarks/detection.py [--runs N]

The programs that the probes run are put on PATH, and answer after a while: nvidia-smi after 1 s, the AMD
enumerator after 0.8 s, nvcc after 0.6 s. Medians are printed with their aims: the whole takes at most 1.05
times the slowest probe and 50 ms, a snapshot from memory 1 ms, one from disk 10 ms. Then nvidia-smi hangs:
that costs its deadline once, and the kernel's file tells the driver.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a program: find `support`

from moondream_station.core.capabilities.cache import CapabilityCache
from moondream_station.core.capabilities.detect import PROBES, detect
from moondream_station.core.capabilities.probes.nvidia import NVIDIA_SMI
from moondream_station.core.facts.capabilities import Capabilities, Outcome, ProbeReport
from moondream_station.core.home.layout import Home
from moondream_station.core.machine.machine import LocalMachine
from support.machines import RTX_4090, proc_version, rows, table

_DRIVER = "550.54.14"
_SMI = f"""case "$*" in
*query*) cat <<'E'
{rows((RTX_4090,), _DRIVER)}E
;;
*) cat <<'E'
{table((RTX_4090,), _DRIVER, "12.4")}E
esac"""
_ANSWERS = {
    "nvidia-smi": (1.0, _SMI),
    "rocm_agent_enumerator": (0.8, "echo gfx000"),
    "nvcc": (0.6, "echo 'Cuda compilation tools, release 12.4, V12.4.131'"),
}


class WithKernelDriver(LocalMachine):
    """This computer, as if NVIDIA's driver were loaded."""

    async def read(self, path: str) -> str | None:
        """Read a file; the driver's own says what it would say."""
        return proc_version(_DRIVER).get(path) or await super().read(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="how often each is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        anyio.run(_measure, Path(name), options.runs)


async def _measure(folder: Path, runs: int) -> None:
    machine = _machine(folder / "slow", _ANSWERS)
    slowest = await _median(runs, lambda: detect(machine, on_probe=_ignore, probes=(NVIDIA_SMI,)))
    whole = await _median(runs, lambda: detect(machine, on_probe=_ignore))
    one_by_one = await _median(runs, lambda: _one_by_one(machine))
    _say("the slowest probe alone", slowest)
    _say("all at once", whole, aim=1.05 * slowest + 0.05)
    _say("one after the other", one_by_one)
    home = Home(root=folder / "home")
    home.create()
    cache = CapabilityCache(home, machine)
    await cache.get(on_probe=_ignore)
    from_memory = await _median(20 * runs, lambda: cache.get(on_probe=_ignore))
    from_disk = await _median(20 * runs, lambda: CapabilityCache(home, machine).get(on_probe=_ignore))
    _say("from memory", from_memory, aim=0.001)
    _say("from disk", from_disk, aim=0.01)
    await _hang(folder)


async def _hang(folder: Path) -> None:
    """A hanging nvidia-smi costs its deadline once, and the kernel's file stands in."""
    machine = _machine(folder / "hanging", {**_ANSWERS, "nvidia-smi": (600.0, "true")})
    began = time.perf_counter()
    found = await detect(machine, on_probe=_ignore)
    seconds = time.perf_counter() - began
    _say("with a hanging nvidia-smi", seconds, aim=NVIDIA_SMI.deadline_seconds + 1.0)
    told = (found.outcome_of("nvidia_smi"), found.nvidia_driver, found.nvidia_driver_source)
    print(f"  it tells {told}")  # noqa: T201
    assert told == (Outcome.TIMED_OUT, _DRIVER, "proc")


def _machine(folder: Path, programs: dict[str, tuple[float, str]]) -> LocalMachine:
    """This computer with programs that answer after a while."""
    folder.mkdir()
    for name, (seconds, answer) in programs.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\nsleep {seconds}\n{answer}\n")
        path.chmod(0o755)
    return WithKernelDriver({"PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"})


async def _one_by_one(machine: LocalMachine) -> list[Capabilities]:
    return [await detect(machine, on_probe=_ignore, probes=(probe,)) for probe in PROBES]


async def _median(runs: int, measured: Callable[[], Awaitable[object]]) -> float:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        await measured()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _ignore(_: ProbeReport) -> None:
    """Only the time counts."""


def _say(what: str, seconds: float, *, aim: float | None = None) -> None:
    text = f"{what:<28}{1000 * seconds:>10.2f} ms"
    if aim is not None:
        text += f"   aim {1000 * aim:>9.2f} ms   {'met' if seconds <= aim else 'NOT MET'}"
    print(text)  # noqa: T201  the result


if __name__ == "__main__":
    main()
