"""Below the stages: the probes as they answer, why this build, which files arrive; in the end the result.

While an activation runs, this part always has the same number of lines, so that nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

from rich.text import Text

from moondream_station.core.facts.activation_state import ActivationState
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    ActivationWaiting,
    CancelReason,
    Degraded,
    DownloadProgressed,
    ProbeFinished,
    Stage,
    Terminal,
)
from moondream_station.core.facts.selection import FitVerdict
from moondream_station.panel.frame import Frame
from moondream_station.panel.quantities import count_text, duration_text, size_text
from moondream_station.panel.stages import Shown, download_words

_WHY_LINES, _WHY_LINES_NARROW = 2, 3
_WORK_LINES: Final = 4
_CANCELLED_BY: Final = {
    CancelReason.USER: "as requested",
    CancelReason.SUPERSEDED: "because another switch replaced it",
    CancelReason.SHUTDOWN: "because the station is stopping",
}
_ORDER: Final = (Outcome.TIMED_OUT, Outcome.FAILED, Outcome.FOUND)


def detail_lines(shown: Shown) -> list[Text]:
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


def degraded_lines(frame: Frame, degraded: Degraded | None) -> list[Text]:
    """What a model should run on instead, and why it does not; none where it is as planned."""
    if degraded is None:
        return []
    words = f"Degraded: not on {degraded.wanted} as planned. {degraded.reason}"
    return frame.paragraph(words, mark=frame.glyphs.warned, style="yellow")


def _outcome_lines(frame: Frame, activation: ActivationState, outcome: Terminal) -> list[Text]:
    match outcome:
        case ActivationSucceeded(model=model, build=build, degraded=degraded):
            torch = activation.selection.torch if activation.selection else None
            on = f" on the {build} build" if build else ""
            words = f"{model} is active{on}{f', torch {torch}' if torch else ''}."
            why = [] if degraded else _why_lines(frame, activation)
            lines = frame.paragraph(words, mark=frame.glyphs.done, style="green")
            return [*why, *lines, *degraded_lines(frame, degraded)]
        case ActivationFailed(error=error):
            message = f"{error.message} [{error.code}]"
            lines = frame.paragraph(message, mark=frame.glyphs.failed, style="red")
            return [*lines, *(frame.paragraph(f"hint: {error.hint}") if error.hint else ())]
        case ActivationCancelled(stage=stage, reason=reason):
            words = f"Cancelled at {stage}, {_CANCELLED_BY[reason]}. What was downloaded is kept."
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


def _waiting_lines(frame: Frame, waiting: ActivationWaiting) -> list[Text]:
    who = "Another process"
    if waiting.holder_pid is not None:
        what = f" ({waiting.holder_command})" if waiting.holder_command else ""
        who = f"The process {waiting.holder_pid}{what}"
    # As events write it: 2026-11-22T10:00:00.123456Z
    since = f" since {waiting.since.replace('T', ' ').partition('.')[0]} UTC" if waiting.since else ""
    words = f"{who} changes this home{since}; this one continues when it is done."
    return frame.paragraph(words, style="yellow")


def _probe_lines(frame: Frame, probes: Iterable[ProbeFinished], rows: int) -> list[Text]:
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


def _probe_line(frame: Frame, probe: ProbeFinished) -> Text:
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


def _file_line(frame: Frame, file: DownloadProgressed) -> Text:
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


def _is_whole(file: DownloadProgressed) -> bool:
    return file.total_bytes is not None and file.received_bytes >= file.total_bytes


def _is_kept(file: DownloadProgressed) -> bool:
    """Whether it was downloaded before this activation."""
    return file.total_bytes is not None and file.resumed_from >= max(1, file.total_bytes)


def _short_name(file: str) -> str:
    """A wheel's project and version, which say enough; other files by their whole name."""
    parts = file.removesuffix(".whl").split("-")
    return f"{parts[0]} {parts[1]}" if file.endswith(".whl") and len(parts) > 1 else file
