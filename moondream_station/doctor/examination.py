"""Runs the checks: all at once, each with its own limit of seconds, none able to bring the others down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

import anyio
import anyio.lowlevel

from moondream_station.core.facts.errors import StationError
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.machine.local import LocalMachine
from moondream_station.core.machine.protocol import Machine
from moondream_station.doctor.patient.check import Check
from moondream_station.doctor.patient.patient import Patient
from moondream_station.doctor.patient.shared import Unknowable, explain
from moondream_station.doctor.registry import CHECKS
from moondream_station.doctor.report.findings import Finding, Remedy, Report, Verdict, skipped, warning

OnFinding: TypeAlias = Callable[[Finding], None]


async def examine(
    *,
    home: Home,
    settings: Settings,
    environ: Mapping[str, str],
    machine: Machine | None = None,
    offline: bool = False,
    on_finding: OnFinding | None = None,
) -> Report:
    """Look at the machine and the station, and change nothing.

    Args:
        home: The home; it need not exist.
        settings: The user's settings.
        environ: The user's variables.
        machine: The machine to look at, this computer by default. Of one that is not here, only what its
            record can answer is checked.
        offline: Whether no other computer may be asked.
        on_finding: Called with each finding as its check ends.

    Returns:
        The report, in the registry's order, with nothing private in it.
    """
    patient = Patient(
        home=home,
        settings=settings,
        environ=environ,
        machine=machine or LocalMachine(environ),
        offline=offline,
    )
    return await examine_patient(patient, CHECKS, on_finding=on_finding)


async def examine_patient(
    patient: Patient, checks: Iterable[Check], *, on_finding: OnFinding | None = None
) -> Report:
    """Run checks on a patient.

    Args:
        patient: Who is looked at.
        checks: The checks; the report is in their order.
        on_finding: Called with each finding as its check ends.
    """
    asked = tuple(checks)
    found: dict[str, Finding] = {}

    async def run(check: Check) -> None:
        began = time.perf_counter()
        reason = _why_not_asked(check, patient)
        if reason is None:
            verdict = await _verdict(check, patient)
        else:
            verdict = skipped(f"{check.title}: not looked at, {reason}.")
            await anyio.lowlevel.checkpoint()
        verdict = patient.clean(verdict)
        finding = found[check.id] = Finding(
            id=check.id,
            section=check.section,
            status=verdict.status,
            summary=verdict.summary,
            detail=verdict.detail,
            remedy=verdict.remedy,
            seconds=time.perf_counter() - began,
        )
        if on_finding is not None:
            on_finding(finding)

    async with anyio.create_task_group() as background:
        patient.find_out(background)
        async with anyio.create_task_group() as examining:
            for check in asked:
                examining.start_soon(run, check)
        background.cancel_scope.cancel()
    return Report(tuple(found[check.id] for check in asked))


def _why_not_asked(check: Check, patient: Patient) -> str | None:
    """Why a check does not apply, as a clause; None where it does."""
    if check.needs_home and not patient.is_here:
        return "because the machine is not this one"
    if check.needs_network and patient.is_offline:
        return "because no network is to be used"
    return None


async def _verdict(check: Check, patient: Patient) -> Verdict:
    """What a check says; one that fails or hangs is a finding like any other."""
    verdict = None
    try:
        with anyio.move_on_after(check.limit_seconds):
            verdict = await check.look(patient)
    except Exception as failure:  # noqa: BLE001  the boundary between checks: a fault in one is its own finding
        verdict = _failed(check, failure)
    await anyio.lowlevel.checkpoint()
    late = f"{check.title} could not be checked: no answer within {check.limit_seconds:g} s."
    again = "What it looks at is slow, or hangs. Run the doctor again when the computer has less to do."
    return verdict or warning(late, remedy=Remedy(text=again))


def _failed(check: Check, failure: Exception) -> Verdict:
    match failure:
        case Unknowable(what=what):  # why not is what another finding tells
            return skipped(f"{check.title}: not looked at, because {what} could not be looked at.")
        case StationError(message=message, hint=hint):
            remedy = Remedy(text=hint) if hint else None
            return warning(f"{check.title} could not be checked: {message}", remedy=remedy)
        case _:
            report = "Report it, with what MOONDREAM_STATION_LOG=debug lets the doctor print."
            summary = f"{check.title} could not be checked: {explain(failure)}"
            return warning(summary, remedy=Remedy(text=report))


def with_finding(report: Report, finding: Finding) -> Report:
    """The report with one more finding at its end."""
    return replace(report, findings=(*report.findings, finding))
