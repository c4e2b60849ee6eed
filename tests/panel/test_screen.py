"""Drawing in place: what is written, and how much."""

from __future__ import annotations

import io
import sys
import threading
from contextlib import redirect_stderr

import pytest
from rich.console import Console
from rich.text import Text

from moondream_station.console.presenting import PanelPresenter
from moondream_station.panel.terminal import LinesAbove, LivePicture, Screen, Terminal
from support.scripted_activation import events, whole


def _terminal(stream: io.StringIO, *, height: int = 24) -> Terminal:
    return Terminal(stream, console=Console(file=stream, force_terminal=True, width=80, height=height))


def _lines(*words: str) -> list[Text]:
    return [Text(word) for word in words]


def _taken(stream: io.StringIO) -> str:
    written = stream.getvalue().replace("\x1b[?25l", "").replace("\x1b[?25h", "").replace("\x1b[K", "")
    stream.seek(0)
    stream.truncate()
    return written


def test_only_changed_lines_are_written() -> None:
    """A long picture of which one line changed costs that line."""
    stream = io.StringIO()
    screen = Screen(_terminal(stream))
    screen.draw(_lines("one", "two", "three"))
    assert _taken(stream) == "\rone\ntwo\nthree\n"
    screen.draw(_lines("one", "TWO", "three"))
    assert _taken(stream) == "\r\x1b[2ATWO\n\x1b[1B"
    screen.draw(_lines("one", "TWO", "three"))
    assert _taken(stream) == ""


def test_a_picture_may_grow_and_shrink() -> None:
    """What is no longer part of it is cleared."""
    stream = io.StringIO()
    screen = Screen(_terminal(stream))
    screen.draw(_lines("one"))
    screen.draw(_lines("one", "two", "three"))
    _taken(stream)
    screen.draw(_lines("ONE"))
    assert _taken(stream) == "\r\x1b[3AONE\n\x1b[J"


def test_a_picture_is_never_higher_than_the_terminal() -> None:
    """Lines that do not fit would scroll away, and could not be drawn over."""
    stream = io.StringIO()
    Screen(_terminal(stream, height=3)).draw(_lines("one", "two", "three", "four"))
    assert _taken(stream) == "\rone\ntwo\n"


def test_the_last_picture_stands_whole() -> None:
    """What is higher than the terminal scrolls then, so that an error's hint is never cut off."""
    stream = io.StringIO()
    screen = Screen(_terminal(stream, height=3))
    screen.draw(_lines("one", "two", "three"))
    _taken(stream)
    screen.leave(_lines("one", "TWO", "three", "four"))
    assert _taken(stream) == "\r\x1b[1ATWO\n\rthree\nfour\n"


def test_lines_above_move_the_picture_down() -> None:
    """Whole ones at once, the rest when it is whole or nothing more comes."""
    stream = io.StringIO()
    live = LivePicture(_terminal(stream), lambda _frame, _height: _lines("picture"))
    live.start()
    with LinesAbove(live) as above, redirect_stderr(above):
        sys.stderr.write("one\ntw")
        sys.stderr.write("o")
    live.close()
    assert _taken(stream).endswith("\x1b[Jone\npicture\n\r\x1b[1A\x1b[Jtwo\npicture\n\r")


@pytest.mark.anyio
async def test_many_facts_are_few_pictures() -> None:
    """Thousands of facts in a moment are folded, not drawn each."""
    stream = io.StringIO()
    presenter = PanelPresenter(_terminal(stream))
    *happened, last = events(whole())
    for _ in range(100):
        for event in happened:
            await presenter.show(event)
    await presenter.show(last)
    presenter.close()
    assert stream.getvalue().count("\x1b[?25l") < 100
    assert "selftest is active on the cu126 build" in stream.getvalue()
    assert not any(thread.name == "panel" for thread in threading.enumerate())


@pytest.mark.anyio
async def test_a_terminal_that_has_gone_stops_nothing() -> None:
    """Writing fails from some moment on, and the activation is followed to its end."""

    class Gone(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(5, "Input/output error")

    stream = Gone()
    presenter = PanelPresenter(_terminal(stream))
    for event in events(whole()):
        await presenter.show(event)
    presenter.close()


@pytest.mark.anyio
async def test_stderr_is_itself_again_afterwards() -> None:
    """Also where an activation was not followed to its end."""
    before = sys.stderr
    presenter = PanelPresenter(_terminal(io.StringIO()))
    await presenter.show(events(whole())[0])
    assert sys.stderr is not before
    presenter.close()
    presenter.close()
    assert sys.stderr is before


def test_where_only_ascii_shows() -> None:
    """The encoding, an explicit C locale and the Linux console each say so."""
    utf8 = Terminal(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    latin = Terminal(io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert utf8.shows_unicode({"LANG": "en_US.UTF-8", "TERM": "xterm"})
    assert utf8.shows_unicode({})
    assert not latin.shows_unicode({})
    assert not utf8.shows_unicode({"LC_ALL": "C", "LANG": "en_US.UTF-8"})
    assert not utf8.shows_unicode({"LANG": "POSIX"})
    assert not utf8.shows_unicode({"TERM": "linux"})
