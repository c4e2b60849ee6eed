"""What the doctor found: findings, each with its remedy. Pure data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from moondream_station.core.facts.codec import to_json

FORMAT: Final = "moondream-station/doctor/1"


class Status(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    """The model works worse than it could, or will break; or nobody could find out."""
    ERROR = "error"
    """The active or default model can't work now."""
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do: a sentence or two, and commands that can be copied to a shell, in their order."""

    text: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check concludes: one sentence that can stand alone, and what was seen, in lines as needed."""

    status: Status
    summary: str
    detail: str | None = None
    remedy: Remedy | None = None


@dataclass(frozen=True, slots=True)
class Finding(Verdict):
    """A check's verdict, with the check's id ("gpu.driver") and how many seconds it took."""

    id: str = field(kw_only=True)
    seconds: float = field(kw_only=True)

    @classmethod
    def of(cls, verdict: Verdict, *, check: str, seconds: float) -> Finding:
        """The finding that a check's verdict makes."""
        return cls(verdict.status, verdict.summary, verdict.detail, verdict.remedy, id=check, seconds=seconds)

    @property
    def section(self) -> str:
        """What it is grouped under: what its check's id begins with."""
        return self.id.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, in the registry's order."""

    findings: tuple[Finding, ...]

    @property
    def is_ok(self) -> bool:
        """Whether nothing is an error."""
        return all(finding.status is not Status.ERROR for finding in self.findings)


def report_to_json(report: Report) -> Mapping[str, Any]:
    """The report in the public shape, as docs/reference/schemas/doctor.json has it."""
    findings = [
        {"id": finding.id, "section": finding.section, **to_json(finding)} for finding in report.findings
    ]
    return {"format": FORMAT, "ok": report.is_ok, "findings": findings}


Detail = str | Iterable[str] | None
"""A text, or its lines; no lines are no detail."""


def ok(summary: str, detail: Detail = None) -> Verdict:
    """Everything is as it should be."""
    return Verdict(Status.OK, summary, _text(detail))


def warning(summary: str, remedy: Remedy | None, detail: Detail = None) -> Verdict:
    """The model works worse than it could, or will break, or nobody could find out."""
    return Verdict(Status.WARNING, summary, _text(detail), remedy)


def error(summary: str, remedy: Remedy, detail: Detail = None) -> Verdict:
    """The active or default model can't work now."""
    return Verdict(Status.ERROR, summary, _text(detail), remedy)


def problem(summary: str, remedy: Remedy, detail: Detail = None, *, fatal: bool) -> Verdict:
    """An error where the model can't work because of it, else a warning."""
    return (error if fatal else warning)(summary, remedy, detail)


def skipped(summary: str) -> Verdict:
    """Nothing was checked, for this reason."""
    return Verdict(Status.SKIPPED, summary)


def _text(detail: Detail) -> str | None:
    return detail if detail is None or isinstance(detail, str) else "\n".join(detail) or None
