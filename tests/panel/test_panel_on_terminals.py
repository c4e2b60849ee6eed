"""The panel in real terminals: a scripted activation, step by step."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import reduce
from itertools import pairwise
from pathlib import Path

import pytest

from moondream_station.core.facts.state import StationState, apply
from moondream_station.panel.frame import frame_of
from moondream_station.panel.rendering import render
from support.posix import make_fifo
from support.scripted_activation import SCRIPTS, events, whole
from support.terminal import Terminal, open_terminal

pytestmark = pytest.mark.terminal

_PROGRAM = Path(__file__).with_name("panel_program.py")
_COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])(?:;[0-9;]*)?m")


class Shown:
    """The program in a terminal, and the pipe that it takes its orders from."""

    def __init__(self, terminal: Terminal, orders: Path) -> None:
        self.terminal = terminal
        self._orders = orders.open("w", encoding="utf-8", buffering=1)

    def order(self, *orders: object) -> None:
        """Give orders, in order."""
        self._orders.write("".join(f"{order}\n" for order in orders))

    def end(self) -> int:
        """Let the program end; gives its exit code."""
        self._orders.close()
        return self.terminal.exit_code()


Show = Callable[..., Shown]


@pytest.fixture
def show(tmp_path: Path) -> Iterator[Show]:
    """Run the program in a terminal."""
    with ExitStack() as stack:

        def run(script: str, *, columns: int, rows: int = 24, **environ: str) -> Shown:
            pipe = tmp_path / "orders"
            make_fifo(pipe)
            variables = {"PYTHONWARNINGS": "error", **environ}
            command: list[str | Path] = [sys.executable, _PROGRAM, script, pipe]
            terminal = open_terminal(command, columns=columns, rows=rows, environ=variables)
            shown = Shown(stack.enter_context(terminal), pipe)
            stack.callback(shown._orders.close)
            return shown

        yield run


def _expected(script: str, facts: int, *, columns: int, cancelling: bool = False) -> list[str]:
    happened = events(SCRIPTS[script]())[:facts]
    state = reduce(apply, happened, StationState())
    lines = render(state, frame_of(columns - 1, unicode=True, now=happened[0].at), cancelling=cancelling)
    text = "\n".join(line.plain.rstrip() for line in lines)
    return _timeless(text.rstrip().split("\n"))


def _timeless(lines: list[str]) -> list[str]:
    """Without the time that has passed since the beginning, and of a slow stage."""
    return [re.sub(r"\s+\d+:\d\d$", "", line) for line in lines]


def _wait_for(shown: Shown, expected: list[str]) -> None:
    shown.terminal.wait_until(lambda lines: _timeless(lines) == expected, "\n".join(expected))


@pytest.mark.parametrize("columns", [80, 40])
def test_a_whole_activation(show: Show, columns: int) -> None:
    """Every picture is the one that the state makes, at its place; the last one tells the result."""
    shown = show("whole", columns=columns)
    for before, moment in pairwise((0, 9, 14, 19, 24, 30)):
        shown.order(moment - before)
        _wait_for(shown, _expected("whole", moment, columns=columns))
    shown.order(len(whole()) - 30)
    assert shown.end() == 0
    assert _timeless(shown.terminal.screen()) == _expected("whole", len(whole()), columns=columns)


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("script", ["degraded", "failed"])
def test_an_end_that_is_not_as_wanted(show: Show, script: str, columns: int) -> None:
    """A degraded result says what it should have been; an error has its hint."""
    shown = show(script, columns=columns, rows=30)
    facts = len(SCRIPTS[script]())
    shown.order(facts)
    assert shown.end() == 0
    expected = _expected(script, facts, columns=columns)
    assert _timeless(shown.terminal.screen()) == expected


def test_cancelling_shows_until_the_end(show: Show) -> None:
    """From Ctrl-C, whose echo leaves no trace, to the terminal fact."""
    shown = show("cancelled", columns=80)
    facts = len(SCRIPTS["cancelled"]())
    shown.order(facts - 1)
    shown.terminal.wait_for("627.0 MB")
    shown.order("cancel")
    assert _timeless(shown.terminal.wait_for("cancelling…")) == _expected(
        "cancelled", facts - 1, columns=80, cancelling=True
    )
    shown.order(1)
    assert shown.end() == 0
    assert _timeless(shown.terminal.screen()) == _expected("cancelled", facts, columns=80)


def test_log_lines_stand_above(show: Show) -> None:
    """What others write to stderr does not tear the panel."""
    shown = show("whole", columns=80)
    shown.order(9)
    shown.terminal.wait_for("nvidia_smi")
    shown.order("log", 5)
    lines = shown.terminal.wait_for("lock      3 packages")
    assert lines[0] == "a line of the log"
    assert _timeless(lines[1:]) == _expected("whole", 14, columns=80)


def test_it_follows_the_terminals_size(show: Show) -> None:
    """Narrower and wider again while it is shown, it leaves no remains below what stood there before."""
    shown = show("whole", columns=80, rows=60)
    shown.order(*["log"] * 25, 19)  # lines that a terminal takes into its history when it breaks others
    shown.terminal.wait_for("627.0 MB of 1.4 GB  48.2 MB/s")
    for columns in (60, 40, 80):
        shown.terminal.resize(columns, 60)
        expected = _expected("whole", 19, columns=columns)
        lines = shown.terminal.wait_until(
            lambda lines, expected=expected: _timeless(lines)[-len(expected) :] == expected  # type: ignore[misc]
        )
        assert set(lines[: -len(expected)]) <= {"a line of the log"}


def test_a_low_terminal_keeps_its_place(show: Show) -> None:
    """Where the panel is too high, only the present stage is shown, and nothing scrolls away."""
    shown = show("whole", columns=80, rows=8)
    shown.order(19)
    lines = shown.terminal.wait_for("627.0 MB")
    assert lines[0].startswith("Switching to selftest")
    assert lines[1].startswith("▸ download")
    shown.order(7)
    assert shown.terminal.wait_for("▸ start")[0].startswith("Switching to selftest")


def test_no_colour_where_none_is_wanted(show: Show) -> None:
    """NO_COLOR takes the colours; words and marks say the same."""
    shown = show("whole", columns=80, NO_COLOR="1")
    shown.order(19)
    assert _timeless(shown.terminal.wait_for("627.0 MB")) == _expected("whole", 19, columns=80)
    assert not _COLOUR.search("\n".join(shown.terminal.screen(styled=True)))


def test_colour_otherwise(show: Show) -> None:
    """Marks have colours."""
    shown = show("whole", columns=80)
    shown.order(19)
    shown.terminal.wait_for("627.0 MB")
    assert _COLOUR.search("\n".join(shown.terminal.screen(styled=True)))


def test_ascii_where_the_encoding_has_no_more(show: Show) -> None:
    """Marks and bars have their counterparts."""
    shown = show("whole", columns=80, PYTHONIOENCODING="ascii")
    shown.order(19)
    lines = shown.terminal.wait_for("627.0 MB")
    assert "\n".join(lines).isascii()
    assert lines[5].startswith("> download  ########------------  44%")


def test_plain_lines_on_a_dumb_terminal(show: Show) -> None:
    """Nothing is drawn over: a line a fact."""
    shown = show("whole", columns=80, rows=40, TERM="dumb")
    shown.order(len(whole()))
    assert shown.end() == 0
    lines = shown.terminal.screen()
    assert lines[0] == "Switching to selftest (strategy auto)"
    assert "▸" not in "\n".join(lines)
