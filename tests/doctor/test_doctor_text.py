"""The report for people, beside the one for programs."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from moondream_station.console.output import folded
from moondream_station.doctor.examination import CHECKS
from moondream_station.doctor.report import (
    ASCII,
    UNICODE,
    Finding,
    Remedy,
    Report,
    Status,
    in_colour,
    report_text,
    report_to_json,
    symbols_for,
)


def finding(section: str, status: Status, summary: str, **more: object) -> Finding:
    """A finding."""
    fields = {"id": f"{section}.it", "status": status, "summary": summary, **more}
    return Finding(seconds=0.1, **fields)  # type: ignore[arg-type]


REPORT = Report(
    (
        finding("machine", Status.OK, "Linux.", detail="not shown"),
        finding(
            "gpu",
            Status.ERROR,
            "Out of step.",
            detail="seen this\nand that",
            remedy=Remedy(text="Restart.", commands=("sudo reboot", "nvidia-smi")),
        ),
        finding("gpu", Status.WARNING, "Too old."),
        finding("disk", Status.SKIPPED, "Not checked."),
    )
)


def test_sentences_are_broken_between_words() -> None:
    """Behind their symbol; commands stay whole, so that they can be copied."""
    fold = partial(folded, width=30)
    for symbols in (ASCII, in_colour(ASCII)):
        text = report_text(REPORT, symbols, fold)
        plain = re.sub(r"\x1b\[\d+m", "", text)
        assert plain.split() == report_text(REPORT, ASCII).split()
        commands = [
            command for finding in REPORT.findings if finding.remedy for command in finding.remedy.commands
        ]
        assert all(f"        {command}\n" in plain for command in commands)
        assert all(len(line) <= 30 for line in plain.splitlines() if line.strip() not in commands)


def test_findings_stand_by_section_with_their_remedies() -> None:
    """Details and remedies only where something is wrong; commands alone on their lines."""
    assert report_text(REPORT, ASCII) == (
        "Machine\n"
        "  [ok] Linux.\n"
        "\n"
        "GPU and driver\n"
        "  [x] Out of step.\n"
        "    seen this\n"
        "    and that\n"
        "    > Restart.\n"
        "        sudo reboot\n"
        "        nvidia-smi\n"
        "  [!] Too old.\n"
        "\n"
        "Disk\n"
        "  [-] Not checked.\n"
        "\n"
        "1 error and 1 warning."
    )


def test_text_and_json_agree() -> None:
    """Every finding of the one is in the other, and in the same order."""
    text = report_text(REPORT, UNICODE)
    places = [text.index(one["summary"]) for one in report_to_json(REPORT)["findings"]]
    assert places == sorted(places)
    assert report_to_json(REPORT)["ok"] is False
    assert report_text(Report(REPORT.findings[:1]), UNICODE).endswith("Nothing is wrong.")


def test_symbols_are_those_that_can_be_shown() -> None:
    """An output in ASCII, or in something unknown, gets ASCII."""
    assert symbols_for("utf-8") is UNICODE
    assert symbols_for("ascii") is ASCII
    assert symbols_for("no-such-encoding") is ASCII
    assert symbols_for(None) is ASCII


def test_colours_are_around_the_symbols_alone() -> None:
    """So that a line can be copied."""
    assert "\x1b[31m[x]\x1b[0m Out of step.\n" in report_text(REPORT, in_colour(ASCII))


def test_foreign_words_control_no_terminal() -> None:
    """Only the symbols' own colours are left."""
    wild = "red \x1b[31m\x07 word"
    remedy = Remedy(wild, (wild,))
    report = Report((finding("gpu", Status.ERROR, wild, detail=f"{wild}\n{wild}", remedy=remedy),))
    assert "\x1b" not in report_text(report, ASCII)
    assert "\x07" not in report_text(report, ASCII)


def test_every_check_is_documented() -> None:
    """docs/how-to/read-doctor.md lists them in the registry's order, and no other."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "read-doctor.md"
    rows = re.findall(r"^\| `([a-z]+\.[a-z-]+)` \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert rows == [check.id for check in CHECKS]
