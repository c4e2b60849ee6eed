"""The report for people: by section, with a symbol for each finding and commands that can be copied."""

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
    lines = [line for finding in _sections(report.findings, symbols) for line in finding]
    return "\n".join([*lines, summary_text(report)])


def summary_text(report: Report) -> str:
    """The report in one sentence."""
    errors = sum(finding.status is Status.ERROR for finding in report.findings)
    warnings = sum(finding.status is Status.WARNING for finding in report.findings)
    if not errors and not warnings:
        return "Nothing is wrong."
    counts = [_count(errors, "error"), _count(warnings, "warning")]
    return f"{' and '.join(count for count in counts if count)}."


def finding_line(finding: Finding, symbols: Symbols) -> str:
    """One finding in one line."""
    return f"  {symbols.of[finding.status]} {finding.summary}"


def title_of(section: Section) -> str:
    """A section's heading."""
    return _TITLES[section]


def _sections(findings: tuple[Finding, ...], symbols: Symbols) -> Iterator[list[str]]:
    for section, members in groupby(findings, key=lambda finding: finding.section):
        lines = [title_of(section)]
        for finding in members:
            lines += [finding_line(finding, symbols), *_more(finding)]
        yield [*lines, ""]


def _more(finding: Finding) -> Iterator[str]:
    if finding.status not in {Status.WARNING, Status.ERROR}:
        return
    for line in (finding.detail or "").splitlines():
        yield f"{_INDENT}{line}"
    if finding.remedy is not None:
        yield f"{_INDENT}> {finding.remedy.text}"
        for command in finding.remedy.commands:
            yield f"{_INDENT}    {command}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}" if number else ""
