"""The stages of an activation, a line each: a mark, the name, and what there is to say of it."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from moondream_station.core.facts.activation_state import ActivationState
from moondream_station.core.facts.capabilities import Capabilities, Outcome
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    Stage,
    StageProgressed,
    Terminal,
)
from moondream_station.panel.frame import Frame
from moondream_station.panel.quantities import clock_text, count_text, size_text, some_text

STAGES: Final = tuple(Stage)
_NAME_WIDTH = max(len(stage) for stage in STAGES)
_MADE_NEEDLESS: Final = frozenset({Stage.LOCK, Stage.DOWNLOAD, Stage.BUILD})
_BAR_WIDE, _BAR_NARROW = 20, 0
_SLOW_SECONDS: Final = 2
"""From then on a stage shows how long it takes."""


def stage_lines(
    frame: Frame,
    activation: ActivationState,
    *,
    machine: Capabilities | None,
    outcome: Terminal | None,
    cancelling: bool,
) -> list[Text]:
    """Every stage, in order; always as many lines.

    Args:
        frame: The picture's measures.
        activation: How far it has come.
        machine: What was detected.
        outcome: How it ended, None while it runs.
        cancelling: Whether its end was asked for.
    """
    return [
        stage_line(frame, stage, activation, machine=machine, outcome=outcome, cancelling=cancelling)
        for stage in STAGES
    ]


def stage_line(
    frame: Frame,
    stage: Stage,
    activation: ActivationState,
    *,
    machine: Capabilities | None,
    outcome: Terminal | None,
    cancelling: bool,
) -> Text:
    """One stage's line; see `stage_lines`."""
    mark, style = _mark(frame, stage, activation, outcome)
    is_current = stage is activation.stage and outcome is None
    words = "" if style == "dim" else _note(frame, stage, activation, machine)
    if is_current and cancelling:
        words = f"cancelling{frame.glyphs.ellipsis}"
    elif stage in _MADE_NEEDLESS and _is_skipped(stage, activation):
        words = _skipped_note(stage, activation)
    gap = " " if frame.is_narrow else "  "
    head = f"{mark} {stage:<{_NAME_WIDTH}}{gap}"
    clock = _clock(frame, activation) if is_current else ""
    shown = frame.cut(words, frame.width - len(head) - len(clock))
    line = Text.assemble((head, style), (shown, "bold" if is_current else ""))
    if clock:
        line.append(" " * (frame.width - line.cell_len - len(clock)))
        line.append(clock, "dim")
    line.rstrip()
    return line


def _clock(frame: Frame, activation: ActivationState) -> str:
    """How long the present stage takes already, where nothing else tells that it goes on."""
    began = activation.stage_started_at
    if began is None or activation.progress is not None or activation.stage is Stage.DOWNLOAD:
        return ""
    seconds = (frame.now - began).total_seconds()
    return f"  {clock_text(seconds)}" if seconds >= _SLOW_SECONDS else ""


def download_words(frame: Frame, activation: ActivationState) -> str:
    """Speed and remaining time, as far as they are known."""
    rate, left = activation.bytes_per_second, activation.eta_seconds
    words = [f"{size_text(rate)}/s"] if rate else []
    if left is not None:
        words.append(f"{clock_text(left)} left")
    return (", " if frame.is_narrow else "  ").join(words)


def _mark(
    frame: Frame, stage: Stage, activation: ActivationState, outcome: Terminal | None
) -> tuple[str, str]:
    glyphs = frame.glyphs
    reached = (
        outcome.stage if isinstance(outcome, ActivationFailed | ActivationCancelled) else activation.stage
    )
    position, current = STAGES.index(stage), STAGES.index(reached)
    if _is_skipped(stage, activation):
        return glyphs.skipped, "dim"
    if isinstance(outcome, ActivationSucceeded) or position < current:
        return glyphs.done, "green"
    if position > current:
        return glyphs.later, "dim"
    if isinstance(outcome, ActivationFailed):
        return glyphs.failed, "bold red"
    if isinstance(outcome, ActivationCancelled):
        return glyphs.stopped, "yellow"
    return glyphs.now, "bold cyan"


def _is_skipped(stage: Stage, activation: ActivationState) -> bool:
    return stage in _MADE_NEEDLESS and bool(activation.environment_reused)


def _skipped_note(stage: Stage, activation: ActivationState) -> str:
    return f"reused {activation.environment}" if stage is Stage.BUILD else "not needed"


