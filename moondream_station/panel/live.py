"""A picture that follows what it shows, drawn by a thread of its own.

A terminal may take its time, or be stopped with Ctrl-S: nothing that works waits for it.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, TypeAlias

from rich.text import Text

from moondream_station.panel.screen import Screen
from moondream_station.panel.terminal import Terminal

Picture: TypeAlias = Callable[[int, int | None], Sequence[Text]]
"""Makes the lines of now: at most so many columns wide, as far as it can at most so many lines high."""

SECONDS_A_PICTURE: Final = 0.25


class LivePicture:
    """Draws a picture four times a second, as far as it changed, until it is closed.

    The picture is made in another thread, so it must only read what is immutable.
    """

    def __init__(self, terminal: Terminal, picture: Picture) -> None:
        self._terminal = terminal
        self._picture = picture
        self._screen = Screen(terminal)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="panel", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def close(self) -> None:
        """Draw the last picture, whole, and leave it."""
        self._closing.set()
        self._thread.join()
        lines = self._picture(self._terminal.size.columns - 1, None)
        with self._at_terminal():
            self._screen.leave(lines)

    def write_above(self, text: str) -> None:
        """Write whole lines above the picture."""
        with self._at_terminal():
            self._screen.write_above(text)

    def _run(self) -> None:
        while True:
            self._draw()
            if self._closing.wait(SECONDS_A_PICTURE):
                return

    def _draw(self) -> None:
        # A line that reaches the last column would be broken by some terminals.
        size = self._terminal.size
        lines = self._picture(size.columns - 1, size.lines - 1)
        with self._at_terminal():
            self._screen.draw(lines)

    @contextmanager
    def _at_terminal(self) -> Iterator[None]:
        """One writer at a time. A terminal that is gone shows nothing, and stops nothing."""
        with self._lock, suppress(OSError):
            yield


class LinesAbove(io.TextIOBase):
    """A text file whose lines appear above a picture: stands in for stderr while the picture is there."""

    def __init__(self, picture: LivePicture) -> None:
        self._picture = picture
        self._begun = ""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str, /) -> int:
        """Write; a line shows when it is whole."""
        whole, end, self._begun = (self._begun + text).rpartition("\n")
        if end:
            self._picture.write_above(whole + end)
        return len(text)

    def close(self) -> None:
        """Show an unfinished line, too."""
        if self._begun:
            self.write("\n")
        super().close()
