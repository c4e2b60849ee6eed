"""What a check is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from moondream_station.doctor.patient.patient import Patient
from moondream_station.doctor.report.findings import Section, Verdict

PROBES_SECONDS: Final = 20.0
"""The limit of a check that waits for the machine's probes: the slowest of them has 15 seconds."""

INDEXES_SECONDS: Final = 32.0
"""The limit of a check that waits for the indexes: after the probes they have eight seconds together."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the doctor's.

    Args:
        id: Its stable name: the section, a dot, a word.
        title: What it checks, as the subject of a sentence ("The NVIDIA driver").
        examine: Answers it and changes nothing. What blocks in it runs in a thread.
        limit_seconds: How long it may take.
        needs_network: Whether it asks other computers.
        needs_home: Whether it is about this computer's files; otherwise a machine record can answer it.
    """

    id: str
    title: str
    examine: Callable[[Patient], Awaitable[Verdict]]
    limit_seconds: float = PROBES_SECONDS
    needs_network: bool = False
    needs_home: bool = False

    @property
    def section(self) -> Section:
        """What it is grouped under."""
        return Section.of(self.id)
