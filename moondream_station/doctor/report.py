"""What the doctor found: findings with their remedies, cleaned of what is private, as JSON and as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from typing import Any, Final, TypeAlias

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.printable import printable
from moondream_station.core.facts.redact import redact_text
from moondream_station.core.home.layout import Home
from moondream_station.core.machine.record import cleaner as identity_cleaner
from moondream_station.core.machine.record import local_identity
from moondream_station.core.packaging.packaging_config import PYPI_URL


class Status(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    """The model works worse than it could, or will break; or nobody could find out."""
    ERROR = "error"
    """The active or default model can't work now."""
    SKIPPED = "skipped"


SECTIONS: Final = {
    "machine": "Machine",
    "gpu": "GPU and driver",
    "python": "Python",
    "torch": "PyTorch",
    "network": "Indexes and network",
    "disk": "Disk",
    "environments": "Environments",
    "backends": "Backends",
    "station": "Station",
}
"""The title of each section, in the order of the report."""

Symbols: TypeAlias = Mapping[Status, str]
"""How each status is shown."""

UNICODE: Final[Symbols] = dict(zip(Status, "✓!✗-", strict=True))
ASCII: Final[Symbols] = dict(zip(Status, ("[ok]", "[!]", "[x]", "[-]"), strict=True))
_COLOURS: Final = dict(zip(Status, (32, 33, 31, 2), strict=True))
_INDENT = "    "
_COLOUR = re.compile(r"\x1b\[\d+m")

_SECRET_NAME: Final = re.compile(r"TOKEN|SECRET|PASS|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_SECRET_CHARACTERS: Final = 6
"""Shorter values are words of ordinary text."""
_URL: Final = re.compile(r"(\bhttps?://[^\s/'\"<>(),;]+)/[^\s'\"<>(),;]*[^\s'\"<>(),;:.]")
_PATH: Final = re.compile(r"(?<![\w~.$:/*<-])(?:/[^\s/'\"<>(),;:]+){2,}/?|\b[A-Za-z]:\\[^\s'\"<>(),;:]+")
_PUBLIC_PATH: Final = re.compile(
    r"/(?:bin|dev|etc|lib|lib64|opt/rocm|proc|sbin|sys|usr)/|[A-Za-z]:\\(?:Windows|Program Files)\\"
)


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do: a sentence or two, and commands that can be copied to a shell, in their order."""

    text: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check concludes: one sentence that can stand alone, and what was seen, in lines as needed.

    The examination adds the check's id ("gpu.driver") and how many seconds it took.
    """

    status: Status
    summary: str
    detail: str | None = None
    remedy: Remedy | None = None
    id: str = ""
    seconds: float = 0.0

    @property
    def section(self) -> str:
        """What it is grouped under: what its check's id begins with."""
        return self.id.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def is_ok(self) -> bool:
        """Whether nothing is an error."""
        return all(finding.status is not Status.ERROR for finding in self.findings)


_Detail: TypeAlias = str | Iterable[str] | None
"""A text, or its lines; no lines are no detail."""


def ok(summary: str, detail: _Detail = None) -> Finding:
    """Everything is as it should be."""
    return Finding(Status.OK, summary, _text(detail))


def skipped(summary: str) -> Finding:
    """Nothing was checked, for this reason."""
    return Finding(Status.SKIPPED, summary)


def warning(summary: str, remedy: str | None, *commands: str, detail: _Detail = None) -> Finding:
    """The model works worse than it could, or will break, or nobody could find out."""
    return problem(summary, remedy, *commands, detail=detail, fatal=False)


def error(summary: str, remedy: str, *commands: str, detail: _Detail = None) -> Finding:
    """The active or default model can't work now."""
    return problem(summary, remedy, *commands, detail=detail, fatal=True)


def problem(summary: str, remedy: str | None, *commands: str, detail: _Detail = None, fatal: bool) -> Finding:
    """An error where the model can't work because of it, else a warning."""
    status = Status.ERROR if fatal else Status.WARNING
    return Finding(status, summary, _text(detail), Remedy(remedy, commands) if remedy else None)


def _text(detail: _Detail) -> str | None:
    return detail if detail is None or isinstance(detail, str) else "\n".join(detail) or None


def cleaner(home: Home, environ: Mapping[str, str]) -> Callable[[Finding], Finding]:
    """A function that removes what is private from a finding: reports are pasted into public places.

    Removed are credentials in URLs and paths below hosts other than the public indexes (tokens hide there),
    values of variables that are named like secrets, user and host names, GPU identifiers, and every path that
    is not the operating system's own; those below the user's home folder begin with `~`.
    The home is shown as its variable, or below `~`.
    """
    identity = local_identity(environ)
    anonymous = identity_cleaner(identity)
    # SSH_AUTH_SOCK and its like are paths, which are taken out as such.
    named = {value for name, value in environ.items() if _SECRET_NAME.search(name)}
    secrets = [value for value in named if len(value) >= _SECRET_CHARACTERS and value[0] not in "/~"]
    secrets.sort(key=len, reverse=True)
    is_usual = any(str(home.root) == f"{folder}/.moondream-station" for folder in identity.homes)
    public = (load_catalog().index, PYPI_URL, "https://www.nvidia.com/")

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "***")
        text = _URL.sub(lambda url: url[0] if url[0].startswith(public) else f"{url[1]}/…", redact_text(text))
        if not is_usual:
            text = text.replace(str(home.root), "$MOONDREAM_STATION_HOME")
        return _PATH.sub(lambda path: path[0] if _PUBLIC_PATH.match(path[0]) else "<path>", anonymous(text))

    def clean_finding(finding: Finding) -> Finding:
        # Commands are the doctor's own words, and must stay what they are.
        remedy = finding.remedy and replace(finding.remedy, text=clean(finding.remedy.text))
        detail = finding.detail and clean(finding.detail)
        return replace(finding, summary=clean(finding.summary), detail=detail, remedy=remedy)

    return clean_finding


