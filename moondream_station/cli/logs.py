"""`logs`: the last activation's journal, with the output of its tools, and the worker's last lines."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

from moondream_station.console.output import print_text
from moondream_station.console.plain import PlainLines
from moondream_station.core.bus.journal import activations, read_activation
from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.errors import NoActiveModel
from moondream_station.core.facts.events import BackendActivationRequested, Event
from moondream_station.core.home.layout import Home, home_from, home_unusable, in_the_way
from moondream_station.core.home.storage import read_file

_WORKER_LINES = 50


def run_logs(model: str | None, *, as_json: bool) -> int:
    """Print the last activation's journal and the worker's last lines; returns the exit code.

    Without a model it is the one of the last activation.

    Raises:
        NoActiveModel: There is no activation, or none of this model.
        HomeUnusable: The home can't be read.
    """
    home = home_from(os.environ)
    try:
        latest = _latest(home, model)
        if latest is None:
            raise NoActiveModel(
                f"No activation of {model} is on record." if model else "No activation is on record.",
                hint="`moondream-station switch MODEL` activates a model.",
            )
        activation, events, name = latest
        notes = _notes(home, activation)
        worker = _last_lines(home, name)
    except OSError as error:
        message = f"{error.filename or home.root} can't be read: {error.strerror or error}."
        raise in_the_way(error) or home_unusable(message, home.root) from error
    shown = {
        "activation": activation,
        "model": name,
        "events": [event_to_json(event) for event in events],
        "notes": notes,
        "worker": worker,
    }
    print_text(_text(activation, events, notes, worker), shown, as_json=as_json)
    return 0


def _latest(home: Home, model: str | None) -> tuple[str, list[Event], str] | None:
    with suppress(FileNotFoundError):
        next(home.activations.iterdir(), None)  # a pattern matches nothing in a folder that can't be read
    for activation in reversed(activations(home)):
        events = read_activation(home, activation)
        first = events[0].fact if events else None
        if isinstance(first, BackendActivationRequested) and model in {None, first.model}:
            return activation, events, first.model
    return None


def _notes(home: Home, activation: str) -> list[str]:
    """The output of tools, which the journal keeps between the facts."""
    notes = []
    for line in read_file(home.activations / f"{activation}.jsonl").decode(errors="replace").splitlines():
        try:
            data: Any = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the last line of a station that was killed
        if isinstance(data, dict) and "text" in data and "event" not in data:
            notes.append(str(data["text"]))
    return notes


def _last_lines(home: Home, model: str) -> list[str]:
    try:
        text = read_file(home.worker_log(model)).decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-_WORKER_LINES:]


def _text(activation: str, events: list[Event], notes: list[str], worker: list[str]) -> str:
    plain = PlainLines()
    lines = [f"Activation {activation}"]
    for event in events:
        lines += [f"{event.at:%H:%M:%S}  {line}" for line in plain.lines(event)]
    for note in notes:
        lines += ["", "Output of the tool:", *(f"  {line}" for line in note.splitlines())]
    lines += ["", "The worker's last lines:" if worker else "The worker wrote nothing.", *worker]
    return "\n".join(lines)