def _note(frame: Frame, stage: Stage, activation: ActivationState, machine: Capabilities | None) -> str:  # noqa: C901, PLR0911  one case a stage, flat
    progress = activation.progress
    if progress is not None and progress.stage is stage is activation.stage:
        return _progress_note(frame, progress)
    match stage:
        case Stage.PREPARE:
            return _waiting_note(activation)
        case Stage.DETECT:
            return _machine_note(activation, machine)
        case Stage.SELECT:
            return _build_note(activation)
        case Stage.LOCK:
            return _lock_note(activation)
        case Stage.DOWNLOAD:
            return _download_note(frame, activation)
        case Stage.BUILD:
            return activation.environment or ""
        case Stage.START:
            return "a worker" if activation.worker_pid is None else f"worker pid {activation.worker_pid}"
        case Stage.VERIFY:
            return _verification_note(activation)
        case Stage.COMMIT:
            return ""


def _waiting_note(activation: ActivationState) -> str:
    waiting = activation.waiting
    if waiting is None:
        return ""
    return "waiting for " + (f"pid {waiting.holder_pid}" if waiting.holder_pid else "another process")


def _machine_note(activation: ActivationState, machine: Capabilities | None) -> str:
    if activation.stage is Stage.DETECT:
        answered = len(activation.probes)
        verb = "has" if answered == 1 else "have"
        return f"{some_text(answered, 'probes')} {verb} answered" if answered else ""
    if machine is None:
        return ""
    names = [gpu.name or gpu.vendor for gpu in machine.gpus]
    counted = [(names.count(name), name) for name in dict.fromkeys(names)]
    gpus = ", ".join(f"{count} x {name}" if count > 1 else name for count, name in counted) or "no GPU found"
    driver = f", driver {machine.nvidia_driver}" if machine.nvidia_driver else ""
    silent = [probe.probe for probe in activation.probes if probe.outcome in _SILENT]
    unanswered = f"; no answer from {', '.join(silent)}" if silent else ""
    return f"{machine.system}, {gpus}{driver}{unanswered}"


_SILENT: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT})


def _build_note(activation: ActivationState) -> str:
    chosen = activation.selection
    if chosen is None:
        return ""
    return f"{chosen.build} build, torch {chosen.torch}" if chosen.build else "no torch needed"


def _lock_note(activation: ActivationState) -> str:
    if activation.packages is None:
        return ""
    size = f", {size_text(activation.total_bytes)}" if activation.total_bytes is not None else ""
    return f"{some_text(activation.packages, 'packages')}{size}"


def _download_note(frame: Frame, activation: ActivationState) -> str:
    received, total = activation.overall_received_bytes, activation.overall_total_bytes
    if received is None:
        return ""
    if activation.stage is not Stage.DOWNLOAD:
        return f"{size_text(received)}{_kept_note(received, activation.overall_transferred_bytes)}"
    amount = count_text(received, total, "bytes")
    more = "" if frame.is_narrow else f"  {download_words(frame, activation)}".rstrip()
    return f"{_share_note(frame, received, total)}{amount}{more}"


def _kept_note(received: int, transferred: int | None) -> str:
    """How much of it was here before."""
    kept = received - (transferred or 0)
    if kept <= 0:
        return ""
    return ", all here before" if kept == received else f", {size_text(kept)} here before"


def _progress_note(frame: Frame, progress: StageProgressed) -> str:
    share = _share_note(frame, progress.done, progress.total)
    return share + count_text(progress.done, progress.total, progress.unit)


def _share_note(frame: Frame, done: int, total: int | None) -> str:
    """A bar, where there is room, and per cent; nothing where the whole is not known."""
    if not total:
        return ""
    width = _BAR_NARROW if frame.is_narrow else _BAR_WIDE
    share = min(1.0, done / total)
    bar = f"{frame.bar(share, width)} " if width else ""
    return f"{bar}{int(share * 100):>3}% "


def _verification_note(activation: ActivationState) -> str:
    verification = activation.verification
    if verification is None:
        has_torch = activation.selection is None or activation.selection.build is not None
        return "what torch computes" if has_torch else "whether the worker answers"
    report = verification.report
    if not verification.ok:
        return "torch is not what was planned"
    if activation.stage is Stage.VERIFY:
        return f"loading {activation.model}"
    if report.torch is None:
        return "the worker answers"
    return f"torch {report.torch} computes on {report.device_name or report.device}"
