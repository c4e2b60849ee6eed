"""What a check is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from moondream_station.doctor.patient.patient import Patient
from moondream_station.doctor.report.findings import Section, Verdict

DETECTION_SECONDS: Final = 20.0
"""The limit of a check that waits for the machine's probes: the slowest of them has 15 seconds."""

OFFERS_SECONDS: Final = 32.0
"""The limit of a check that waits for the indexes: after the probes they have eight seconds together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question of the doctor's.

    Args:
        id: Its stable name: the section, a dot, a word.
        section: What it is grouped under.
        title: What it looks at, as the subject of a sentence ("The NVIDIA driver").
        look: Looks, changes nothing, and says what it saw. What blocks in it runs in a thread.
        limit_seconds: How long it may take.
        needs_network: Whether it asks other computers.
        needs_home: Whether it is about this computer's files; otherwise a machine record can answer it.
    """

    id: str
    section: Section
    title: str
    look: Callable[[Patient], Awaitable[Verdict]]
    limit_seconds: float = DETECTION_SECONDS
    needs_network: bool = False
    needs_home: bool = False
