"""Facts and quantities in words; facts as plain lines, for where there is no terminal.

Loads no rich: a command that draws nothing uses this too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, assert_never

from moondream_station.core.facts import events
from moondream_station.core.facts.capabilities import Capabilities, Outcome

_CANCELLED_BY: Final = {
    events.CancelReason.USER: "as requested",
    events.CancelReason.SUPERSEDED: "because another switch replaced it",
    events.CancelReason.SHUTDOWN: "because the station is stopping",
}
_OF_BYTES: Final = {events.Stage.LOCK: "Fetching a wheel to read it", events.Stage.VERIFY: "Model"}
_STEP_SECONDS = 5.0
_STEP_SHARE = 0.1
_KILO = 1000
_MINUTE = 60
_HOUR = 3600
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


class PlainLines:
    """Turns facts into lines. What takes long gets one every tenth of the way, or every five seconds."""

    def __init__(self) -> None:
        self._download_steps = _Steps()
        self._loading_steps = _Steps()
        self._resumed: set[str] = set()
        self._received: dict[str, int] = {}
        self._last_progress = 0, 0.0
        self._has_weights = False

    def lines(self, event: events.Event) -> tuple[str, ...]:
        """The lines for a fact; often none."""
        fact = event.fact
        if isinstance(fact, events.DownloadProgressed):
            return self._download(fact, event.at.timestamp())
        if isinstance(fact, events.StageProgressed) and fact.unit == "bytes":
            return self._progress(fact, event.at.timestamp())
        if isinstance(fact, events.ActivationCancelled):
            has_downloaded = self._has_weights or any(self._received.values())
            return (cancelled_text(fact, has_downloaded=has_downloaded),)
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

    def _progress(self, fact: events.StageProgressed, at: float) -> tuple[str, ...]:
        """Bytes of weights, while a backend loads its model, or of a wheel that is read to be locked."""
        what = _OF_BYTES.get(fact.stage)
        if what is None:
            return ()
        self._has_weights = self._has_weights or fact.done > 0
        if fact.total is None:
            return ()
        share = fact.done / fact.total if fact.total else 1.0
        if not self._loading_steps.is_due(share, at):
            return ()
        before_bytes, before = self._last_progress
        self._last_progress = fact.done, at
        speed = (
            (fact.done - before_bytes) / (at - before) if 0 < before < at and before_bytes < fact.done else 0
        )
        rate = f", {size_text(speed)}/s" if speed else ""
        return (f"{what}: {count_text(fact.done, fact.total, fact.unit)} ({share:.0%}){rate}",)


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
            return waiting_text(fact.holder_pid, fact.holder_command, fact.since)
        case events.ProbeFinished():
            if fact.outcome is Outcome.ABSENT:
                return None
            return f"Probe {fact.probe}: {fact.outcome}, {fact.detail} ({fact.seconds:.2f} s)"
        case events.CapabilitiesDetected():
            cached = " (cached)" if fact.from_cache else ""
            machine = machine_text(fact.capabilities)
            return f"Detected this machine in {fact.seconds:.2f} s{cached}: {machine}"
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
            why = fact.degraded and degraded_text(fact.degraded.wanted, fact.degraded.reason)
            result = f"{active_text(fact.model, fact.build)} ({duration_text(fact.seconds)})"
            return f"{result}; degraded, {why}" if why else result
        case events.ActivationFailed():
            hint = f"\n  hint: {fact.error.hint}" if fact.error.hint else ""
            return f"error: {fact.error.message} [{fact.error.code}, at {fact.stage}]{hint}"
        case events.StageStarted() | events.StageProgressed() | events.DownloadProgressed():
            return None
        case events.ActivationCancelled():
            return None  # `PlainLines.lines` knows whether anything was downloaded
        case _:
            assert_never(fact)


def _verification(fact: events.VerificationCompleted) -> str:
    report = fact.report
    if report.torch is None and fact.ok:
        return "Verified: the worker answers"
    if fact.ok:
        computes = computes_text(report.torch, report.device_name or report.device)
        other = f"; not as planned: {_differences(fact)}" if fact.mismatches else ""
        return f"Verified: {computes} ({duration_text(report.seconds or 0)}){other}"
    return f"Verification failed: {_differences(fact)}"


def _differences(fact: events.VerificationCompleted) -> str:
    return "; ".join(
        f"{mismatch.field} should be {mismatch.planned}, is {mismatch.found}" for mismatch in fact.mismatches
    )


def status_rows(shown: Mapping[str, Any], broken: str | None = None) -> list[tuple[str, str]]:
    """The status shape as labels and words; `broken` is what is wrong with the active model's environment."""
    station, verification = shown["station"], shown["verification"]
    rows = [
        ("Station", f"serving on {station['address']} (pid {station['pid']})" if station else "not serving")
    ]
    if active := shown["active"]:
        build = f"{active['build']} build, torch {active['torch']}" if active["build"] else "no torch"
        rows.append(
            ("Active", f"{active['model']} ({'broken' if broken else build}), worker {active['worker']}")
        )
        rows += [("Broken", broken)] if broken else []
        rows.append(("Environment", active["environment"]))
        if degraded := active["degraded"]:
            rows.append(("Degraded", degraded_text(degraded["wanted"], degraded["reason"])))
    else:
        rows.append(("Active", "no model; `moondream-station switch MODEL` activates one"))
    if verification and verification["torch"]:
        device = verification["device_name"] or verification["device"]
        rows.append(("Verified", computes_text(verification["torch"], device)))
    return rows


