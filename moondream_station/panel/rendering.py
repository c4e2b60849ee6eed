"""The panel's pictures: a pure function from the station's state to lines."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from rich.text import Text

from moondream_station.core.facts.activation_state import ActivationState, Active, WorkerState
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.events import ActivationCancelled, ActivationFailed, Terminal
from moondream_station.core.facts.state import StationState
from moondream_station.panel.details import detail_lines
from moondream_station.panel.frame import ASCII, UNICODE, Frame
from moondream_station.panel.outcome import outcome_lines, title_of, title_style
from moondream_station.panel.quantities import clock_text
from moondream_station.panel.stages import stage_line, stage_lines

_LABEL_WIDTH = 9
_LEAST_WIDTH = 20


def render(
    state: StationState,
    *,
    width: int,
    unicode: bool,
    now: datetime,
    height: int | None = None,
    cancelling: bool = False,
) -> list[Text]:
    """The running activation, else the one that ended last, else nothing.

    While one runs, pictures of one size have one height.

    Args:
        state: What there is to show.
        width: Columns a line may take.
        unicode: Whether the terminal shows more than ASCII.
        now: The moment shown, aware.
        height: Lines there are; where they do not suffice, only the present stage is shown. None: enough.
        cancelling: Whether the end of the activation was asked for.

    Returns:
        Lines, each at most `width` columns wide.
    """
    frame = _frame(width, unicode=unicode, now=now)
    if state.activation is not None:
        parts = _Parts(frame, state.activation, state.capabilities, cancelling=cancelling)
        return parts.whole() if height is None or height >= len(parts.whole()) else parts.short(height)
    if state.last is not None:
        moment = _frame(width, unicode=unicode, now=state.last.finished_at)
        parts = _Parts(moment, state.last.activation, state.capabilities, outcome=state.last.outcome)
        return parts.whole() if height is None or height >= len(parts.whole()) else parts.short(height)
    return []


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
    degraded = ", degraded" if active.degraded else ""
    words = f"{active.model} on {on}{degraded}, worker {active.worker}"
    return Text(frame.cut(words, frame.width), _WORKER_STYLES[active.worker])


class _Parts:
    """One activation's picture, whole or short."""

    def __init__(
        self,
        frame: Frame,
        activation: ActivationState,
        machine: Capabilities | None,
        *,
        outcome: Terminal | None = None,
        cancelling: bool = False,
    ) -> None:
        self._frame = frame
        # Of what has ended, nothing remains to be done at any speed.
        self._activation = (
            activation if outcome is None else replace(activation, bytes_per_second=None, eta_seconds=None)
        )
        self._machine = machine
        self._outcome = outcome
        self._cancelling = cancelling

    def whole(self) -> list[Text]:
        """Title, every stage, and what there is to say."""
        stages = stage_lines(
            self._frame,
            self._activation,
            machine=self._machine,
            outcome=self._outcome,
            cancelling=self._cancelling,
        )
        return [self._title(), *stages, Text(""), *self._words()]

    def short(self, height: int) -> list[Text]:
        """Title, the stage it is in, and as much of the rest as there is room for."""
        reached = self._activation.stage
        if isinstance(self._outcome, ActivationFailed | ActivationCancelled):
            reached = self._outcome.stage
        stage = stage_line(
            self._frame,
            reached,
            self._activation,
            machine=self._machine,
            outcome=self._outcome,
            cancelling=self._cancelling,
        )
        return [self._title(), stage, *self._words()][: max(0, height)]

    def _title(self) -> Text:
        elapsed = clock_text((self._frame.now - self._activation.started_at).total_seconds())
        title = title_of(self._frame, self._activation, self._outcome, cancelling=self._cancelling)
        return self._frame.spread(title, elapsed, style=title_style(self._outcome))

    def _words(self) -> list[Text]:
        if self._outcome is None:
            return detail_lines(self._frame, self._activation)
        return outcome_lines(self._frame, self._activation, self._outcome)


def _frame(width: int, *, unicode: bool, now: datetime) -> Frame:
    return Frame(width=max(_LEAST_WIDTH, width), glyphs=UNICODE if unicode else ASCII, now=now)


def _active_lines(frame: Frame, state: StationState) -> list[Text]:
    active = state.active
    if active is None:
        return _labelled(frame, "Model", "none is active; `moondream-station switch MODEL` activates one")
    lines = _labelled(frame, "Model", _active_words(active), _WORKER_STYLES[active.worker])
    report = state.verification
    if report is not None and report.torch is not None:
        words = f"torch {report.torch} computes on {report.device_name or report.device}"
        lines += _labelled(frame, "Verified", words)
    if (degraded := active.degraded) is not None:
        words = f"Degraded: it should have been {degraded.wanted}. {degraded.reason}"
        lines += frame.paragraph(words, mark=frame.glyphs.warned, style="yellow")
    return lines


_WORKER_STYLES = {
    WorkerState.STOPPED: "",
    WorkerState.LOADING: "cyan",
    WorkerState.READY: "green",
    WorkerState.FAILED: "red",
}


def _active_words(active: Active) -> str:
    build = f"{active.build} build, torch {active.torch}" if active.build else "no torch"
    return f"{active.model}, worker {active.worker}, {build}"


def _labelled(frame: Frame, label: str, words: str, style: str = "") -> list[Text]:
    return [
        Text.assemble((f"{label if row == 0 else '':<{_LABEL_WIDTH}}", "bold"), (line, style))
        for row, line in enumerate(frame.wrap(words, frame.width - _LABEL_WIDTH))
    ]
