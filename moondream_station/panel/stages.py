"""The stages of an activation, a line each: a mark, the name, and what there is to say about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rich.text import Text

from moondream_station.core.facts import events
from moondream_station.core.facts.activation_state import ActivationState
from moondream_station.core.facts.capabilities import Capabilities, Outcome
from moondream_station.core.facts.events import Stage
from moondream_station.panel.frame import Frame
from moondream_station.panel.words import (
    clock_text,
    computes_text,
    count_text,
    machine_text,
    size_text,
    some_text,
)

STAGES: Final = tuple(Stage)
_NAME_WIDTH = max(len(stage) for stage in STAGES)
_REPLACED_BY_REUSE: Final = frozenset({Stage.LOCK, Stage.DOWNLOAD, Stage.BUILD})
_BAR_WIDTH = 20
_SLOW_SECONDS: Final = 2
"""From then on a stage shows how long it takes."""
_STEPS: Final = "steps"
_CHECKS: Final = ("importing torch", "finding the device", "computing on the device")
"""What is done of torch's verification, by how many steps are behind."""
_SILENT: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT})


@dataclass(frozen=True, slots=True)
class Shown:
    """What a picture shows: an activation, the machine it detected, how it ended (None while it runs)."""

    frame: Frame
    activation: ActivationState
    machine: Capabilities | None
    outcome: events.Terminal | None = None
    is_cancelling: bool = False

    @property
    def reached(self) -> Stage:
        """The stage that it is in, or ended in."""
        if isinstance(self.outcome, events.ActivationFailed | events.ActivationCancelled):
            return self.outcome.stage
        return self.activation.stage

    def is_reused(self, stage: Stage) -> bool:
        """Whether a stage was not needed, because an environment was there already."""
        return stage in _REPLACED_BY_REUSE and bool(self.activation.environment_reused)


def stage_line(shown: Shown, stage: Stage) -> Text:
    """One stage's line."""
    frame, activation = shown.frame, shown.activation
    mark, style = _mark(shown, stage)
    is_current = stage is activation.stage and shown.outcome is None
    words = "" if style == "dim" else _note(shown, stage)
    if is_current and shown.is_cancelling:
        words = f"cancelling{frame.glyphs.ellipsis}"
    elif shown.is_reused(stage):
        words = f"reused {activation.environment}" if stage is Stage.BUILD else "not needed"
    head = f"{mark} {stage:<{_NAME_WIDTH}}{' ' if frame.is_narrow else '  '}"
    clock = _clock(frame, activation) if is_current else ""
    note = frame.cut(words, frame.width - len(head) - len(clock))
    line = Text.assemble((head, style), (note, "bold" if is_current else ""))
    if clock:
        line.append(" " * (frame.width - line.cell_len - len(clock)))
        line.append(clock, "dim")
    line.rstrip()
    return line


def _clock(frame: Frame, activation: ActivationState) -> str:
    """How long the present stage takes already, where nothing else shows that it is alive."""
    began = activation.stage_started_at
    is_moving = activation.progress is not None and activation.progress.unit != _STEPS
    if began is None or is_moving or activation.stage is Stage.DOWNLOAD:
        return ""
    seconds = (frame.now - began).total_seconds()
    return f"  {clock_text(seconds)}" if seconds >= _SLOW_SECONDS else ""


def download_words(frame: Frame, activation: ActivationState) -> str:
    """Speed and remaining time, as far as they are known."""
    rate, eta = activation.bytes_per_second, activation.eta_seconds
    words = (f"{size_text(rate)}/s" if rate else "", f"{clock_text(eta)} left" if eta is not None else "")
    return (", " if frame.is_narrow else "  ").join(filter(None, words))


def _mark(shown: Shown, stage: Stage) -> tuple[str, str]:
    glyphs, outcome = shown.frame.glyphs, shown.outcome
    position, current = STAGES.index(stage), STAGES.index(shown.reached)
    if shown.is_reused(stage):
        return glyphs.skipped, "dim"
    if isinstance(outcome, events.ActivationSucceeded) or position < current:
        return glyphs.done, "green"
    if position > current:
        return glyphs.later, "dim"
    if isinstance(outcome, events.ActivationFailed):
        return glyphs.failed, "bold red"
    if isinstance(outcome, events.ActivationCancelled):
        return glyphs.stopped, "yellow"
    return glyphs.now, "bold cyan"


