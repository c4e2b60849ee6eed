"""A probe: questions to a machine, and a pure reading of the answers.

Asking and reading are separate, so that what was answered before a deadline still counts, and so that every
reading can be tested with any text.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
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
    """What a probe concluded from the answers.

    `detail` is what it saw, one line, nothing private; `version` that of the driver, toolkit or system that
    it is about, and `source` the file that told it. The defaults are those of a probe that was not asked.
    """

    outcome: Outcome = Outcome.ABSENT
    detail: str = ""
    gpus: tuple[Gpu, ...] = ()
    version: str | None = None
    source: Literal["proc", "sys"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Questions to the machine, under one deadline.

    `read` is pure, and total: no text makes it raise. With a `system`, only that one is asked. `programs` are
    those that it runs.
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
    for text in texts:
        for line in text[: 4 * DETAIL_LIMIT].splitlines():
            if line.strip():
                return one_line(line)
    return ""


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
