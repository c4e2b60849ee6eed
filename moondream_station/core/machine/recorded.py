"""A computer that is not here: it answers from its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import anyio.lowlevel

from moondream_station.core.facts.errors import UsageError
from moondream_station.core.machine.protocol import CommandResult, Machine, PlatformFacts, Unreadable
from moondream_station.core.machine.record import MachineRecord

_PYTHON = re.compile(r"\d+\.\d+(\.\d+((a|b|rc)\d+)?)?t?", re.ASCII)


class RecordedMachine:
    """Answers from a record, at once: what timed out when it was recorded does not take its time again.

    Args:
        record: The record.
    """

    is_local: Final = False

    def __init__(self, record: MachineRecord) -> None:
        self._record = record
        self._answers = {result.argv: result for result in reversed(record.commands)}
        self._programs = frozenset(result.argv[0] for result in record.commands)
        self.facts = record.platform
        self.variables = record.env

    async def run(self, *argv: str) -> CommandResult | None:
        """Give the recorded answer; other arguments of a known program exit 1 with an empty one."""
        await anyio.lowlevel.checkpoint()
        if argv[0] not in self._programs:
            return None
        return self._answers.get(argv) or CommandResult(argv=argv, returncode=1)

    async def read(self, path: str) -> str | None:
        """Give the recorded text."""
        await anyio.lowlevel.checkpoint()
        self._refuse_unreadable(path)
        return self._record.files.get(path)

    async def list(self, path: str) -> tuple[str, ...] | None:
        """Give the recorded names."""
        await anyio.lowlevel.checkpoint()
        self._refuse_unreadable(path)
        return self._record.directories.get(path)

    def _refuse_unreadable(self, path: str) -> None:
        reason = self._record.unreadable.get(path)
        if reason is not None:
            raise Unreadable(path, reason)


class _WithPython:
    """A machine whose environments are made from another Python."""

    def __init__(self, machine: Machine, python: str) -> None:
        self._machine = machine
        self._facts = replace(machine.facts, python=python)

    @property
    def facts(self) -> PlatformFacts:
        return self._facts

    @property
    def variables(self) -> Mapping[str, str]:
        return self._machine.variables

    @property
    def is_local(self) -> bool:
        return self._machine.is_local

    async def run(self, *argv: str) -> CommandResult | None:
        return await self._machine.run(*argv)

    async def read(self, path: str) -> str | None:
        return await self._machine.read(path)

    async def list(self, path: str) -> tuple[str, ...] | None:
        return await self._machine.list(path)


def with_python(machine: Machine, python: str) -> Machine:
    """The same machine, with environments made from another Python (`--python`).

    Args:
        machine: The machine.
        python: The version, "3.12" or "3.12.3"; "3.14t" is a free-threaded one.

    Raises:
        UsageError: That is no version.
    """
    if _PYTHON.fullmatch(python) is None:
        raise UsageError(f"{python!r} is no Python version.", hint="Give it as X.Y, 3.12 for example.")
    return _WithPython(machine, python)
