"""What Python itself knows: `platform.*`, the interpreter's version, libc."""

from __future__ import annotations

import anyio.lowlevel

from moondream_station.core.capabilities.probes.probe import Probe, Reading, one_line
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.machine.record import MachineRecord


async def _ask(machine: Machine) -> None:
    del machine  # its facts are there already
    await anyio.lowlevel.checkpoint()


def _read(record: MachineRecord) -> Reading:
    facts = record.platform
    libc = " ".join(facts.libc).strip()
    parts = (f"{facts.system} {facts.release} {facts.machine}", f"Python {facts.python}", libc)
    return Reading(outcome=Outcome.FOUND, detail=one_line(", ".join(part for part in parts if part)))


PLATFORM = Probe(name="platform", ask=_ask, read=_read)
