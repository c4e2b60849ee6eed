"""`logs`: an activation's journal and the worker's last lines, and what comes after them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

from moondream_station.console.interrupts import DONE, cancel_on_signal, ignore_signals, run_loop
from moondream_station.console.logging import begin
from moondream_station.console.output import folded, print_json, print_result, print_text, terminal_width
from moondream_station.core.bus.journal import activations, read_activation
from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.errors import ManifestInvalid, NoActiveModel
from moondream_station.core.facts.events import BackendActivationRequested, Event
from moondream_station.core.home.layout import Home, home_from, home_unusable, in_the_way
from moondream_station.core.home.storage import open_file, read_file
from moondream_station.panel.words import PlainLines

_WORKER_LINES = 50
_POLL_SECONDS = 0.25


class _Course(NamedTuple):
    """An activation on record: its id, its facts, its model."""

    activation: str
    events: list[Event]
    model: str


def run_logs(model: str | None, *, follow: bool, as_json: bool) -> int:
    """Print the last activation's journal and the worker's last lines; returns the exit code.

    Without a model it is the one of the last activation. `follow` goes on until a signal comes.
    """
    home = home_from(os.environ)
    with _readable(home):
        latest = _latest(home, model)
    if model is not None and latest is None:
        run_loop(check_known, home, model)
    if follow:
        return run_loop(_follow, home, model, as_json)
    if latest is None:
        raise NoActiveModel(
            f"No activation of {model} is on record." if model else "No activation is on record.",
            hint=f"`moondream-station switch {model or 'MODEL'}` activates {'it' if model else 'a model'}.",
        )
    with _readable(home):
        notes = _notes(home, latest.activation)
        worker = _last_lines(home, latest.model)
    shown = {
        "activation": latest.activation,
        "model": latest.model,
        "events": [event_to_json(event) for event in latest.events],
        "notes": notes,
        "worker": worker,
    }
    print_text(_text(latest, notes, worker), shown, as_json=as_json)
    return DONE


async def check_known(home: Home, model: str) -> None:
    """`UnknownModel` where the manifest has no such model; one that can't be read refuses none."""
    from moondream_station.core.backends.manifest_loader import open_manifest  # noqa: PLC0415  for typing errors

    _, settings = begin()
    with suppress(ManifestInvalid):
        (await open_manifest(home, settings, os.environ)).model(model)


@contextmanager
def _readable(home: Home) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{error.filename or home.root} can't be read: {error.strerror or error}."
        raise in_the_way(error) or home_unusable(message, home.root) from error


def _latest(home: Home, model: str | None) -> _Course | None:
    with suppress(FileNotFoundError):
        next(home.activations.iterdir(), None)  # a pattern matches nothing in a folder that can't be read
    for activation in reversed(activations(home)):
        events = read_activation(home, activation)
        first = events[0].fact if events else None
        if isinstance(first, BackendActivationRequested) and model in {None, first.model}:
            return _Course(activation, events, first.model)
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


def _text(course: _Course, notes: list[str], worker: list[str]) -> str:
    plain = PlainLines()
    lines = [f"Activation {course.activation}"]
    for event in course.events:
        lines += _fact_lines(plain, event)
    for note in notes:
        lines += ["", "Output of the tool:", *(f"  {line}" for line in note.splitlines())]
    lines += ["", "The worker's last lines:" if worker else "The worker wrote nothing.", *worker]
    return "\n".join(lines)


def _fact_lines(plain: PlainLines, event: Event) -> list[str]:
    return [folded(f"{event.at:%H:%M:%S}  {line}", terminal_width()) for line in plain.lines(event)]


async def _follow(home: Home, model: str | None, as_json: bool) -> int:  # noqa: FBT001  called through `run_loop`
    """Print the latest activation and its worker's last lines, then what is new, until a signal comes.

    With `as_json` a fact is a line as `switch --json` prints it, one of the worker's `{"worker": LINE}`.
    """
    news = _News(home, model, as_json=as_json)
    with anyio.CancelScope() as scope, cancel_on_signal(lambda _: scope.cancel()):
        while True:
            await anyio.to_thread.run_sync(news.print)
            await anyio.sleep(_POLL_SECONDS)
    ignore_signals()
    return DONE


class _News:
    """What the journals and the worker's log got since the last look."""

    def __init__(self, home: Home, model: str | None, *, as_json: bool) -> None:
        self._home = home
        self._model = model
        self._as_json = as_json
        self._stamps: object = None
        self._activation = ""
        self._last_seq = 0
        self._plain = PlainLines()
        self._log: Path | None = None
        self._log_inode = self._log_offset = 0

    def print(self) -> None:
        """Print it. Blocks."""
        with _readable(self._home):
            stamps = [(path, path.stat().st_size) for path in self._home.activations.glob("*.jsonl")]
            if stamps != self._stamps and (course := _latest(self._home, self._model)) is not None:
                self._print_facts(course)
            self._stamps = stamps
            for line in self._worker_lines():
                if self._as_json:
                    print_json({"worker": line})
                else:
                    print_result(line)

    def _print_facts(self, course: _Course) -> None:
        if course.activation != self._activation:
            self._activation, self._last_seq, self._plain = course.activation, 0, PlainLines()
            if not self._as_json:
                print_result(f"Activation {course.activation}")
        if (log := self._home.worker_log(course.model)) != self._log:
            self._log, self._log_inode = log, 0
        for event in course.events:
            if event.seq <= self._last_seq:
                continue
            self._last_seq = event.seq
            if self._as_json:
                print_json(event_to_json(event))
            for line in () if self._as_json else _fact_lines(self._plain, event):
                print_result(line)

    def _worker_lines(self) -> Sequence[str]:
        """Its new whole lines, at first the last ones; from the start of a file that has taken its place."""
        try:
            if self._log is None:
                return ()
            with open_file(self._log) as file:
                seen = os.fstat(file.fileno())
                is_first = not self._log_inode
                if seen.st_ino != self._log_inode or seen.st_size < self._log_offset:
                    self._log_inode, self._log_offset = seen.st_ino, 0
                file.seek(self._log_offset)
                whole, end, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return ()
        self._log_offset += len(whole) + len(end)
        lines = whole.decode(errors="replace").splitlines()
        return lines[-_WORKER_LINES:] if is_first else lines
