"""Facts as plain lines, for where there is no terminal: one for each, and progress now and then."""

from __future__ import annotations

from typing import assert_never

from moondream_station.core.facts import events
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.panel.quantities import count_text, duration_text, size_text, some_text

_STEP_SECONDS = 5.0
_STEP_SHARE = 0.1


class PlainLines:
    """Turns facts into lines. What takes long gets one every tenth of the way, or every five seconds."""

    def __init__(self) -> None:
        self._download_steps = _Steps()
        self._loading_steps = _Steps()
        self._resumed: set[str] = set()
        self._received: dict[str, int] = {}

    def lines(self, event: events.Event) -> tuple[str, ...]:
        """The lines for a fact; often none."""
        fact = event.fact
        if isinstance(fact, events.DownloadProgressed):
            return self._download(fact, event.at.timestamp())
        if isinstance(fact, events.StageProgressed) and (fact.stage, fact.unit) == (
            events.Stage.VERIFY,
            "bytes",
        ):
            return self._loading(fact, event.at.timestamp())
        line = _line(fact)
        return (line,) if line else ()

    def _download(self, fact: events.DownloadProgressed, at: float) -> tuple[str, ...]:
        lines = []
        is_partial = 0 < fact.resumed_from < (fact.total_bytes or fact.resumed_from + 1)
        if is_partial and fact.file not in self._resumed:
            self._resumed.add(fact.file)
            lines.append(f"Download: {fact.file} resumes at {size_text(fact.resumed_from)}")
        if fact.received_bytes < self._received.get(fact.file, 0):
            lines.append(f"Download: {fact.file} restarts, because its partial download can't be used")
        self._received[fact.file] = fact.received_bytes
        total = fact.overall_total_bytes
        share = fact.overall_received_bytes / total if total else 0.0
        is_whole = total is not None and fact.overall_received_bytes >= total
        if self._download_steps.is_due(share, at):
            rate = f", {size_text(fact.bytes_per_second)}/s" if fact.bytes_per_second else ""
            eta = f", {duration_text(fact.eta_seconds)} left" if fact.eta_seconds else ""
            kept = fact.overall_received_bytes - fact.overall_transferred_bytes
            before = f", {size_text(kept)} already downloaded" if kept and is_whole else ""
            lines.append(
                f"Download: {size_text(fact.overall_received_bytes)} of {size_text(total)}"
                f" ({share:.0%}){rate}{eta}{before}"
            )
        return tuple(lines)

    def _loading(self, fact: events.StageProgressed, at: float) -> tuple[str, ...]:
        """What a backend reports while it loads its model."""
        if fact.total is None:
            return ()
        share = fact.done / fact.total if fact.total else 1.0
        if not self._loading_steps.is_due(share, at):
            return ()
        return (f"Model: {count_text(fact.done, fact.total, fact.unit)} ({share:.0%})",)


class _Steps:
    """When progress is worth a line."""

    def __init__(self) -> None:
        self._last_share = -1.0
        self._last_at = 0.0

    def is_due(self, share: float, at: float) -> bool:
        """Whether a line is due at this share of the way and time in seconds; if so, it counts as written."""
        is_due = share - self._last_share >= _STEP_SHARE or at - self._last_at >= _STEP_SECONDS
        if is_due or (share >= 1 and self._last_share < 1):
            self._last_share, self._last_at = share, at
            return True
        return False


def _line(fact: events.Fact) -> str | None:  # noqa: C901, PLR0911, PLR0912  one case a fact, flat
    match fact:
        case events.BackendActivationRequested():
            return f"Switching to {fact.model} (strategy {fact.strategy})"
        case events.ActivationWaiting():
            who = f"pid {fact.holder_pid} ({fact.holder_command})" if fact.holder_pid else "another process"
            return f"Waiting for {who}" + (f", which is running since {fact.since}" if fact.since else "")
        case events.ProbeFinished():
            if fact.outcome is Outcome.ABSENT:
                return None
            return f"Probe {fact.probe}: {fact.outcome}, {fact.detail} ({fact.seconds:.2f} s)"
        case events.CapabilitiesDetected():
            cached = " (cached)" if fact.from_cache else ""
            gpus = ", ".join(gpu.name or gpu.vendor for gpu in fact.capabilities.gpus) or "no GPU found"
            return (
                f"Detected this machine in {fact.seconds:.2f} s{cached}: {fact.capabilities.system}, {gpus}"
            )
        case events.BuildSelected():
            if fact.build is None:
                return f"Build: none needed. {fact.reason}"
            fit = f" {fact.fit.sentence}" if fact.fit and fact.fit.is_known else ""
            return f"Build: {fact.build} with torch {fact.torch}. {fact.reason}{fit}"
        case events.RequirementsLocked():
            size = size_text(fact.total_bytes)
            return f"Locked {some_text(fact.packages, 'packages')}, {size} ({duration_text(fact.seconds)})"
        case events.EnvironmentBuilt():
            verb = "reused" if fact.reused else "built"
            how = f"{some_text(fact.packages, 'packages')}, {duration_text(fact.seconds)}"
            return f"Environment {fact.environment} {verb} ({how})"
        case events.WorkerStarted():
            return f"Worker for {fact.model} started (pid {fact.pid})"
        case events.WorkerStopped():
            return f"Worker of {fact.model} ended (pid {fact.pid}, {fact.reason})"
        case events.VerificationCompleted():
            return _verification(fact)
        case events.FallbackChosen():
            if fact.from_build == fact.to_build:
                return f"Staying on {fact.to_build}: {fact.reason}"
            return f"Falling back from {fact.from_build} to {fact.to_build}: {fact.reason}"
        case events.ActivationSucceeded():
            result = f"{fact.model} is active" + (f" on the {fact.build} build" if fact.build else "")
            degraded = (
                f"; degraded, not on {fact.degraded.wanted}: {fact.degraded.reason}" if fact.degraded else ""
            )
            return f"{result} ({duration_text(fact.seconds)}){degraded}"
        case events.ActivationFailed():
            hint = f"\n  hint: {fact.error.hint}" if fact.error.hint else ""
            return f"error: {fact.error.message} [{fact.error.code}, at {fact.stage}]{hint}"
        case events.ActivationCancelled():
            return f"Cancelled at {fact.stage} ({fact.reason}); what was downloaded is kept"
        case events.StageStarted() | events.StageProgressed() | events.DownloadProgressed():
            return None
        case _:
            assert_never(fact)


def _verification(fact: events.VerificationCompleted) -> str:
    report = fact.report
    if report.torch is None and fact.ok:
        return "Verified: the worker answers"
    if fact.ok:
        where = f"{report.device_name or report.device} ({duration_text(report.seconds or 0)})"
        other = f"; not as planned: {_differences(fact)}" if fact.mismatches else ""
        return f"Verified: torch {report.torch} computes on {where}{other}"
    return f"Verification failed: {_differences(fact)}"


def _differences(fact: events.VerificationCompleted) -> str:
    return "; ".join(
        f"{mismatch.field} should be {mismatch.planned}, is {mismatch.found}" for mismatch in fact.mismatches
    )
