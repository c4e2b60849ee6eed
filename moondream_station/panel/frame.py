"""What one picture is drawn with: its width, its characters, its moment; and how words are fitted into it.

Words come from servers, tools and manifests. Whatever could move the cursor or change the terminal is removed
here, before they become a line.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from moondream_station.core.facts.printable import printable

NARROW: Final = 60
"""Below so many columns a frame says less in each line, and takes more lines."""

_LEAST_WIDTH: Final = 20
_GAP: Final = 2
_CONSOLE: Final = Console(file=io.StringIO())
"""What rich's line breaking asks for; nothing is printed to it."""


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters that are not words: marks of stages, a bar's full and empty part, the ellipsis."""

    done: str
    now: str
    later: str
    skipped: str
    warned: str
    failed: str
    stopped: str
    bar: str
    rest: str
    ellipsis: str
    is_ascii: bool


UNICODE: Final = Glyphs("✓", "▸", "·", "-", "!", "✗", "■", "━", "─", "…", is_ascii=False)
ASCII: Final = Glyphs("+", ">", ".", "-", "!", "x", "#", "#", "-", "...", is_ascii=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One picture's measures: columns a line may take; its characters; its moment, aware."""

    width: int
    glyphs: Glyphs
    now: datetime

    @property
    def is_narrow(self) -> bool:
        """Whether lines must say less."""
        return self.width < NARROW

    def clean(self, words: str) -> str:
        """Words as one line that only shows itself: no control characters, and ASCII where it must be."""
        shown = printable(words, keep="")
        if not self.glyphs.is_ascii:
            return shown
        return shown.replace("…", "...").encode("ascii", "replace").decode("ascii")

    def cut(self, words: str, width: int) -> str:
        """Words in at most `width` columns; what is left out shows as an ellipsis."""
        words = self.clean(words)
        if cell_len(words) <= width:
            return words
        room = max(0, width - cell_len(self.glyphs.ellipsis))
        return (set_cell_size(words, room).rstrip() + self.glyphs.ellipsis)[: max(0, width)]

    def wrap(self, words: str, width: int, rows: int | None = None) -> list[str]:
        """Words broken into lines of at most `width` columns; beyond `rows` lines they are cut."""
        text = Text(" ".join(self.clean(words).split()))
        lines = [line.plain.rstrip() for line in text.wrap(_CONSOLE, max(1, width), overflow="fold") if line]
        if rows is None or len(lines) <= rows:
            return lines
        return [*lines[: rows - 1], self.cut(" ".join(lines[rows - 1 :]), width)]

    def paragraph(
        self, words: str, *, mark: str = " ", style: str = "", rows: int | None = None
    ) -> list[Text]:
        """Words as lines of the frame's width, the first one marked, the others below its words."""
        lines = self.wrap(words, self.width - 2, rows)
        return [
            Text.assemble((f"{mark if index == 0 else ' '} ", style), (line, style))
            for index, line in enumerate(lines)
        ]

    def labelled(self, label: str, words: str, style: str = "") -> list[Text]:
        """Words behind a label, as many lines as they need."""
        first, *rest = self.wrap(f"{label}: {words}", self.width - 2)
        head = len(label) + 1
        return [
            Text.assemble((first[:head], "bold"), (first[head:], style)),
            *(Text(f"  {line}", style) for line in rest),
        ]

    def spread(self, left: str, right: str, *, style: str = "", mark: str = "", mark_style: str = "") -> Text:
        """A line with words at both ends, marked or not; the left ones give way."""
        head = f"{mark} " if mark else ""
        room = self.width - cell_len(head)
        right = self.cut(right, room)
        left = self.cut(left, max(0, room - cell_len(right) - _GAP)) if right else self.cut(left, room)
        line = Text.assemble((head, mark_style), (left, style))
        if right:
            line.append(" " * (room - cell_len(left) - cell_len(right)))
            line.append(right, "dim")
        return line

    def bar(self, share: float, width: int) -> str:
        """A bar that is full as far as `share`, which is held between 0 and 1."""
        full = int(min(1.0, max(0.0, share)) * width)
        return self.glyphs.bar * full + self.glyphs.rest * (width - full)


def frame_of(width: int, *, unicode: bool, now: datetime) -> Frame:
    """A frame of at least 20 columns."""
    return Frame(width=max(_LEAST_WIDTH, width), glyphs=UNICODE if unicode else ASCII, now=now)
