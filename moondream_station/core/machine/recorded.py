"""Another computer, which answers from its record."""

from __future__ import annotations

from typing import Final

import anyio.lowlevel

from moondream_station.core.machine.protocol import CommandResult, Unreadable
from moondream_station.core.machine.record import MachineRecord


class RecordedMachine:
    """Answers from a record, at once, also what timed out when it was recorded."""

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
