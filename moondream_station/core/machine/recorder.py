"""Keeps what a machine was asked and what it answered."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import anyio

from moondream_station.core.facts.errors import UsageError
from moondream_station.core.machine.protocol import CommandResult, Machine, PlatformFacts, Unreadable
from moondream_station.core.machine.record import MachineRecord

_KILLED = -9
_PYTHON = re.compile(r"\d+\.\d+(\.\d+((a|b|rc)\d+)?)?t?", re.ASCII)


class Recorder:
    """Stands in front of a machine and keeps every question with its answer.

    A question that is cancelled is kept as one that timed out, so that a record shows which program hangs.
    """

    def __init__(self, machine: Machine, *, facts: PlatformFacts | None = None) -> None:
        self._machine = machine
        self.facts = facts or machine.facts
        self.variables = machine.variables
        self.is_local = machine.is_local
        self._commands: dict[tuple[str, ...], CommandResult] = {}
        self._files: dict[str, str] = {}
        self._directories: dict[str, tuple[str, ...]] = {}
        self._unreadable: dict[str, str] = {}

    @property
    def record(self) -> MachineRecord:
        """Everything so far, as answered: what is private is still in it."""
        return MachineRecord(
            platform=self.facts,
            env=dict(self.variables),
            commands=tuple(self._commands.values()),
            files=dict(self._files),
            directories=dict(self._directories),
            unreadable=dict(self._unreadable),
        )

    async def run(self, *argv: str) -> CommandResult | None:
        """Ask the machine, and keep the answer."""
        began = time.perf_counter()
        try:
            result = await self._machine.run(*argv)
        except anyio.get_cancelled_exc_class():
            seconds = time.perf_counter() - began
            self._commands[argv] = CommandResult(
                argv=argv, returncode=_KILLED, seconds=seconds, timed_out=True
            )
            raise
        if result is not None:
            self._commands[argv] = result
        return result

    async def read(self, path: str) -> str | None:
        """Ask the machine, and keep the answer."""
        try:
            text = await self._machine.read(path)
        except Unreadable as error:
            self._unreadable[path] = error.reason
            raise
        if text is not None:
            self._files[path] = text
        return text

    async def list(self, path: str) -> tuple[str, ...] | None:
        """Ask the machine, and keep the answer."""
        try:
            names = await self._machine.list(path)
        except Unreadable as error:
            self._unreadable[path] = error.reason
            raise
        if names is not None:
            self._directories[path] = names
        return names


def with_python(machine: Machine, python: str) -> Machine:
    """The same machine, with environments made from another Python ("3.12", "3.12.3", "3.14t").

    Raises:
        UsageError: That is not a version.
    """
    if _PYTHON.fullmatch(python) is None:
        raise UsageError(f"{python!r} is not a Python version.", hint="Give it as X.Y, for example 3.12.")
    # A machine of its own, whose capabilities are never kept as this computer's.
    return Recorder(machine, facts=replace(machine.facts, python=python))
