"""Pictures in words, held against files that people looked at."""

from __future__ import annotations

import difflib
import os
from pathlib import Path


def check_snapshot(path: Path, shown: str) -> None:
    """Hold what is shown against a file; with UPDATE_SNAPSHOTS=1 in the environment it becomes the file."""
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    kept = path.read_text(encoding="utf-8")
    assert shown == kept, "\n".join(difflib.ndiff(kept.splitlines(), shown.splitlines()))