def _note(shown: Shown, stage: Stage) -> str:  # noqa: C901, PLR0911  one case a stage, flat
    activation, progress = shown.activation, shown.activation.progress
    if progress is not None and progress.stage is stage is activation.stage and progress.unit != _STEPS:
        return _progress_note(shown.frame, activation, progress)
    match stage:
        case Stage.PREPARE:
            pid = activation.waiting and activation.waiting.holder_pid
            return f"waiting for {f'pid {pid}' if pid else 'another process'}" if activation.waiting else ""
        case Stage.DETECT:
            return _machine_note(activation, shown.machine)
        case Stage.SELECT:
            chosen = activation.selection
            if chosen is None:
                return ""
            needed = f"{chosen.build} build, torch {chosen.torch}" if chosen.build else "no torch needed"
            return f"{needed}, {chosen.fit.verdict}" if chosen.fit and chosen.fit.is_known else needed
        case Stage.LOCK:
            if activation.packages is None:
                return ""
            size = f", {size_text(activation.total_bytes)}" if activation.total_bytes is not None else ""
            return f"{some_text(activation.packages, 'packages')}{size}"
        case Stage.DOWNLOAD:
            return _download_note(shown.frame, activation)
        case Stage.BUILD:
            return activation.environment or ""
        case Stage.START:
            return f"worker pid {activation.worker_pid}" if activation.worker_pid else "a worker"
        case Stage.VERIFY:
            return _verification_note(activation)
        case Stage.COMMIT:
            return ""


def _progress_note(frame: Frame, activation: ActivationState, progress: events.StageProgressed) -> str:
    """How far the present stage is; of bytes also how fast."""
    amount = count_text(progress.done, progress.total, progress.unit)
    if progress.unit != "bytes":
        return _share_note(frame, progress.done, progress.total) + amount
    speed = "" if frame.is_narrow else f"  {download_words(frame, activation)}".rstrip()
    if progress.stage is Stage.LOCK:  # one whose metadata the index does not give alone
        return f"fetching a wheel: {amount}{speed}"
    return f"{_share_note(frame, progress.done, progress.total)}{amount}{speed}"


def _machine_note(activation: ActivationState, machine: Capabilities | None) -> str:
    if activation.stage is Stage.DETECT:
        answered = len(activation.probes)
        verb = "has" if answered == 1 else "have"
        return f"{some_text(answered, 'probes')} {verb} answered" if answered else ""
    if machine is None:
        return ""
    driver = f", driver {machine.nvidia_driver}" if machine.nvidia_driver else ""
    silent = [probe.probe for probe in activation.probes if probe.outcome in _SILENT]
    unanswered = f"; no answer from {', '.join(silent)}" if silent else ""
    return f"{machine_text(machine)}{driver}{unanswered}"


def _download_note(frame: Frame, activation: ActivationState) -> str:
    received, total = activation.overall_received_bytes, activation.overall_total_bytes
    if received is None:
        return ""
    if activation.stage is Stage.DOWNLOAD:
        more = "" if frame.is_narrow else f"  {download_words(frame, activation)}".rstrip()
        return f"{_share_note(frame, received, total)}{count_text(received, total, 'bytes')}{more}"
    kept = received - (activation.overall_transferred_bytes or 0)
    if kept <= 0:
        return size_text(received)
    share = "all" if kept == received else size_text(kept)
    return f"{size_text(received)}, {share} {'reused' if frame.is_narrow else 'already downloaded'}"


def _share_note(frame: Frame, done: int, total: int | None) -> str:
    """A bar, where there is room, and per cent; nothing where the total is not known."""
    if not total:
        return ""
    share = min(1.0, done / total)
    bar = "" if frame.is_narrow else f"{frame.bar(share, _BAR_WIDTH)} "
    return f"{bar}{int(share * 100):>3}% "


def _verification_note(activation: ActivationState) -> str:
    verification = activation.verification
    if verification is None:
        progress = activation.progress
        if progress is not None and progress.unit == _STEPS and progress.done < len(_CHECKS):
            return _CHECKS[progress.done]
        has_torch = activation.selection is None or activation.selection.build is not None
        return "checking what torch computes" if has_torch else "checking that the worker answers"
    report = verification.report
    if not verification.ok:
        return "torch is not what was planned"
    if activation.stage is Stage.VERIFY:
        return f"loading {activation.model}"
    if report.torch is None:
        return "the worker answers"
    return computes_text(report.torch, report.device_name or report.device)
