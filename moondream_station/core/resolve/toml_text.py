"""The little TOML that locks and their projects need; the standard library only reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable


def toml_string(text: str) -> str:
    """A basic string. JSON's escapes are TOML's too, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_strings(texts: Iterable[str]) -> str:
    """An array of basic strings on one line."""
    return f"[{', '.join(toml_string(text) for text in texts)}]"
