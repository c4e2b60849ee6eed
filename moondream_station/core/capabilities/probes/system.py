"""The system itself: Python's own facts, the CUDA toolkit's compiler, macOS and the CPU of a Mac.

The toolkit's version is reported and never chooses a build: torch ships its own CUDA runtime.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Final

from moondream_station.core.capabilities.probes.probe import (
    Probe,
    Reading,
    answer_to,
    ask_commands,
    not_answered,
    one_line,
)
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.machine.record import MachineRecord

BRAND: Final = ("sysctl", "-n", "machdep.cpu.brand_string")
ARM64: Final = ("sysctl", "-n", "hw.optional.arm64")
TRANSLATED: Final = ("sysctl", "-n", "sysctl.proc_translated")
MEMORY: Final = ("sysctl", "-n", "hw.memsize")
_QUESTIONS: Final = (BRAND, ARM64, TRANSLATED, MEMORY)


def _read_facts(record: MachineRecord) -> Reading:
    facts = record.platform
    libc = " ".join(facts.libc).strip()
    parts = (f"{facts.system} {facts.release} {facts.machine}", f"Python {facts.python}", libc)
    return Reading(outcome=Outcome.FOUND, detail=one_line(", ".join(part for part in parts if part)))


def _version_probe(
    name: str, argv: tuple[str, ...], pattern: str, what: str, system: str | None = None
) -> Probe:
    def read(record: MachineRecord) -> Reading:
        result = answer_to(record, *argv)
        if result is None:
            return Reading(detail=f"{argv[0]} is not installed")
        match = re.search(pattern, result.stdout.strip(), re.ASCII)
        if result.timed_out or match is None:
            return not_answered(result, argv[0])
        return Reading(outcome=Outcome.FOUND, detail=f"{what} {match[1]}", version=match[1])

    return Probe(
        name=name, ask=partial(ask_commands, argvs=(argv,)), read=read, system=system, programs=argv[:1]
    )


PLATFORM = Probe(name="platform", ask=partial(ask_commands, argvs=()), read=_read_facts)
NVCC = _version_probe("nvcc", ("nvcc", "--version"), r"\brelease (\d{1,3}\.\d{1,3})\b", "CUDA toolkit")
MACOS = _version_probe(
    "macos",
    ("sw_vers", "-productVersion"),
    r"\A(\d{1,3}(?:\.\d{1,3}){0,3})\Z",
    "macOS",
    system="Darwin",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SysctlReading(Reading):
    """What sysctl tells; None is not told. An Intel Mac does not know the name of `has_arm64`."""

    brand: str | None = None
    has_arm64: bool | None = None
    is_translated: bool | None = None
    memory_bytes: int | None = None


def _read_sysctl(record: MachineRecord) -> Reading:
    asked = [result for argv in _QUESTIONS if (result := answer_to(record, *argv))]
    if not asked:
        return Reading(detail="sysctl is not installed")
    brand, arm64, translated, memory = (_value(record, argv) for argv in _QUESTIONS)
    slow = any(result.timed_out for result in asked)
    if not (brand or arm64 or translated or memory or slow):
        return not_answered(asked[0], "sysctl")
    return SysctlReading(
        outcome=Outcome.TIMED_OUT if slow else Outcome.FOUND,
        detail="sysctl did not answer in time" if slow else one_line(brand or "a CPU without a name"),
        brand=one_line(brand) if brand else None,
        has_arm64=_flag(arm64),
        is_translated=_flag(translated),
        memory_bytes=int(memory) if memory and re.fullmatch(r"\d{1,18}", memory, re.ASCII) else None,
    )


def _value(record: MachineRecord, argv: tuple[str, ...]) -> str | None:
    result = answer_to(record, *argv)
    if result is None or result.returncode != 0 or result.timed_out:
        return None
    return result.stdout.strip() or None


def _flag(value: str | None) -> bool | None:
    return {"1": True, "0": False}.get(value or "")


SYSCTL = Probe(
    name="sysctl",
    ask=partial(ask_commands, argvs=_QUESTIONS),
    read=_read_sysctl,
    system="Darwin",
    programs=("sysctl",),
)
