"""The panel's pictures: a pure function from the station's state to lines."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import assert_never

from rich.text import Text

from moondream_station.core.facts.activation_state import WorkerState
from moondream_station.core.facts.events import ActivationCancelled, ActivationFailed, ActivationSucceeded
from moondream_station.core.facts.state import StationState
from moondream_station.panel.details import degraded_lines, detail_lines
from moondream_station.panel.frame import ASCII, UNICODE, Frame
from moondream_station.panel.quantities import clock_text
from moondream_station.panel.stages import STAGES, Shown, stage_line

_LABEL_WIDTH = 9
_LEAST_WIDTH = 20
_WORKER_STYLES = {
    WorkerState.STOPPED: "",
    WorkerState.LOADING: "cyan",
    WorkerState.READY: "green",
    WorkerState.FAILED: "red",
}


def render(
    state: StationState,
    *,
    width: int,
    unicode: bool,
    now: datetime,
    height: int | None = None,
    cancelling: bool = False,
) -> list[Text]:
    """The running activation at an aware moment, else the one that ended last, else nothing.

    No line is wider than `width` columns. While one runs, pictures of one size have one height. Where
    `height` lines do not suffice, only the present stage is shown; None is enough of them.
    """
    frame = _frame(width, unicode=unicode, now=now)
    if state.activation is not None:
        shown = Shown(frame, state.activation, state.capabilities, is_cancelling=cancelling)
    elif state.last is not None:
        frame = replace(frame, now=state.last.finished_at)
        # Of what has ended, nothing remains to be done at any speed.
        ended = replace(state.last.activation, bytes_per_second=None, eta_seconds=None)
        shown = Shown(frame, ended, state.capabilities, state.last.outcome)
    else:
        return []
    stages = [stage_line(shown, stage) for stage in STAGES]
    words = detail_lines(shown)
    whole = [_title(shown), *stages, Text(""), *words]
    if height is None or height >= len(whole):
        return whole
    return [whole[0], stages[STAGES.index(shown.reached)], *words][: max(0, height)]


def render_station(
    state: StationState, *, width: int, unicode: bool, now: datetime, height: int | None = None
) -> list[Text]:
    """The station and its active model, and below them what `render` shows; arguments as there."""
    frame = _frame(width, unicode=unicode, now=now)
    station = state.station
    serving = f"serving on {station.address} (pid {station.pid})" if station else "not serving"
    lines = [*_labelled(frame, "Station", serving), *_active_lines(frame, state)]
    room = None if height is None else max(0, height - len(lines) - 1)
    activation = render(state, width=width, unicode=unicode, now=now, height=room)
    return [*lines, Text(""), *activation] if activation else lines


def render_summary(state: StationState, *, width: int, unicode: bool) -> Text:
    """The active model and its worker in one line, styled by what the worker does."""
    frame = _frame(width, unicode=unicode, now=datetime.now(UTC))
    active = state.active
    if active is None:
        return Text(frame.cut("no model", frame.width))
    on = active.build or "no torch"
    words = f"{active.model} on {on}{', degraded' if active.degraded else ''}, worker {active.worker}"
    return Text(frame.cut(words, frame.width), _WORKER_STYLES[active.worker])


def _title(shown: Shown) -> Text:
    frame, model = shown.frame, shown.activation.model
    match shown.outcome:
        case None:
            verb = "Cancelling the switch" if shown.is_cancelling else "Switching"
            strategy = shown.activation.strategy
            how = strategy if frame.is_narrow else f"strategy {strategy}"
            title, style = f"{verb} to {model} ({how})", "bold"
        case ActivationSucceeded(degraded=None):
            title, style = f"Switched to {model}", "bold green"
        case ActivationSucceeded():
            title, style = f"Switched to {model}, degraded", "bold yellow"
        case ActivationFailed():
            title, style = f"Could not switch to {model}", "bold red"
        case ActivationCancelled():
            title, style = f"Cancelled the switch to {model}", "bold yellow"
        case _:
            assert_never(shown.outcome)
    elapsed = clock_text((frame.now - shown.activation.started_at).total_seconds())
    return frame.spread(title, elapsed, style=style)


def _frame(width: int, *, unicode: bool, now: datetime) -> Frame:
    return Frame(width=max(_LEAST_WIDTH, width), glyphs=UNICODE if unicode else ASCII, now=now)


def _active_lines(frame: Frame, state: StationState) -> list[Text]:
    active = state.active
    if active is None:
        return _labelled(frame, "Model", "none is active; `moondream-station switch MODEL` activates one")
    build = f"{active.build} build, torch {active.torch}" if active.build else "no torch"
    words = f"{active.model}, worker {active.worker}, {build}"
    lines = _labelled(frame, "Model", words, _WORKER_STYLES[active.worker])
    report = state.verification
    if report is not None and report.torch is not None:
        words = f"torch {report.torch} computes on {report.device_name or report.device}"
        lines += _labelled(frame, "Verified", words)
    return [*lines, *degraded_lines(frame, active.degraded)]


def _labelled(frame: Frame, label: str, words: str, style: str = "") -> list[Text]:
    return [
        Text.assemble((f"{label if row == 0 else '':<{_LABEL_WIDTH}}", "bold"), (line, style))
        for row, line in enumerate(frame.wrap(words, frame.width - _LABEL_WIDTH))
    ]
