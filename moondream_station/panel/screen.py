"""Lines drawn in place at the bottom of a terminal: only what changed is written, for slow links."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from moondream_station.panel.terminal import Terminal

_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_CLEAR_LINE, _CLEAR_BELOW = "\x1b[K", "\x1b[J"


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
