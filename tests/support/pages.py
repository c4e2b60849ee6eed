"""The documentation as tests read it: its blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^(?:\S*/)?moondream-station$")
_SHELL = ("bash", "sh", "console")


def prose(page: Path) -> str:
    """A page without its blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, *languages: str) -> list[str]:
    """What stands in a page's blocks of these languages; of "" in those that name none."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


def shell_lines(page: Path) -> Iterator[str]:
    """The lines of a page's shell blocks, continued ones joined."""
    for block in blocks(page, *_SHELL):
        yield from block.replace("\\\n", " ").splitlines()


def commands_in(line: str) -> list[list[str]]:
    """The argument lists of each of our commands on a line of shell."""
    found: list[list[str]] = []
    ours: list[str] | None = None
    for word in shlex.split(line, comments=True):
        if word in {"&&", "||", ";", "|", "&"}:
            ours = None
        elif ours is not None:
            ours.append(word)
        elif _COMMAND.match(word):
            ours = []
            found.append(ours)
    return found


def exports_in(line: str) -> dict[str, str]:
    """The variables that a line of shell exports."""
    first, *words = shlex.split(line, comments=True) or [""]
    return dict(word.split("=", 1) for word in words) if first == "export" else {}
