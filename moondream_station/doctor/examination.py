"""Runs the checks: all at once, each with its own time limit, none able to bring the others down."""

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
    """Examine the machine and the station, and change nothing.

    Args:
        home: The home; it need not exist.
        settings: The user's settings.
        environ: The user's variables.
        machine: The machine, this computer by default. Of another one, only what its record can answer is
            checked.
        offline: Whether no other computer may be asked.
        on_finding: Called with each finding as its check ends.

    Returns:
        The report, in the registry's order, with nothing private in it.
    """
    machine = machine or LocalMachine(environ)
    patient = Patient(home=home, settings=settings, environ=environ, machine=machine, offline=offline)
    return await examine_patient(patient, CHECKS, on_finding=on_finding)


async def examine_patient(
    patient: Patient, checks: Iterable[Check], *, on_finding: OnFinding | None = None
) -> Report:
    """Run checks on a patient; the report is in their order."""
    ordered = tuple(checks)
    findings: dict[str, Finding] = {}

    async def run(check: Check) -> None:
        began = time.perf_counter()
        verdict = patient.clean(await _verdict(check, patient))
        finding = Finding.of(verdict, check=check.id, seconds=time.perf_counter() - began)
        findings[check.id] = finding
        if on_finding is not None:
            on_finding(finding)

    async with anyio.create_task_group() as background:
        patient.find_out(background)
        async with anyio.create_task_group() as examining:
            for check in ordered:
                examining.start_soon(run, check)
        background.cancel_scope.cancel()
    return Report(tuple(findings[check.id] for check in ordered))


async def _verdict(check: Check, patient: Patient) -> Verdict:
    """What a check concludes; one that fails or hangs is a finding like any other."""
    await anyio.lowlevel.checkpoint()
    if check.needs_home and not patient.is_here:
        return skipped(f"{check.title}: not checked, because the record is of another machine.")
    if check.needs_network and patient.is_offline:
        return skipped(f"{check.title}: not checked, because no network is to be used.")
    verdict = None
    try:
        with anyio.move_on_after(check.limit_seconds):
            verdict = await check.examine(patient)
    except Exception as failure:  # noqa: BLE001  the boundary between checks: a fault in one is its own finding
        verdict = _failed(check, failure)
    await anyio.lowlevel.checkpoint()
    late = f"{check.title} could not be checked: no answer within {check.limit_seconds:g} s."
    return verdict or warning(late, Remedy("Run the doctor again when the computer is less busy."))


def _failed(check: Check, failure: Exception) -> Verdict:
    match failure:
        case Unknowable(fact=fact):  # another finding says why
            return skipped(f"{check.title}: not checked, because {fact} could not be read.")
        case StationError(message=message, hint=hint):
            return warning(f"{check.title} could not be checked: {message}", Remedy(hint) if hint else None)
        case _:
            report = "Report it, with what MOONDREAM_STATION_LOG=debug makes the doctor print."
            return warning(f"{check.title} could not be checked: {explain(failure)}", Remedy(report))


def with_finding(report: Report, finding: Finding) -> Report:
    """The report with one more finding at its end."""
    return replace(report, findings=(*report.findings, finding))
