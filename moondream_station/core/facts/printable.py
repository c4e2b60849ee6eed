"""Foreign text as it may be shown: servers, tools, packages and backends word much of what people read."""

from __future__ import annotations

import unicodedata
from typing import Final

_NOT_SHOWN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what controls, formats or breaks lines: it could move the cursor or hide text."""


def printable(text: str, *, keep: str = "\n\t") -> str:
    """The text with a space for each character that does not just show itself, but for those to keep."""
    if text.isprintable():
        return text
    return "".join(
        " " if unicodedata.category(char) in _NOT_SHOWN and char not in keep else char for char in text
    )
