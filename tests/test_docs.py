"""The documentation: its links lead somewhere, its commands parse, what is made from the code is current."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from moondream_station.cli.app import app
from moondream_station.core.facts.errors import StationError
from moondream_station.core.home.layout import Home
from support.pages import BLOCK, DOCS, PAGES, ROOT, blocks, commands_in, prose, shell_lines
from tools.reference.__main__ import differences
from tools.reference.errors_page import errors_page

_PACKAGE = ROOT / "moondream_station"
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def _anchors(page: Path) -> set[str]:
    """The names by which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file or folder that is there, and a heading that it has."""
    lost = []
    for target, anchor in _LINK.findall(prose(page)):
        if "://" in target:
            continue
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            lost.append(f"{target}#{anchor}")
    assert lost == []


@every_page
def test_files_that_are_named_are_there(page: Path) -> None:
    """Every path of a test or a module in backticks is a file, a folder or a pattern that some file meets."""
    text = prose(page)
    named = [(ROOT, path) for path in re.findall(r"`((?:tests|tools)/[^`\s]*)`", text)]
    named += [(_PACKAGE, path) for path in re.findall(r"`((?:core|cli|http|doctor|console)/[\w/.*]+)`", text)]
    named += [(_PACKAGE / "core", f"{path}.py") for path in re.findall(r"\b\d+ `(\w+/\w+)`", text)]
    assert [path for folder, path in named if not list(folder.glob(path.rstrip("/")))] == []


def test_every_page_can_be_found() -> None:
    """The index links to each page."""
    linked = {(DOCS / target).resolve() for target, _ in _LINK.findall(prose(DOCS / "README.md"))}
    assert {page for page in DOCS.rglob("*.md") if page.resolve() not in linked} == {DOCS / "README.md"}


@every_page
def test_commands_parse(page: Path) -> None:
    """Every `moondream-station` in a shell block names a command, and options and arguments of it."""
    for line in shell_lines(page):
        for words in commands_in(line):
            _parse(words)


def _parse(words: list[str]) -> None:
    """Let the command line read the words, without doing what they say."""
    group: Any = typer.main.get_command(app)
    # These do what they say as soon as they are parsed.
    words = [word for word in words if word not in {"--install-completion", "--show-completion"}]
    context = group.make_context("moondream-station", list(words), resilient_parsing=not words)
    if words and not words[0].startswith("-"):
        name, command, rest = group.resolve_command(context, list(words))
        command.make_context(name, [word for word in rest if word != "--help"], parent=context)


@pytest.mark.parametrize("words", [["swich", "selftest"], ["plan", "--ofline"], ["switch"], ["serve", "x"]])
def test_wrong_commands_would_be_seen(words: list[str]) -> None:
    """A command, an option or an argument that does not exist does not parse."""
    with pytest.raises(typer.TyperException):
        _parse(words)


@every_page
def test_examples_are_well_formed(page: Path) -> None:
    """Python parses; JSON is one value after another."""
    for block in blocks(page, "python"):
        ast.parse(block)
    for block in blocks(page, "json"):
        rest = block.strip()
        while rest:
            _, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:].lstrip()


@pytest.mark.parametrize("name", ["main-job", "tests"])
def test_the_readmes_commands_are_one_line_each(name: str) -> None:
    """CI runs them as they stand there."""
    after = (ROOT / "README.md").read_text(encoding="utf-8").split(f"<!-- {name} -->\n", 1)[1]
    block = BLOCK.match(after)
    assert block is not None
    assert len(block[2].splitlines()) == 1


def test_what_is_generated_from_the_code_is_current() -> None:
    """`python -m tools.reference --write docs/reference` would change nothing."""
    assert differences(DOCS / "reference") == []


def test_every_error_has_a_code_of_its_own() -> None:
    """What a program tests for means one thing, and reads as one word."""
    codes = re.findall(r"^\| `([^`]+)` \|", errors_page(), re.MULTILINE)
    assert len(codes) == len(set(codes))
    assert StationError.code in codes
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


def test_every_place_in_the_home_is_described() -> None:
    """The page of files names each."""
    text = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    places = [name for name, member in vars(Home).items() if isinstance(member, property)]
    home = Home(root=Path("/home"))
    assert [name for name in places if f"`{getattr(home, name).name}" not in text] == []
