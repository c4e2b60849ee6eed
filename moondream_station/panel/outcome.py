"""How an activation ended: the result, what is degraded about it, or the error with its remedy."""

from __future__ import annotations

from typing import assert_never

from rich.text import Text

from moondream_station.core.facts.activation_state import ActivationState
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    CancelReason,
    Terminal,
)
from moondream_station.panel.details import why_lines
from moondream_station.panel.frame import Frame

_CANCELLED_BY = {
    CancelReason.USER: "as asked",
    CancelReason.SUPERSEDED: "because another switch took its place",
    CancelReason.SHUTDOWN: "because the station ends",
}


def title_of(frame: Frame, activation: ActivationState, outcome: Terminal | None, *, cancelling: bool) -> str:
    """The panel's first line, in words: what is going on, or how it ended."""
    match outcome:
        case None:
            verb = "Cancelling the switch" if cancelling else "Switching"
            strategy = activation.strategy if frame.is_narrow else f"strategy {activation.strategy}"
            return f"{verb} to {activation.model} ({strategy})"
        case ActivationSucceeded(degraded=degraded):
            return f"Switched to {activation.model}{', degraded' if degraded else ''}"
        case ActivationFailed():
            return f"Could not switch to {activation.model}"
        case ActivationCancelled():
            return f"Cancelled the switch to {activation.model}"
        case _:
            assert_never(outcome)


def title_style(outcome: Terminal | None) -> str:
    """The style of the panel's first line."""
    match outcome:
        case None:
            return "bold"
        case ActivationSucceeded(degraded=degraded):
            return "bold yellow" if degraded else "bold green"
        case ActivationFailed():
            return "bold red"
        case ActivationCancelled():
            return "bold yellow"
        case _:
            assert_never(outcome)


def outcome_lines(frame: Frame, activation: ActivationState, outcome: Terminal) -> list[Text]:
    """The result, in as many lines as it takes."""
    match outcome:
        case ActivationSucceeded():
            return _success_lines(frame, activation, outcome)
        case ActivationFailed(error=error):
            message = f"{error.message} [{error.code}]"
            lines = frame.paragraph(message, mark=frame.glyphs.failed, style="red")
            return [*lines, *(frame.paragraph(f"hint: {error.hint}") if error.hint else ())]
        case ActivationCancelled(stage=stage, reason=reason):
            words = f"Ended in {stage}, {_CANCELLED_BY[reason]}. What was downloaded is kept."
            return frame.paragraph(words, mark=frame.glyphs.stopped, style="yellow")
        case _:
            assert_never(outcome)


def _success_lines(frame: Frame, activation: ActivationState, outcome: ActivationSucceeded) -> list[Text]:
    on = f" on the {outcome.build} build" if outcome.build else ""
    torch = activation.selection.torch if activation.selection else None
    words = f"{outcome.model} is active{on}{f', torch {torch}' if torch else ''}."
    lines = frame.paragraph(words, mark=frame.glyphs.done, style="green")
    if (degraded := outcome.degraded) is not None:
        words = f"Degraded: it should have been {degraded.wanted}. {degraded.reason}"
        return [*lines, *frame.paragraph(words, mark=frame.glyphs.warned, style="yellow")]
    return [*why_lines(frame, activation), *lines]