def report_to_json(report: Report) -> Mapping[str, Any]:
    """The report in the public shape, as docs/reference/schemas/doctor.json has it."""
    findings = [
        {"id": finding.id, "section": finding.section, **to_json(finding)} for finding in report.findings
    ]
    return {"format": "moondream-station/doctor/1", "ok": report.is_ok, "findings": findings}


def symbols_for(encoding: str | None) -> Symbols:
    """The symbols that an output's encoding can show."""
    try:
        "".join(UNICODE.values()).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def in_colour(symbols: Symbols) -> Symbols:
    """The same symbols, coloured for a terminal."""
    return {status: f"\x1b[{_COLOURS[status]}m{text}\x1b[0m" for status, text in symbols.items()}


def report_text(report: Report, symbols: Symbols, fold: Callable[[str], str] = str) -> str:
    """The whole report for people: details, remedies and commands only where something is wrong.

    The symbols may have colours; foreign text has nothing that would control a terminal. `fold` breaks a
    sentence into the terminal's lines; commands stay whole.
    """
    lines = []
    for section, findings in groupby(report.findings, key=lambda finding: finding.section):
        lines.append(SECTIONS[section])
        for finding in findings:
            symbol = symbols[finding.status]
            plain = _COLOUR.sub("", symbol)  # colours take no room in a line
            lines.append(fold(f"  {plain} {printable(finding.summary)}").replace(plain, symbol, 1))
            if finding.status not in {Status.WARNING, Status.ERROR}:
                continue
            lines += [fold(f"{_INDENT}{line}") for line in printable(finding.detail or "").splitlines()]
            if (remedy := finding.remedy) is not None:
                lines.append(fold(f"{_INDENT}> {printable(remedy.text)}"))
                lines += [f"{_INDENT}{_INDENT}{printable(command)}" for command in remedy.commands]
        lines.append("")
    statuses = [finding.status for finding in report.findings]
    counts = [(statuses.count(Status.ERROR), "error"), (statuses.count(Status.WARNING), "warning")]
    words = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    return "\n".join([*lines, f"{' and '.join(words)}." if words else "Nothing is wrong."])


def finding_line(finding: Finding, symbols: Symbols) -> str:
    """One finding in one line."""
    return f"  {symbols[finding.status]} {printable(finding.summary)}"
