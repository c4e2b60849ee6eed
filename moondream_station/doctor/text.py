"""The report for people: by section, with a symbol for each finding and commands to copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Final, TypeAlias

from moondream_station.doctor.checks.findings import Finding, Report, Status

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
_COLOURS: Final = {Status.OK: 32, Status.WARNING: 33, Status.ERROR: 31, Status.SKIPPED: 2}
_INDENT = "    "

Symbols: TypeAlias = Mapping[Status, str]
"""How each status is shown."""

UNICODE: Final[Symbols] = {Status.OK: "✓", Status.WARNING: "!", Status.ERROR: "✗", Status.SKIPPED: "-"}
ASCII: Final[Symbols] = {
    Status.OK: "[ok]",
    Status.WARNING: "[!]",
    Status.ERROR: "[x]",
    Status.SKIPPED: "[-]",
}


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


def report_text(report: Report, symbols: Symbols) -> str:
    """The whole report: details only where something is wrong."""
    lines = []
    for section, findings in groupby(report.findings, key=lambda finding: finding.section):
        lines.append(SECTIONS[section])
        for finding in findings:
            lines += [finding_line(finding, symbols), *_more(finding)]
        lines.append("")
    statuses = [finding.status for finding in report.findings]
    counts = [(statuses.count(Status.ERROR), "error"), (statuses.count(Status.WARNING), "warning")]
    words = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    return "\n".join([*lines, f"{' and '.join(words)}." if words else "Nothing is wrong."])


def finding_line(finding: Finding, symbols: Symbols) -> str:
    """One finding in one line."""
    return f"  {symbols[finding.status]} {finding.summary}"


def _more(finding: Finding) -> Iterator[str]:
    if finding.status not in {Status.WARNING, Status.ERROR}:
        return
    for line in (finding.detail or "").splitlines():
        yield f"{_INDENT}{line}"
    if finding.remedy is not None:
        yield f"{_INDENT}> {finding.remedy.text}"
        for command in finding.remedy.commands:
            yield f"{_INDENT}    {command}"
