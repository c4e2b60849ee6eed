"""Below the stages: the probes as they answer, why this build, which files arrive, who is waited for.

While an activation runs this part always has as many lines, so that nothing below or above it moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.text import Text

from moondream_station.core.facts.activation_state import ActivationState
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.facts.events import ActivationWaiting, DownloadProgressed, ProbeFinished, Stage
from moondream_station.panel.frame import Frame
from moondream_station.panel.quantities import count_text, duration_text, size_text
from moondream_station.panel.stages import download_words

_WHY_LINES, _WHY_LINES_NARROW = 2, 3
_WORK_LINES: Final = 4
_ORDER: Final = (Outcome.TIMED_OUT, Outcome.FAILED, Outcome.FOUND)


def detail_lines(frame: Frame, activation: ActivationState) -> list[Text]:
    """What there is to say of the present stage; always as many lines at one width."""
    why_rows = _WHY_LINES_NARROW if frame.is_narrow else _WHY_LINES
    rows = why_rows + _WORK_LINES
    if activation.waiting is not None:
        lines = _waiting_lines(frame, activation.waiting)
    elif activation.stage is Stage.DETECT:
        lines = _probe_lines(frame, activation.probes, rows)
    else:
        lines = [*why_lines(frame, activation, rows=why_rows), *_work_lines(frame, activation)]
    return [*lines[:rows], *(Text("") for _ in range(rows - len(lines)))]


def why_lines(frame: Frame, activation: ActivationState, *, rows: int | None = None) -> list[Text]:
    """Why this build, and what it stands in for where another one did not work.

    Args:
        frame: The picture's measures.
        activation: How far it has come.
        rows: How many lines may be taken, None for as many as it takes.
    """
    sentences = []
    fallback = activation.fallback
    if fallback is not None and fallback.to_build != fallback.from_build:
        sentences.append(f"{fallback.to_build} instead of {fallback.from_build}: {fallback.reason}")
    if activation.selection is not None:
        sentences.append(activation.selection.reason)
    style = "yellow" if fallback is not None else ""
    return frame.paragraph(" ".join(sentences), style=style, rows=rows)


def _waiting_lines(frame: Frame, waiting: ActivationWaiting) -> list[Text]:
    who = "Another process"
    if waiting.holder_pid is not None:
        what = f" ({waiting.holder_command})" if waiting.holder_command else ""
        who = f"The process {waiting.holder_pid}{what}"
    # As events write it: 2026-11-22T10:00:00.123456Z
    since = f" since {waiting.since.replace('T', ' ').partition('.')[0]} UTC" if waiting.since else ""
    words = f"{who} changes this home{since}; this one goes on when it is done."
    return frame.paragraph(words, style="yellow")


def _probe_lines(frame: Frame, probes: Iterable[ProbeFinished], rows: int) -> list[Text]:
    """What did not answer, then what was found, a line each; what is not there shares the last line."""
    telling = [probe for outcome in _ORDER for probe in probes if probe.outcome is outcome]
    absent = [probe.probe for probe in probes if probe.outcome is Outcome.ABSENT]
    last = [Text(frame.cut(f"{frame.glyphs.skipped} not here: {', '.join(absent)}", frame.width), "dim")]
    last = last if absent else []
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
    arriving = [file for file in activation.files if file.received_bytes > 0 and not _is_here(file)]
    here = [file for file in activation.files if _is_here(file)]
    lines = []
    if frame.is_narrow and (words := download_words(frame, activation)):
        lines.append(Text(frame.cut(f"  {words}", frame.width)))
    room = _WORK_LINES - len(lines) - bool(activation.files)
    lines += [_file_line(frame, file) for file in arriving[:room]]
    if activation.files:
        lines.append(_summary(frame, activation, here=len(here)))
    return lines


def _file_line(frame: Frame, file: DownloadProgressed) -> Text:
    if frame.is_narrow and file.total_bytes:
        amount = f"{file.received_bytes * 100 // file.total_bytes}% of {size_text(file.total_bytes)}"
    else:
        amount = count_text(file.received_bytes, file.total_bytes, "bytes")
    if file.resumed_from and not frame.is_narrow:
        amount = f"{amount}, went on from {size_text(file.resumed_from)}"
    return frame.spread(_short_name(file.file), amount, style="cyan", mark=" ")


def _summary(frame: Frame, activation: ActivationState, *, here: int) -> Text:
    total = max(activation.packages or 0, len(activation.files))
    words = [f"{here} of {total} here" if frame.is_narrow else f"{count_text(here, total, 'files')} here"]
    kept = sum(_is_kept(file) for file in activation.files)
    if kept:
        words.append(f"{kept} from before")
    resumed = sum(file.resumed_from > 0 and not _is_kept(file) for file in activation.files)
    if resumed:
        words.append(f"{resumed} resumed")
    return Text(frame.cut(f"  {', '.join(words)}", frame.width), "dim")


def _is_here(file: DownloadProgressed) -> bool:
    return file.total_bytes is not None and file.received_bytes >= file.total_bytes


def _is_kept(file: DownloadProgressed) -> bool:
    """Whether it was here whole before this activation."""
    return file.total_bytes is not None and file.resumed_from >= file.total_bytes


def _short_name(file: str) -> str:
    """A wheel's project and version, which say enough; other files by their whole name."""
    parts = file.removesuffix(".whl").split("-")
    return f"{parts[0]} {parts[1]}" if file.endswith(".whl") and len(parts) > 1 else file
