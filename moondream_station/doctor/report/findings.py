"""What the doctor found: findings, each with its remedy. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

FORMAT: Final = "moondream-station/doctor/1"


class Status(StrEnum):
    """How a finding is to be taken.

    An error: the active or default model can't work now. A warning: it works worse than it could, or will
    break; or nobody could find out.
    """

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


class Section(StrEnum):
    """What checks are grouped by, in the order in which they are shown."""

    MACHINE = "machine"
    GPU = "gpu"
    PYTHON = "python"
    TORCH = "torch"
    NETWORK = "network"
    DISK = "disk"
    ENVIRONMENTS = "environments"
    BACKENDS = "backends"
    STATION = "station"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What to do.

    Args:
        text: In a sentence or two.
        commands: Commands that can be copied to a shell, in their order.
    """

    text: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a check says.

    Args:
        status: How it is to be taken.
        summary: One sentence that can stand alone.
        detail: What was seen, as many lines as needed; None where the summary says it all.
        remedy: What to do, None where nothing needs doing.
    """

    status: Status
    summary: str
    detail: str | None = None
    remedy: Remedy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Verdict):
    """A check's verdict, with the check it comes from.

    Args:
        status: See `Verdict`, as the next three.
        summary: As above.
        detail: As above.
        remedy: As above.
        id: The check's stable name ("gpu.driver").
        section: What it is grouped under.
        seconds: How long the check took.
    """

    id: str
    section: Section
    seconds: float


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
    return {
        "format": FORMAT,
        "ok": report.is_ok,
        "findings": [_finding_to_json(finding) for finding in report.findings],
    }


def _finding_to_json(finding: Finding) -> dict[str, Any]:
    remedy = finding.remedy
    return {
        "id": finding.id,
        "section": str(finding.section),
        "status": str(finding.status),
        "summary": finding.summary,
        "detail": finding.detail,
        "remedy": None if remedy is None else {**asdict(remedy), "commands": list(remedy.commands)},
        "seconds": round(finding.seconds, 6),
    }


def ok(summary: str, *, detail: str | None = None, remedy: Remedy | None = None) -> Verdict:
    """Everything is as it should be."""
    return Verdict(status=Status.OK, summary=summary, detail=detail, remedy=remedy)


def warning(summary: str, *, detail: str | None = None, remedy: Remedy | None = None) -> Verdict:
    """The model works worse than it could, or will break, or nobody could find out."""
    return Verdict(status=Status.WARNING, summary=summary, detail=detail, remedy=remedy)


def error(summary: str, *, detail: str | None = None, remedy: Remedy | None = None) -> Verdict:
    """The active or default model can't work now."""
    return Verdict(status=Status.ERROR, summary=summary, detail=detail, remedy=remedy)


def skipped(summary: str) -> Verdict:
    """Nobody looked, and here is why."""
    return Verdict(status=Status.SKIPPED, summary=summary)


def problem(summary: str, *, fatal: bool, detail: str | None = None, remedy: Remedy | None = None) -> Verdict:
    """An error where the model can't work for it, else a warning."""
    return (error if fatal else warning)(summary, detail=detail, remedy=remedy)
