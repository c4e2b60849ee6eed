"""What a check is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moondream_station.doctor.report import Section, Verdict

if TYPE_CHECKING:
    from moondream_station.doctor.patient import Patient

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


class Unknowable(Exception):
    """What a check needs to know could not be found out; another check says why.

    Args:
        what: What that is ("the machine").
        reason: Why not.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} could not be looked at: {reason}")
        self.what = what
        self.reason = reason
