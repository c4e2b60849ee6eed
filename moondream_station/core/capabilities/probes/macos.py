"""The version of macOS, as it tells programs of today."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from moondream_station.core.capabilities.probes.probe import Probe, Reading, answer_to, not_answered
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.machine.record import MachineRecord

_ARGV: Final = ("sw_vers", "-productVersion")
_VERSION = re.compile(r"\d{1,3}(\.\d{1,3}){0,3}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class MacosReading(Reading):
    """The system's version ("14.5")."""

    version: str | None = None


async def _ask(machine: Machine) -> None:
    await machine.run(*_ARGV)


def _read(record: MachineRecord) -> Reading:
    result = answer_to(record, *_ARGV)
    if result is None:
        return MacosReading(outcome=Outcome.ABSENT, detail="sw_vers is not installed")
    version = result.stdout.strip()
    if result.timed_out or _VERSION.fullmatch(version) is None:
        return not_answered(result, "sw_vers")
    return MacosReading(outcome=Outcome.FOUND, detail=f"macOS {version}", version=version)


MACOS = Probe(name="macos", ask=_ask, read=_read, system="Darwin", programs=("sw_vers",))
