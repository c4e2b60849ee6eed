"""The panel's pictures: a pure function from the station's state to lines.

Title, stages, and below them details: the probes as they answer, why this build, which files arrive; in the
end the result. While an activation runs they always have the same number of lines, so that nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, assert_never

from rich.text import Text

from moondream_station.core.facts import events
from moondream_station.core.facts.activation_state import ActivationState, WorkerState
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.facts.events import Stage
from moondream_station.core.facts.selection import FitVerdict
from moondream_station.core.facts.state import StationState, status
from moondream_station.panel.frame import Frame
from moondream_station.panel.stages import STAGES, Shown, download_words, stage_line
from moondream_station.panel.words import (
    active_text,
    cancelled_text,
    clock_text,
    count_text,
    degraded_text,
    duration_text,
    size_text,
    status_rows,
)

_WHY_LINES, _WHY_LINES_NARROW = 2, 3
_WORK_LINES: Final = 4
_ORDER: Final = (Outcome.TIMED_OUT, Outcome.FAILED, Outcome.FOUND)
_WORKER_STYLES = {
    WorkerState.STOPPED: "",
    WorkerState.LOADING: "cyan",
    WorkerState.READY: "green",
    WorkerState.FAILED: "red",
}


def render(
    state: StationState, frame: Frame, *, height: int | None = None, cancelling: bool = False
) -> list[Text]:
    """The running activation, else the one that ended last, else nothing.

    While one runs, pictures of one width have one height. Where `height` lines do not suffice, only the
    present stage is shown; None is enough of them.
    """
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
    details = _detail_lines(shown)
    whole = [_title(shown), *stages, Text(""), *details]
    if height is None or height >= len(whole):
        return whole
    return [whole[0], stages[STAGES.index(shown.reached)], *details][: max(0, height)]


def render_station(
    state: StationState, frame: Frame, *, figures: Sequence[tuple[str, str]] = (), height: int | None = None
) -> list[Text]:
    """What `status` prints, with a station's figures, and below it what `render` shows."""
    styles = {"Active": _WORKER_STYLES[state.active.worker] if state.active else "", "Degraded": "yellow"}
    lines = [
        line
        for label, words in (*status_rows(status(state)), *figures)
        for line in frame.labelled(label, words, styles.get(label, ""))
    ]
    room = None if height is None else max(0, height - len(lines) - 1)
    activation = render(state, frame, height=room)
    return [*lines, Text(""), *activation] if activation else lines


def render_summary(state: StationState, frame: Frame) -> Text:
    """The active model and its worker in one line, styled by what the worker does."""
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
        case events.ActivationSucceeded(degraded=None):
            title, style = f"Switched to {model}", "bold green"
        case events.ActivationSucceeded():
            title, style = f"Switched to {model}, degraded", "bold yellow"
        case events.ActivationFailed():
            title, style = f"Could not switch to {model}", "bold red"
        case events.ActivationCancelled():
            title, style = f"Cancelled the switch to {model}", "bold yellow"
        case _:
            assert_never(shown.outcome)
    elapsed = clock_text((frame.now - shown.activation.started_at).total_seconds())
    return frame.spread(title, elapsed, style=style)


def _detail_lines(shown: Shown) -> list[Text]:
    """The present stage's details, in the same number of lines at one width; or the result, in full."""
    frame, activation = shown.frame, shown.activation
    if shown.outcome is not None:
        return _outcome_lines(frame, activation, shown.outcome)
    why_rows = _WHY_LINES_NARROW if frame.is_narrow else _WHY_LINES
    rows = why_rows + _WORK_LINES
    if activation.waiting is not None:
        lines = _waiting_lines(frame, activation.waiting)
    elif activation.stage is Stage.DETECT:
        lines = _probe_lines(frame, activation.probes, rows)
    else:
        lines = [*_why_lines(frame, activation, rows=why_rows), *_work_lines(frame, activation)]
    return [*lines[:rows], *(Text("") for _ in range(rows - len(lines)))]


def _outcome_lines(frame: Frame, activation: ActivationState, outcome: events.Terminal) -> list[Text]:
    match outcome:
        case events.ActivationSucceeded(model=model, build=build, degraded=degraded):
            torch = activation.selection.torch if activation.selection else None
            words = f"{active_text(model, build)}{f', torch {torch}' if torch else ''}."
            lines = frame.paragraph(words, mark=frame.glyphs.done, style="green")
            if degraded is None:
                return [*_why_lines(frame, activation), *lines]
            words = f"Degraded: {degraded_text(degraded.wanted, degraded.reason)}"
            return [*lines, *frame.paragraph(words, mark=frame.glyphs.warned, style="yellow")]
        case events.ActivationFailed(error=error):
            message = f"{error.message} [{error.code}]"
            lines = frame.paragraph(message, mark=frame.glyphs.failed, style="red")
            return [*lines, *(frame.paragraph(f"hint: {error.hint}") if error.hint else ())]
        case events.ActivationCancelled():
            progress = activation.progress
            has_weights = progress is not None and progress.unit == "bytes" and progress.done > 0
            has_downloaded = has_weights or bool(activation.overall_received_bytes)
            words = cancelled_text(outcome, has_downloaded=has_downloaded)
            return frame.paragraph(words, mark=frame.glyphs.stopped, style="yellow")
        case _:
            assert_never(outcome)


