"""Files of an environment that are no longer what was committed. Reads only what somebody touched since."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from moondream_station.core.environments.store import Place


def changed_files(place: Place) -> tuple[str, ...]:
    """The files whose content is not what their package's RECORD says.

    Only files that were written after the commit are read: an environment is never changed after it, so most
    often there is nothing to read. A change that kept its file's times is not detected.
    Missing files are the matter of `check_whole`.
    """
    committed_ns = place.commit.stat().st_mtime_ns
    return tuple(
        name
        for name, path, expected in _recorded(place.venv)
        if _is_touched(path, committed_ns) and _digest(path) != expected
    )


def _recorded(venv: Path) -> Iterator[tuple[str, Path, str]]:
    """Every file with a recorded hash: its name, its place, the hash as RECORD writes it."""
    for record in sorted(venv.glob("[lL]ib*/**/site-packages/*.dist-info/RECORD")):
        folder = record.parent.parent
        if folder.parent.parent.is_symlink() or folder.parent.is_symlink():
            continue  # lib64 is lib once more
        with record.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                if len(row) > 1 and row[1].startswith("sha256="):
                    yield row[0], folder / row[0], row[1].removeprefix("sha256=")


def _is_touched(path: Path, committed_ns: int) -> bool:
    try:
        return os.stat(path).st_mtime_ns > committed_ns  # noqa: PTH116  pathlib costs three times as much here
    except FileNotFoundError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
