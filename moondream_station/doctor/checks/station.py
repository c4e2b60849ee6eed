"""The station itself: its settings, the one that serves, and the activation that runs."""

from __future__ import annotations

from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.facts.errors import SettingsInvalid, UsageError
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import activation_holder, read_station
from moondream_station.core.home.settings import load_settings
from moondream_station.doctor.checks.findings import Remedy, Verdict, error, ok, warning
from moondream_station.doctor.checks.patient import Patient, in_thread

_FIX = Remedy("The next start removes it; to do so now:", ("moondream-station doctor --fix",))


async def settings(patient: Patient) -> Verdict:
    """Whether config.json and the variables can be used."""
    try:
        loaded = await in_thread(load_settings, patient.home, patient.environ)
        check_strategy(loaded.strategy)
    except SettingsInvalid as invalid:
        return error(invalid.message, Remedy(invalid.hint or "Correct it."))
    except UsageError as unknown:
        summary = "The setting `strategy` is neither `auto` nor `guide` nor a build."
        return error(summary, Remedy(unknown.hint or "Correct it."), unknown.message)
    return ok("The settings are valid.")


async def serving(patient: Patient) -> Verdict:
    """Whether the station that serves this home answers."""
    record = await in_thread(read_station, patient.home)
    if record is None:
        if await in_thread(is_station_stale, patient.home):
            return warning("station.json is of a station that no longer runs.", _FIX)
        return ok("No station serves this home; `moondream-station serve` starts one.")
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    async with StationClient(record.address, token=record.token) as client:
        is_healthy = await client.is_healthy()
    where = f"at {record.address}, as process {record.pid}, since {record.since}"
    if is_healthy:
        return ok(f"A station serves {where}.")
    remedy = Remedy("If it stays so, end that process and run serve again.")
    return error(f"The station {where}, does not answer.", remedy)


async def activation(patient: Patient) -> Verdict:
    """Whether an activation is running, or one that was killed left its mark."""
    holder = await in_thread(activation_holder, patient.home)
    if holder is not None:
        return ok(f"An activation is running since {holder.since}: {holder.command} (process {holder.pid}).")
    if await in_thread(is_holder_stale, patient.home):
        return warning("activation.json is of an activation that no longer runs.", _FIX)
    return ok("No activation is running.")


def is_station_stale(home: Home) -> bool:
    """Whether `station.json` is of a station that no longer runs."""
    return home.station.exists() and read_station(home) is None


def is_holder_stale(home: Home) -> bool:
    """Whether `activation.json` is of an activation that no longer runs."""
    return home.activation_holder.exists() and activation_holder(home) is None
