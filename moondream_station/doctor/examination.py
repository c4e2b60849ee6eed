"""Runs the checks: all at once, each with its own time limit, none able to bring the others down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import anyio

from moondream_station.core.facts.errors import StationError
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.machine.machine import LocalMachine, Machine
from moondream_station.doctor.checks.findings import Finding, Remedy, Report, Verdict, skipped, warning
from moondream_station.doctor.checks.patient import Patient, Unknowable, explain
from moondream_station.doctor.privacy import cleaner
from moondream_station.doctor.registry import CHECKS, Check

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
    """Examine a machine, this computer by default, and the station, and change nothing.

    The home need not exist. Of another machine only what its record can answer is checked; `offline`, no
    other computer is asked. `on_finding` is called as each check ends. The report is in the registry's order,
    with nothing private in it.
    """
    machine = machine or LocalMachine(environ)
    patient = Patient(home=home, settings=settings, environ=environ, machine=machine, offline=offline)
    return await examine_patient(patient, CHECKS, on_finding=on_finding)


async def examine_patient(
    patient: Patient, checks: Iterable[Check], *, on_finding: OnFinding | None = None
) -> Report:
    """Run checks on a patient; the report is in their order."""
    ordered = tuple(checks)
    clean = cleaner(patient.home, patient.environ)
    findings: dict[str, Finding] = {}

    async def run(check: Check) -> None:
        began = time.perf_counter()
        verdict = clean(await _verdict(check, patient))
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
    if check.needs_home and not patient.is_here:
        return skipped(f"{check.title}: not checked, because the record is of another machine.")
    if check.needs_network and patient.is_offline:
        return skipped(f"{check.title}: not checked, because no network is to be used.")
    why = f"no answer within {check.limit_seconds:g} s."
    remedy: str | None = "Run the doctor again when the computer is less busy."
    try:
        with anyio.move_on_after(check.limit_seconds):
            return await check.examine(patient)
    except Unknowable as unknown:  # another finding says why
        return skipped(f"{check.title}: not checked, because {unknown.fact} could not be read.")
    except StationError as error:
        why, remedy = error.message, error.hint
    except OSError as failure:
        why = f"{failure.filename or check.title}: {failure.strerror or failure}."
        remedy = "`moondream-station doctor --fix` puts right what it can; otherwise check the disk."
    except Exception as failure:  # noqa: BLE001  the boundary between checks: a fault in one is its own finding
        why = explain(failure)
        remedy = "Report it, with what MOONDREAM_STATION_LOG=debug makes the doctor print."
    return warning(f"{check.title} could not be checked: {why}", Remedy(remedy) if remedy else None)