def _why_lines(frame: Frame, activation: ActivationState, *, rows: int | None = None) -> list[Text]:
    """Why this build, what it replaces where another one did not work, and whether the model fits there."""
    sentences = []
    fit = activation.selection.fit if activation.selection else None
    if fit is not None and fit.verdict in {FitVerdict.TIGHT, FitVerdict.DOES_NOT_FIT}:
        sentences.append(fit.sentence)
    fallback = activation.fallback
    if fallback is not None and fallback.to_build != fallback.from_build:
        sentences.append(f"{fallback.to_build} instead of {fallback.from_build}: {fallback.reason}")
    if activation.selection is not None:
        sentences.append(activation.selection.reason)
    if fit is not None and fit.verdict is FitVerdict.FITS:
        sentences.append(fit.sentence)
    style = "yellow" if fallback is not None else ""
    return frame.paragraph(" ".join(sentences), style=style, rows=rows)


def _waiting_lines(frame: Frame, waiting: events.ActivationWaiting) -> list[Text]:
    who = "Another process"
    if waiting.holder_pid is not None:
        what = f" ({waiting.holder_command})" if waiting.holder_command else ""
        who = f"The process {waiting.holder_pid}{what}"
    # As events write it: 2026-11-22T10:00:00.123456Z
    since = f" since {waiting.since.replace('T', ' ').partition('.')[0]} UTC" if waiting.since else ""
    words = f"{who} changes this home{since}; this one continues when it is done."
    return frame.paragraph(words, style="yellow")


def _probe_lines(frame: Frame, probes: Iterable[events.ProbeFinished], rows: int) -> list[Text]:
    """What did not answer, then what was found, a line each; what was not found shares the last line."""
    telling = [probe for outcome in _ORDER for probe in probes if probe.outcome is outcome]
    absent = [probe.probe for probe in probes if probe.outcome is Outcome.ABSENT]
    words = f"{frame.glyphs.skipped} not found: {', '.join(absent)}"
    last = [Text(frame.cut(words, frame.width), "dim")] if absent else []
    shown = [_probe_line(frame, probe) for probe in telling]
    room = rows - len(last)
    if len(shown) > room:
        shown = [*shown[: room - 1], Text(f"  and {len(shown) - room + 1} more", "dim")]
    return [*shown, *last]


def _probe_line(frame: Frame, probe: events.ProbeFinished) -> Text:
    is_found = probe.outcome is Outcome.FOUND
    name = probe.probe if is_found else f"{probe.probe} {str(probe.outcome).replace('_', ' ')}"
    return frame.spread(
        f"{name}: {probe.detail}",
        "" if frame.is_narrow else duration_text(probe.seconds),
        mark=frame.glyphs.done if is_found else frame.glyphs.warned,
        mark_style="green" if is_found else "yellow",
    )


def _work_lines(frame: Frame, activation: ActivationState) -> list[Text]:
    if activation.stage not in (Stage.LOCK, Stage.DOWNLOAD):
        return []
    arriving = [file for file in activation.files if file.received_bytes > 0 and not _is_whole(file)]
    lines = []
    if frame.is_narrow and (words := download_words(frame, activation)):
        lines.append(Text(frame.cut(f"  {words}", frame.width)))
    room = _WORK_LINES - len(lines) - bool(activation.files)
    lines += [_file_line(frame, file) for file in arriving[:room]]
    if activation.files:
        lines.append(_summary(frame, activation))
    return lines


def _file_line(frame: Frame, file: events.DownloadProgressed) -> Text:
    if frame.is_narrow and file.total_bytes:
        amount = f"{file.received_bytes * 100 // file.total_bytes}% of {size_text(file.total_bytes)}"
    else:
        amount = count_text(file.received_bytes, file.total_bytes, "bytes")
    if file.resumed_from and not frame.is_narrow:
        amount = f"{amount}, resumed from {size_text(file.resumed_from)}"
    return frame.spread(_short_name(file.file), amount, style="cyan", mark=" ")


def _summary(frame: Frame, activation: ActivationState) -> Text:
    whole = sum(map(_is_whole, activation.files))
    total = max(activation.packages or 0, len(activation.files))
    kept = sum(map(_is_kept, activation.files))
    resumed = sum(file.resumed_from > 0 for file in activation.files) - kept
    words = (
        f"{whole} of {total} done" if frame.is_narrow else f"{count_text(whole, total, 'files')} downloaded",
        f"{kept} from before" if kept else "",
        f"{resumed} resumed" if resumed else "",
    )
    return Text(frame.cut(f"  {', '.join(filter(None, words))}", frame.width), "dim")


def _is_whole(file: events.DownloadProgressed) -> bool:
    return file.total_bytes is not None and file.received_bytes >= file.total_bytes


def _is_kept(file: events.DownloadProgressed) -> bool:
    """Whether it was downloaded before this activation."""
    return file.total_bytes is not None and file.resumed_from >= max(1, file.total_bytes)


def _short_name(file: str) -> str:
    """A wheel's project and version, which say enough; other files by their whole name."""
    parts = file.removesuffix(".whl").split("-")
    return f"{parts[0]} {parts[1]}" if file.endswith(".whl") and len(parts) > 1 else file