def figure_rows(stats: Mapping[str, Any], usage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a station has done since it started, and what it holds, as labels and words."""
    ends = Counter[str]()
    for function in stats["functions"]:
        ends.update(function["requests"])
    words = {"ok": "answered", "rejected": "refused", "timeout": "timed out", "error": "failed"}
    counts = [f"{ends[end]:,} {word}" for end, word in words.items() if ends[end] or end == "ok"]
    answers = stats["processing"], stats["queue_size"]
    rows = [("Requests", f"{', '.join(counts)}; {answers[0]} in progress, {answers[1]} waiting")]
    times = [
        f"{function['function']} {seconds['median']:.2g} s (95 % within {seconds['p95']:.2g} s)"
        for function in stats["functions"]
        if (seconds := function["seconds"])["count"]
    ]
    rows += [("Median", ", ".join(times))] if times else []
    memory = usage["memory"]
    worker = "" if memory["worker_bytes"] is None else f", worker {size_text(memory['worker_bytes'])}"
    gpus = [f", {gpu['name']} {size_text(gpu['used_bytes'])} used" for gpu in usage["gpus"]]
    rows.append(("Memory", f"station {size_text(memory['station_bytes'])}{worker}{''.join(gpus)}"))
    if limited := stats["workers_limited"]:
        rows.append(("Limited", limited))
    return rows


def active_text(model: str, build: str | None) -> str:
    """What is active; None is a backend without torch."""
    return f"{model} is active" + (f" on the {build} build" if build else "")


def cancelled_text(fact: events.ActivationCancelled, *, has_downloaded: bool) -> str:
    """Where an activation was cancelled, and by what."""
    kept = " What was downloaded is kept." if has_downloaded else ""
    return f"Cancelled at {fact.stage}, {_CANCELLED_BY[fact.reason]}.{kept}"


def computes_text(torch: str | None, device: str | None) -> str:
    """What was verified."""
    return f"torch {torch} computes on {device}"


def degraded_text(wanted: str, reason: str) -> str:
    """What a model should run on instead, and why it does not."""
    return f"not on {wanted} as planned. {reason}"


def machine_text(machine: Capabilities) -> str:
    """A machine's system and GPUs."""
    names = [gpu.name or gpu.vendor for gpu in machine.gpus]
    counted = [(names.count(name), name) for name in dict.fromkeys(names)]
    gpus = ", ".join(f"{count} x {name}" if count > 1 else name for count, name in counted)
    return f"{machine.system}, {gpus or 'no GPU found'}"


def waiting_text(pid: int | None, command: str | None, since: str | None) -> str:
    """Which process is waited for, as far as that is known."""
    who = f"pid {pid} ({command})" if pid else "another process"
    return f"Waiting for {who}" + (f", running since {since}" if since else "")


# Not rich.filesize: plain lines use this too, and a command that draws nothing loads no rich.
def size_text(count: float | None) -> str:
    """A number of bytes for people, in decimal units: "191.8 MB"; "?" where unknown."""
    if count is None:
        return "?"
    value, unit = float(count), 0
    while value >= _KILO and unit < len(_UNITS) - 1:
        value, unit = value / _KILO, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def duration_text(seconds: float) -> str:
    """A duration for people: "0.4 s", "1:05 min"."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    return f"{minutes}:{rest:02} min"


def clock_text(seconds: float) -> str:
    """A running time in whole seconds, which does not flicker: "0:07", "1:05", "2:03:04"."""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, _HOUR)
    minutes, last = divmod(rest, _MINUTE)
    return f"{hours}:{minutes:02}:{last:02}" if hours else f"{minutes}:{last:02}"


def some_text(count: int, unit: str) -> str:
    """So many of something: "1 package", "12,253 files"."""
    return f"{count:,} {unit.removesuffix('s') if count == 1 else unit}"


def count_text(done: int, total: int | None, unit: str) -> str:
    """How far something has come: "12,253 of 13,000 files", "1.2 GB of 3.6 GB"."""
    if unit == "bytes":
        return size_text(done) if total is None else f"{size_text(done)} of {size_text(total)}"
    return some_text(done, unit) if total is None else f"{done:,} of {some_text(total, unit)}"
