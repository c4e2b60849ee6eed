"""The station itself: its settings, the one that serves, and the activation that runs."""

from __future__ import annotations

import anyio.lowlevel

from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.facts.errors import SettingsInvalid, UsageError
from moondream_station.core.home.locks import activation_holder, read_station
from moondream_station.core.home.settings import load_settings
from moondream_station.doctor.checks.leftovers import is_holder_stale, is_station_stale
from moondream_station.doctor.patient.check import Check
from moondream_station.doctor.patient.patient import Patient, in_thread
from moondream_station.doctor.report.findings import Remedy, Section, Verdict, error, ok, warning

_LIMIT_SECONDS = 12.0
_FIX = Remedy(text="The next start removes it; to do so now:", commands=("moondream-station doctor --fix",))


async def _settings(patient: Patient) -> Verdict:
    try:
        settings = await in_thread(load_settings, patient.home, patient.environ)
        check_strategy(settings.strategy)
    except SettingsInvalid as invalid:
        await anyio.lowlevel.checkpoint()
        return error(invalid.message, remedy=Remedy(text=invalid.hint or "Correct it."))
    except UsageError as unknown:
        await anyio.lowlevel.checkpoint()
        summary = "The strategy that is set is neither `auto` nor `guide` nor a build."
        return error(summary, detail=unknown.message, remedy=Remedy(text=unknown.hint or "Correct it."))
    return ok("The settings can be used.")


async def _serving(patient: Patient) -> Verdict:
    record = await in_thread(read_station, patient.home)
    if record is None:
        if await in_thread(is_station_stale, patient.home):
            return warning("station.json is of a station that is no longer alive.", remedy=_FIX)
        return ok("No station serves this home; `moondream-station serve` starts one.")
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    async with StationClient(record.address, token=record.token) as client:
        is_healthy = await client.is_healthy()
    where = f"at {record.address}, as process {record.pid}, since {record.since}"
    if is_healthy:
        return ok(f"A station serves {where}.")
    text = "End that process and serve anew, if it stays so."
    return error(f"The station {where}, does not answer.", remedy=Remedy(text=text))


async def _activation(patient: Patient) -> Verdict:
    holder = await in_thread(activation_holder, patient.home)
    if holder is not None:
        return ok(f"An activation is running since {holder.since}: {holder.command} (process {holder.pid}).")
    if await in_thread(is_holder_stale, patient.home):
        return warning("activation.json is of an activation that is no longer alive.", remedy=_FIX)
    return ok("No activation is running.")


CHECKS = (
    Check(
        id="station.settings", section=Section.STATION, title="The settings", look=_settings, needs_home=True
    ),
    Check(
        id="station.serving",
        section=Section.STATION,
        title="The serving station",
        look=_serving,
        limit_seconds=_LIMIT_SECONDS,
        needs_home=True,
    ),
    Check(
        id="station.activation",
        section=Section.STATION,
        title="The running activation",
        look=_activation,
        limit_seconds=_LIMIT_SECONDS,
        needs_home=True,
    ),
)
