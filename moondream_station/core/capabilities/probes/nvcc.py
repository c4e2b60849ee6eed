"""The CUDA toolkit. Its version is reported and never chooses a build: torch ships its own runtime."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from moondream_station.core.capabilities.probes.probe import Probe, Reading, answer_to, not_answered
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.machine.record import MachineRecord

_ARGV: Final = ("nvcc", "--version")
_RELEASE = re.compile(r"\brelease (\d{1,3}\.\d{1,3})\b", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class NvccReading(Reading):
    """The toolkit's version ("13.0"), None where there is none."""

    version: str | None = None


async def _ask(machine: Machine) -> None:
    await machine.run(*_ARGV)


def _read(record: MachineRecord) -> Reading:
    result = answer_to(record, *_ARGV)
    if result is None:
        return NvccReading(outcome=Outcome.ABSENT, detail="nvcc is not installed")
    release = _RELEASE.search(result.stdout)
    if result.timed_out or release is None:
        return not_answered(result, "nvcc")
    return NvccReading(
        outcome=Outcome.FOUND, detail=f"CUDA toolkit {release.group(1)}", version=release.group(1)
    )


NVCC = Probe(name="nvcc", ask=_ask, read=_read, programs=("nvcc",))
