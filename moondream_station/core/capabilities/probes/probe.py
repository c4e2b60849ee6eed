"""A probe: questions to a machine, and a pure reading of the answers; and those that take no more than that.

Asking and reading are separate, so that what was answered before a deadline still counts, and so that every
reading can be tested with any text.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import anyio
import anyio.lowlevel

from moondream_station.core.facts.capabilities import Gpu, Outcome
from moondream_station.core.machine.machine import CommandResult, Machine, Unreadable
from moondream_station.core.machine.record import MachineRecord, redact_text

DETAIL_LIMIT: Final = 200
"""No detail is longer than this many characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a probe concluded from the answers; the defaults are those of one that was not asked.

    `detail` is what it saw, one line, nothing private; `version` that of the driver, toolkit or system that
    it is about, and `source` the file that told it.
    """

    outcome: Outcome = Outcome.ABSENT
    detail: str = ""
    gpus: tuple[Gpu, ...] = ()
    version: str | None = None
    source: Literal["proc", "sys"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Questions to the machine, or to those of a `system`, under one deadline; `programs` are what it runs.

    `read` is pure, and total: no text makes it raise.
    """

    name: str
    ask: Callable[[Machine], Awaitable[None]]
    read: Callable[[MachineRecord], Reading]
    deadline_seconds: float = 5.0
    system: str | None = None
    programs: tuple[str, ...] = ()


async def ask_commands(machine: Machine, argvs: Iterable[tuple[str, ...]]) -> None:
    """Run several programs at once; their answers are with the recorder."""
    async with anyio.create_task_group() as group:
        for argv in argvs:
            group.start_soon(machine.run, *argv)


async def ask_files(machine: Machine, paths: Iterable[str]) -> None:
    """Read files, where "can't be read" is an answer like any other: the recorder keeps the reason."""
    for path in paths:
        with suppress(Unreadable):
            await machine.read(path)
    await anyio.lowlevel.checkpoint()


async def ask_folder(machine: Machine, path: str) -> tuple[str, ...]:
    """List a folder; one that does not exist or can't be listed has no names."""
    names: tuple[str, ...] | None = None
    with suppress(Unreadable):
        names = await machine.list(path)
    await anyio.lowlevel.checkpoint()
    return names or ()


def answer_to(record: MachineRecord, *argv: str) -> CommandResult | None:
    """What a program answered, None where it was not asked or is not installed."""
    return next((result for result in record.commands if result.argv == argv), None)


def refused(record: MachineRecord, root: str) -> str | None:
    """The first path from a root on that can't be read, with the reason; None where all could."""
    paths = (path for path in record.unreadable if path.startswith(root))
    return next((one_line(f"{path} can't be read: {record.unreadable[path]}") for path in paths), None)


def first_line(*texts: str) -> str:
    """The first line with anything in it, printable, not private and not too long."""
    lines = (line for text in texts for line in text[: 4 * DETAIL_LIMIT].splitlines() if line.strip())
    return one_line(next(lines, ""))


def one_line(text: str) -> str:
    """A text as a detail: one printable line, not private, not too long."""
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * DETAIL_LIMIT])
    line = re.sub(r" {2,}", " ", redact_text(printable)).strip()
    return line if len(line) <= DETAIL_LIMIT else line[: DETAIL_LIMIT - 1] + "…"


def not_answered(result: CommandResult, program: str) -> Reading:
    """The reading of a program that gave nothing usable."""
    if result.timed_out:
        return Reading(outcome=Outcome.TIMED_OUT, detail=f"{program} did not answer in time")
    output = first_line(result.stderr, result.stdout)
    saying = f", saying: {output}" if output else " without an answer"
    detail = f"{program} exited with {result.returncode}{saying}"
    return Reading(outcome=Outcome.FAILED, detail=one_line(detail))


BRAND: Final = ("sysctl", "-n", "machdep.cpu.brand_string")
ARM64: Final = ("sysctl", "-n", "hw.optional.arm64")
TRANSLATED: Final = ("sysctl", "-n", "sysctl.proc_translated")
MEMORY: Final = ("sysctl", "-n", "hw.memsize")
_FLAGS: Final = {"1": True, "0": False}
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
# The toolkit's version is reported and never chooses a build: torch ships its own CUDA runtime.
NVCC = _version_probe("nvcc", ("nvcc", "--version"), r"\brelease (\d{1,3}\.\d{1,3})\b", "CUDA toolkit")
MACOS = _version_probe(
    "macos", ("sw_vers", "-productVersion"), r"\A(\d{1,3}(?:\.\d{1,3}){0,3})\Z", "macOS", system="Darwin"
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
        has_arm64=_FLAGS.get(arm64 or ""),
        is_translated=_FLAGS.get(translated or ""),
        memory_bytes=int(memory) if memory and re.fullmatch(r"\d{1,18}", memory, re.ASCII) else None,
    )


def _value(record: MachineRecord, argv: tuple[str, ...]) -> str | None:
    result = answer_to(record, *argv)
    if result is None or result.returncode != 0 or result.timed_out:
        return None
    return result.stdout.strip() or None


SYSCTL = Probe(
    name="sysctl",
    ask=partial(ask_commands, argvs=_QUESTIONS),
    read=_read_sysctl,
    system="Darwin",
    programs=("sysctl",),
)
