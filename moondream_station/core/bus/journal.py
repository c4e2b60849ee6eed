"""Facts on disk: one file an activation, one for the station's own facts; whole lines, appended.

What is written survives the process; an activation's last fact also a power cut. Progress is written at most
once a second a key, and what was held back before the next fact of another kind, so that the last one of each
key is always there. A journal that can't be written never breaks what it records: that is logged once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from moondream_station.core.facts.codec import event_from_json, event_to_json
from moondream_station.core.facts.events import Event
from moondream_station.core.home.layout import ACTIVATION_ID, Home
from moondream_station.core.home.log import Log
from moondream_station.core.home.storage import open_file, read_file

ACTIVATIONS_KEPT: Final = 50
STATION_LOG_BYTES: Final = 1 << 20
_PROGRESS_SECONDS = 1.0
_log = Log()


class Journal:
    """Writes facts and notes below one home. Calls are short and synchronous; no file stays open."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._written_at: dict[tuple[str, str, str], float] = {}
        self._held: dict[tuple[str, str, str], Event] = {}
        self._is_broken = False

    def record(self, event: Event) -> None:
        """Write a fact, or hold it back where it is progress and another of its key was just written."""
        key = event.merge_key
        if key is None:
            self._flush(event.activation)
            self._append(event.activation, event_to_json(event), sync=event.is_terminal)
            return
        now = event.at.timestamp()
        written_at = self._written_at.get(key)
        # A clock that was set back must not silence progress until it has caught up.
        if written_at is not None and 0 <= now - written_at < _PROGRESS_SECONDS:
            self._held[key] = event
            return
        self._written_at[key] = now
        self._held.pop(key, None)
        self._append(event.activation, event_to_json(event))

    def past(self, *, activations: int) -> tuple[list[Event], int | None]:
        """What was written of the last activations, and of the station, by seq, and since when it is whole.

        None of the facts after that seq is missing but merged progress; None: it can't be read.
        """
        try:
            events = read_history(self.home, last=activations)
            is_whole = not _rotated(_station_log(self.home)).exists()
        except OSError as error:
            _log.warning("journal.unreadable", home=str(self.home.root), error=str(error))
            return [], None
        first = next((event.seq for event in events if event.activation is None), 1)
        return events, 0 if is_whole else first - 1

    def note(self, activation: str | None, text: str, *, label: str = "output") -> None:
        """Write a tool's whole output, say, beside the facts; readers of facts skip it."""
        self._append(activation, {"note": label, "text": text})

    def _flush(self, activation: str | None) -> None:
        for key in [key for key, event in self._held.items() if event.activation == activation]:
            self._append(activation, event_to_json(self._held.pop(key)))
        self._written_at = {key: at for key, at in self._written_at.items() if key[0] != (activation or "")}

    def _append(self, activation: str | None, data: dict[str, Any], *, sync: bool = False) -> None:
        line = json.dumps(data, separators=(",", ":")).encode() + b"\n"
        path = _station_log(self.home) if activation is None else _path(self.home, activation)
        try:
            _make_room(self.home, path, len(line))
            _append_line(path, line, sync=sync)
        except OSError as error:
            if not self._is_broken:
                _log.warning("journal.unwritable", path=str(path), error=str(error))
            self._is_broken = True
        else:
            self._is_broken = False


def read_activation(home: Home, activation: str) -> list[Event]:
    """The facts of one activation by their seq; none where there is no journal of it."""
    return _read(_path(home, activation)) if ACTIVATION_ID.fullmatch(activation) else []


def read_history(home: Home, *, last: int | None = None) -> list[Event]:
    """The facts that the journals hold, by their seq: the station's own and those of activations."""
    log = _station_log(home)
    events = _read(_rotated(log)) + _read(log)
    for activation in activations(home)[0 if last is None else -last :]:
        events += _read(_path(home, activation))
    return sorted(events, key=lambda event: event.seq)


def activations(home: Home) -> list[str]:
    """The ids of the activations that have a journal, the oldest first."""
    return sorted(filter(ACTIVATION_ID.fullmatch, (path.stem for path in home.activations.glob("*.jsonl"))))


def latest_activation(home: Home) -> str | None:
    """The id of the activation that began last, None where there was none."""
    return max(activations(home), default=None)


def _path(home: Home, activation: str) -> Path:
    if not ACTIVATION_ID.fullmatch(activation):
        raise ValueError(f"{activation!r} is no activation's id")
    return home.activations / f"{activation}.jsonl"


def _station_log(home: Home) -> Path:
    return home.logs / "station.jsonl"


def _rotated(path: Path) -> Path:
    return path.with_suffix(".1.jsonl")


def _make_room(home: Home, path: Path, size_bytes: int) -> None:
    """Make the folder of a new journal and keep the number, or the station's own bytes, within bounds."""
    if path == _station_log(home):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size + size_bytes > STATION_LOG_BYTES:
            path.replace(_rotated(path))
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        for oldest in activations(home)[: 1 - ACTIVATIONS_KEPT]:
            _path(home, oldest).unlink(missing_ok=True)


def _append_line(path: Path, line: bytes, *, sync: bool) -> None:
    """Append in one write, so that lines of several processes don't mix, and never onto a torn one."""
    with open_file(path, "ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                line = b"\n" + line
        written = file.write(line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes could be written")
        if sync:
            os.fsync(file.fileno())


def _read(path: Path) -> list[Event]:
    try:
        data = read_file(path)
    except FileNotFoundError:
        return []
    return sorted(_events(data), key=lambda event: event.seq)


def _events(data: bytes) -> Iterator[Event]:
    for line in data.splitlines():
        try:
            fields = json.loads(line)
            if isinstance(fields, dict) and "note" not in fields:
                yield event_from_json(fields)
        except (ValueError, RecursionError):
            # Torn by a kill or a full disk, or written by another version: its neighbours still count.
            _log.debug("journal.line_skipped", line=line[:200].decode(errors="replace"))
