"""The report for people: by section, with a symbol for each finding and commands to copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from moondream_station.doctor.report.findings import Finding, Report, Section, Status

_TITLES: Final[Mapping[Section, str]] = {
    Section.MACHINE: "Machine",
    Section.GPU: "GPU and driver",
    Section.PYTHON: "Python",
    Section.TORCH: "PyTorch",
    Section.NETWORK: "Indexes and network",
    Section.DISK: "Disk",
    Section.ENVIRONMENTS: "Environments",
    Section.BACKENDS: "Backends",
    Section.STATION: "Station",
}
_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Symbols:
    """How each status is shown."""

    of: Mapping[Status, str]

    def in_colour(self) -> Symbols:
        """The same, coloured for a terminal."""
        colours = {Status.OK: 32, Status.WARNING: 33, Status.ERROR: 31, Status.SKIPPED: 2}
        return Symbols({status: f"\x1b[{colours[status]}m{text}\x1b[0m" for status, text in self.of.items()})


UNICODE: Final = Symbols({Status.OK: "✓", Status.WARNING: "!", Status.ERROR: "✗", Status.SKIPPED: "-"})
ASCII: Final = Symbols({Status.OK: "[ok]", Status.WARNING: "[!]", Status.ERROR: "[x]", Status.SKIPPED: "[-]"})


def symbols_for(encoding: str | None) -> Symbols:
    """The symbols that an output's encoding can show."""
    try:
        "".join(UNICODE.of.values()).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def report_text(report: Report, symbols: Symbols) -> str:
    """The whole report: details only where something is wrong."""
    lines = []
    for section, findings in groupby(report.findings, key=lambda finding: finding.section):
        lines.append(_TITLES[section])
        for finding in findings:
            lines += [finding_line(finding, symbols), *_more(finding)]
        lines.append("")
    return "\n".join([*lines, summary_text(report)])


def summary_text(report: Report) -> str:
    """The report in one sentence."""
    statuses = [finding.status for finding in report.findings]
    counts = [(statuses.count(Status.ERROR), "error"), (statuses.count(Status.WARNING), "warning")]
    words = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    return f"{' and '.join(words)}." if words else "Nothing is wrong."


def finding_line(finding: Finding, symbols: Symbols) -> str:
    """One finding in one line."""
    return f"  {symbols.of[finding.status]} {finding.summary}"


def _more(finding: Finding) -> Iterator[str]:
    if finding.status not in {Status.WARNING, Status.ERROR}:
        return
    for line in (finding.detail or "").splitlines():
        yield f"{_INDENT}{line}"
    if finding.remedy is not None:
        yield f"{_INDENT}> {finding.remedy.text}"
        for command in finding.remedy.commands:
            yield f"{_INDENT}    {command}"
