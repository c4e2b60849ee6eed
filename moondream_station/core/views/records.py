"""What a home's journals and logs tell of past activations and of workers. Blocks: it reads files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from moondream_station.core.bus.journal import activations
from moondream_station.core.facts.codec import event_from_json, event_to_json
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    BackendActivationRequested,
    Event,
)
from moondream_station.core.facts.inspection import ActivationJournal, ActivationSummary
from moondream_station.core.home.layout import ACTIVATION_ID, Home
from moondream_station.core.home.storage import read_file

_WORKER_LINES: Final = 200
_ACTIVATIONS: Final = 20


def worker_lines(home: Home, model: str) -> list[str]:
    """The last lines that a model's workers wrote, the oldest first; none where there is no log."""
    try:
        text = read_file(home.worker_log(model)).decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-_WORKER_LINES:]


def list_activations(home: Home) -> tuple[ActivationSummary, ...]:
    """The last activations, the newest first: what was requested, since when, and how each ended."""
    summaries = (_summary(name, _lines(home, name)) for name in reversed(activations(home)))
    return tuple(islice(filter(None, summaries), _ACTIVATIONS))


def show_activation(home: Home, activation: str) -> ActivationJournal | None:
    """An activation's journal, its facts and what tools printed; None where there is none."""
    entries = list(_entries(_lines(home, activation)))
    events = tuple(event_to_json(entry) for entry in entries if isinstance(entry, Event))
    notes = tuple(entry for entry in entries if isinstance(entry, str))
    return ActivationJournal(activation=activation, events=events, notes=notes) if events else None


def _summary(activation: str, lines: list[bytes]) -> ActivationSummary | None:
    """Reads the two ends alone: a journal has a line for every second of every download."""
    first = next(_events(lines), None)
    last = next(_events(reversed(lines)), None)
    if first is None or last is None or not isinstance(request := first.fact, BackendActivationRequested):
        return None
    summary = ActivationSummary(
        id=activation,
        model=request.model,
        strategy=request.strategy,
        started_at=first.at,
        seconds=(last.at - first.at).total_seconds() if last.is_terminal else None,
    )
    match last.fact:
        case ActivationSucceeded(build=build):
            return replace(summary, outcome="succeeded", build=build)
        case ActivationFailed(stage=stage, error=error):
            return replace(summary, outcome="failed", stage=stage, error=error)
        case ActivationCancelled(stage=stage):
            return replace(summary, outcome="cancelled", stage=stage)
        case _:
            return summary  # it runs, or its process was killed


def _lines(home: Home, activation: str) -> list[bytes]:
    if not ACTIVATION_ID.fullmatch(activation):
        return []
    try:
        return read_file(home.activations / f"{activation}.jsonl").splitlines()
    except FileNotFoundError:
        return []


def _events(lines: Iterable[bytes]) -> Iterator[Event]:
    return (entry for entry in _entries(lines) if isinstance(entry, Event))


def _entries(lines: Iterable[bytes]) -> Iterator[Event | str]:
    """The facts, and the notes as texts; what a kill tore or another version wrote is skipped."""
    for line in lines:
        try:
            data = json.loads(line)
            if isinstance(data, dict):
                yield str(data.get("text", "")) if "note" in data else event_from_json(data)
        except (ValueError, RecursionError):
            continue
