"""A terminal, and what it can do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console
from rich.text import Text

LOCALES_OF_ASCII = frozenset({"C", "POSIX"})


class Terminal:
    """The terminal that a stream is, also after another file stands in for that stream."""

    def __init__(self, stream: TextIO, *, console: Console | None = None) -> None:
        self._stream = stream
        self._console = console or Console(file=stream, highlight=False, markup=False, emoji=False)

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines now: COLUMNS may be from before a resize."""
        try:
            return os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):  # no terminal, no file
            return os.terminal_size(self._console.size)

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
        if locale in LOCALES_OF_ASCII or environ.get("TERM") == "linux":
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
