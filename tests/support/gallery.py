"""The recorded machines in tests/machines, each with the answers that its sources give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "machines"
_EXPECTED = ".expected.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is right for one requirement on one machine.

    Args:
        requirement: The requirement.
        build: The build, None where nothing can be installed.
        torch: Its torch.
        reason: What the sentence about the choice has to say.
        warning: What one of the warnings has to say, where one is due.
        rejected: What has to be said of builds that were not taken.
    """

    requirement: str
    build: str | None
    torch: str | None
    reason: str
    warning: str = ""
    rejected: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCase:
    """A machine and what is right for it.

    Args:
        name: The record's file name, without its suffix.
        record: The machine record.
        about: The machine in words.
        why: What the answers were derived from.
        truth: The hardware that is really there, whatever the record's programs tell of it.
        answers: One for each requirement.
    """

    name: str
    record: Path
    about: str
    why: str
    truth: Mapping[str, Any]
    answers: tuple[Answer, ...]

    @property
    def python(self) -> str:
        """The recorded Python."""
        return str(json.loads(self.record.read_text("utf-8"))["platform"]["python"])


def recorded_cases() -> tuple[RecordedCase, ...]:
    """Every machine of the gallery, by name."""
    names = sorted(path.name.removesuffix(_EXPECTED) for path in FOLDER.glob(f"*{_EXPECTED}"))
    return tuple(map(_case, names))


def _case(name: str) -> RecordedCase:
    data = json.loads((FOLDER / f"{name}{_EXPECTED}").read_text("utf-8"))
    answers = tuple(Answer(requirement=text, **answer) for text, answer in data["expected"].items())
    return RecordedCase(
        name=name,
        record=FOLDER / f"{name}.json",
        about=data["about"],
        why=data["why"],
        truth=data["truth"],
        answers=answers,
    )
