"""Manifest, backend code, and what became of the last attempt to run it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import anyio.lowlevel

from moondream_station.core.backends.backend_code import requirements_of
from moondream_station.core.backends.code_store import read_backend
from moondream_station.core.bus.journal import latest_activation, read_activation, read_history
from moondream_station.core.facts.errors import BackendUnavailable, RequirementsUnsafe
from moondream_station.core.facts.events import (
    ActivationFailed,
    ActivationSucceeded,
    Event,
    StopReason,
    VerificationCompleted,
    WorkerStarted,
    WorkerStopped,
)
from moondream_station.core.home.layout import Home
from moondream_station.doctor.patient.check import Check
from moondream_station.doctor.patient.patient import Patient, in_thread
from moondream_station.doctor.patient.shared import Unknowable
from moondream_station.doctor.report.findings import Remedy, Section, Verdict, error, ok, problem, warning

_LAST_LINES = 10
_TAIL_BYTES = 64 << 10
_LIMIT_SECONDS = 30.0
_RECENT_ACTIVATIONS = 5


async def _manifest(patient: Patient) -> Verdict:
    try:
        manifest = await patient.manifest.get()
    except Unknowable as unknown:
        await anyio.lowlevel.checkpoint()
        text = (
            "MOONDREAM_STATION_MANIFEST or `manifest` in config.json names it; without both it is built in."
        )
        return error("The manifest can't be used.", detail=unknown.reason, remedy=Remedy(text=text))
    if manifest.warning is not None:
        text = (
            "Check the network, and the address in MOONDREAM_STATION_MANIFEST or `manifest` in config.json."
        )
        summary = "An older copy of the manifest is used."
        return warning(summary, detail=manifest.warning, remedy=Remedy(text=text))
    count = len(manifest.models)
    return ok(f"The manifest names {count} {'model' if count == 1 else 'models'}.")


async def _model(patient: Patient) -> Verdict:
    manifest, subject = await patient.manifest.get(), await patient.subject.get()
    model = subject.model
    remedy = Remedy(text="Switch to a model that can be used.", commands=("moondream-station models",))
    if model is None:
        return warning(
            "No model is active, and the manifest has no default one for this system.", remedy=remedy
        )
    if subject.info is None:
        return error(f"The active model {model} is not in the manifest.", remedy=remedy)
    system = None if patient.is_here else patient.machine.facts.system
    reason = manifest.unsupported_reason(model, system=system)
    if reason is not None:
        return error(f"{subject.words} can't be used here.", detail=reason, remedy=remedy)
    if not subject.is_active:
        return ok(f"No model is active; the default one is {model}.")
    return ok(f"{subject.words} is supported here.")


async def _code(patient: Patient) -> Verdict:
    subject = await patient.subject.get()
    if subject.committed is None:
        return ok("No backend's code is in use yet.")
    record = subject.committed.record
    code = await in_thread(read_backend, patient.home, record.code_place)
    if code is None:
        remedy = Remedy(
            text="Take it anew.", commands=(f"moondream-station switch {shlex.quote(subject.model or '')}",)
        )
        return error(f"The code of the backend {record.backend} is gone, or was changed.", remedy=remedy)
    manifest = await patient.manifest.get()
    try:
        requirements = await in_thread(requirements_of, code, manifest.backends.get(record.backend))
    except (RequirementsUnsafe, BackendUnavailable) as unsafe:
        remedy = Remedy(text=unsafe.hint or "Correct the line.")
        return warning(unsafe.message, remedy=remedy)
    detail = "\n".join(requirements.warnings) or None
    return ok(f"The code of the backend {record.backend} {record.backend_version} is whole.", detail=detail)


async def _worker(patient: Patient) -> Verdict:
    subject = await patient.subject.get()
    model = subject.model
    if model is None or subject.record is None:
        return ok("No worker has run yet.")
    events = await in_thread(_recent, patient.home)
    if not _has_crashed(events, model):
        return ok(f"The worker of {model} has not crashed since it was last started.")
    lines = await in_thread(last_lines, patient.home, model)
    remedy = Remedy(
        text="Read its last lines; install it anew if they do not tell what to do.",
        commands=(
            f"moondream-station logs {shlex.quote(model)}",
            f"moondream-station switch {shlex.quote(model)} --upgrade",
        ),
    )
    summary = f"The worker of {model} crashed when it last ran."
    return error(summary, detail="\n".join(lines) or None, remedy=remedy)


def _recent(home: Home) -> list[Event]:
    return read_history(home, last=_RECENT_ACTIVATIONS)


def _has_crashed(events: Sequence[Event], model: str) -> bool:
    """Whether the last thing told of a model's worker is that it crashed.

    One that crashed within a switch that failed is that switch's matter: what was active before still is.
    """
    failed = {event.activation for event in events if isinstance(event.fact, ActivationFailed)}
    started: dict[int, str | None] = {}
    crashed = False
    for event in events:
        match event.fact:
            case WorkerStarted(pid=pid):
                started[pid] = event.activation
            case WorkerStopped(model=name, pid=pid, reason=StopReason.CRASHED) if name == model:
                activation = started.get(pid)
                crashed = crashed or activation is None or activation not in failed
            case ActivationSucceeded(model=name) if name == model:
                crashed = False
            case VerificationCompleted(ok=True) if event.activation is None:
                crashed = False  # a station has started what is active already
            case _:
                pass
    return crashed


def last_lines(home: Home, model: str) -> tuple[str, ...]:
    """The last lines that a model's worker wrote; none where it never wrote any."""
    path = home.worker_log(model)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ()
    return tuple(line for line in text.splitlines() if line.strip())[-_LAST_LINES:]


async def _activation(patient: Patient) -> Verdict:
    latest = await in_thread(latest_activation, patient.home)
    events = await in_thread(read_activation, patient.home, latest) if latest else []
    failed = next((event.fact for event in events if isinstance(event.fact, ActivationFailed)), None)
    if failed is None:
        return ok("The last switch did not fail." if events else "Nothing has been switched to yet.")
    subject = await patient.subject.get()
    lines = (
        await in_thread(last_lines, patient.home, failed.model) if failed.stage in {"start", "verify"} else ()
    )
    detail = "\n".join((failed.error.message, *lines))
    model = shlex.quote(failed.model)
    remedy = Remedy(
        text=failed.error.hint or "Try again once the cause is gone.",
        commands=(f"moondream-station logs {model}", f"moondream-station switch {model}"),
    )
    fatal = failed.model == subject.model and not subject.is_installed
    summary = f"The last switch, to {failed.model}, failed at {failed.stage} ({failed.error.code})."
    return problem(summary, fatal=fatal, detail=detail, remedy=remedy)


CHECKS = (
    Check(id="backends.manifest", section=Section.BACKENDS, title="The manifest", look=_manifest),
    Check(id="backends.model", section=Section.BACKENDS, title="The model", look=_model),
    Check(
        id="backends.code",
        section=Section.BACKENDS,
        title="The backend's code",
        look=_code,
        limit_seconds=_LIMIT_SECONDS,
        needs_home=True,
    ),
    Check(
        id="backends.worker",
        section=Section.BACKENDS,
        title="The backend's worker",
        look=_worker,
        limit_seconds=_LIMIT_SECONDS,
        needs_home=True,
    ),
    Check(
        id="backends.activation",
        section=Section.BACKENDS,
        title="The last switch",
        look=_activation,
        limit_seconds=_LIMIT_SECONDS,
        needs_home=True,
    ),
)
