"""A terminal, what it can do, and a picture on it that follows what it shows.

The picture is drawn by a thread of its own, because a terminal may take its time, or be stopped with Ctrl-S:
nothing that works waits for it.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final, TextIO, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from moondream_station.panel.frame import Frame, frame_of

Picture: TypeAlias = Callable[[Frame, int | None], Sequence[Text]]
"""Makes the lines of now, as far as it can at most so many."""

_SECONDS_A_PICTURE: Final = 0.25
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_CLEAR_LINE, _CLEAR_BELOW = "\x1b[K", "\x1b[J"


class Terminal:
    """The terminal that a stream is, also after another file stands in for that stream."""

    def __init__(self, stream: TextIO, *, console: Console | None = None) -> None:
        self._stream = stream
        self._console = console or Console(file=stream, highlight=False, markup=False, emoji=False)
        self._has_unicode = self.shows_unicode(os.environ)

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines now: COLUMNS may be from before a resize."""
        try:
            return os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):  # no terminal, no file
            return os.terminal_size(self._console.size)

    @property
    def frame(self) -> Frame:
        """What a picture is drawn with now. Some terminals break a line that reaches the last column."""
        return frame_of(self.size.columns - 1, unicode=self._has_unicode, now=datetime.now(UTC))

    @property
    def can_draw(self) -> bool:
        """Whether lines can be drawn over: not in a file, on `TERM=dumb`, or in an old Windows console."""
        console = self._console
        return console.is_terminal and not console.is_dumb_terminal and not console.legacy_windows

    def shows_unicode(self, environ: Mapping[str, str]) -> bool:
        """Whether it shows marks and bars that are not ASCII."""
        # An explicit C locale asks for ASCII although Python then writes UTF-8 (PEP 540); the Linux console
        # has no glyphs for most of these.
        names = ("LC_ALL", "LC_CTYPE", "LANG")
        locale = next((value for name in names if (value := environ.get(name))), None)
        if locale in {"C", "POSIX"} or environ.get("TERM") == "linux":
            return False
        try:
            "✓▸·✗■━─…".encode(self._console.encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    def styled(self, line: Text) -> str:
        """A line with the escape sequences of its styles, as far as the terminal and `NO_COLOR` allow."""
        with self._console.capture() as captured:
            self._console.print(line, end="", soft_wrap=True)
        return captured.get()

    def write(self, text: str) -> None:
        """Write at once.

        Raises:
            OSError: The terminal is gone.
        """
        self._stream.write(text)
        self._stream.flush()


class Screen:
    """Draws a picture over the one before. Between two calls the cursor stands on the line below it, visible.

    docs/explanation/dependencies.md says why this is not rich.Live.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._drawn: list[str] = []
        self._widths: list[int] = []
        self._columns = terminal.size.columns

    def draw(self, lines: Sequence[Text]) -> None:
        """Replace the picture; lines that do not fit are left out. Each is narrower than the terminal."""
        size = self._terminal.size
        lines = lines[: size.lines - 1]
        styled = [self._terminal.styled(line) for line in lines]
        written = self._after_resize(size.columns) if size.columns != self._columns else ""
        written += self._changes(styled)
        self._drawn = styled
        self._widths = [cell_len(line.plain) for line in lines]
        if written:
            # At the beginning of the line below: the terminal may have shown a ^C there.
            self._write(f"\r{_CLEAR_LINE}{written}")

    def write_above(self, text: str) -> None:
        """Write whole lines, with their ends, above the picture, which moves down."""
        up = f"\x1b[{len(self._drawn)}A" if self._drawn else ""
        again = "".join(f"{line}\n" for line in self._drawn)
        self._write(f"\r{_CLEAR_LINE}{up}{_CLEAR_BELOW}{text}{again}")

    def leave(self, lines: Sequence[Text]) -> None:
        """Draw the last picture, which may be higher than the terminal: nothing is drawn over it any more."""
        room = self._terminal.size.lines - 1
        self.draw(lines)
        rest = "".join(f"{self._terminal.styled(line)}\n" for line in lines[room:])
        self._write(f"\r{_CLEAR_LINE}{rest}")
        self._drawn = []
        self._widths = []

    def _changes(self, styled: list[str]) -> str:
        """What turns the picture before into the new one, the cursor below each of them."""
        before, position, written = self._drawn, len(self._drawn), []
        for row, line in enumerate(styled):
            if row < len(before) and before[row] == line:
                continue
            written.append(f"{_moved(position, row)}{line}{_CLEAR_LINE}\n")
            position = row + 1
        if len(styled) < len(before):
            written.append(f"{_moved(position, len(styled))}{_CLEAR_BELOW}")
        else:
            written.append(_moved(position, len(styled)))
        return "".join(written)

    def _after_resize(self, columns: int) -> str:
        """Clear the picture, whose lines the terminal rewrapped when it became narrower."""
        self._columns = columns
        height = sum(max(1, -(-width // columns)) for width in self._widths)
        self._drawn = []
        return f"{_moved(height, 0)}{_CLEAR_BELOW}"

    def _write(self, text: str) -> None:
        """Write at once, so that no half picture shows."""
        self._terminal.write(f"{_HIDE}{text}{_SHOW}")


def _moved(position: int, row: int) -> str:
    """The cursor from one line to another; between the first and the one below the last all exist."""
    if position == row:
        return ""
    return f"\x1b[{position - row}A" if position > row else f"\x1b[{row - position}B"


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
        lines = self._picture(self._terminal.frame, None)
        with self._at_terminal():
            self._screen.leave(lines)

    def write_above(self, text: str) -> None:
        """Write whole lines above the picture."""
        with self._at_terminal():
            self._screen.write_above(text)

    def _run(self) -> None:
        is_closing = False
        while not is_closing:
            lines = self._picture(self._terminal.frame, self._terminal.size.lines - 1)
            with self._at_terminal():
                self._screen.draw(lines)
            is_closing = self._closing.wait(_SECONDS_A_PICTURE)

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
