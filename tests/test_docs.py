"""The documentation: its links lead somewhere, its commands parse, its main jobs are one line each."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from moondream_station.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file or folder that is there."""
    targets = [target for target in _LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse(page: Path) -> None:
    """Every `moondream-station` line in a code block names a command and options that exist."""
    for block in _BLOCK.findall(page.read_text()):
        for line in block.splitlines():
            words = shlex.split(line.split("moondream-station", 1)[1]) if "moondream-station" in line else []
            if words and not words[0].startswith(("-", "/", ".")):
                _parse(words, line)


def _parse(words: list[str], line: str) -> None:
    command = typer.main.get_command(app)
    assert words[0] in getattr(command, "commands", {}), line
    known = {option for one in command.commands[words[0]].params for option in one.opts}  # type: ignore[attr-defined]
    given = {word.split("=")[0] for word in words[1:] if word.startswith("-")}
    assert given <= known | {"--help"}, line


@pytest.mark.parametrize("name", ["main-job", "tests"])
def test_the_readmes_commands_are_one_line_each(name: str) -> None:
    """CI runs them as they stand there."""
    after = (ROOT / "README.md").read_text().split(f"<!-- {name} -->\n", 1)[1]
    block = _BLOCK.match(after)
    assert block is not None
    assert len(block[1].splitlines()) == 1
