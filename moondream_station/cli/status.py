"""`status` and `models`, as the serving station answers, or as the home's files say where none serves."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from moondream_station.console.logging import begin
from moondream_station.console.output import print_text, table, terminal_width
from moondream_station.console.signals import run_loop
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import StationRecord, read_station
from moondream_station.core.home.settings import Settings

if TYPE_CHECKING:
    from moondream_station.http.client import StationClient


def run_status(*, as_json: bool) -> int:
    """Print the active model and what runs; returns the exit code."""
    home, _ = begin()
    record = read_station(home)
    if record is None:
        from moondream_station.core.facts.state import status  # noqa: PLC0415
        from moondream_station.core.views.overview import (  # noqa: PLC0415  only where nothing serves
            present_state,
            why_broken,
        )

        shown: Mapping[str, Any] = status(present_state(home))
        broken = why_broken(home)
    else:
        broken = None  # the station installs it again by itself
        shown = run_loop(_ask, record, lambda client: client.status())
    print_text(status_text(shown, broken), shown, as_json=as_json)
    return 0


def run_models(*, as_json: bool) -> int:
    """Print the manifest's models; returns the exit code."""
    home, settings = begin()
    record = read_station(home)
    if record is None:
        shown = run_loop(_models_here, home, settings)
    else:
        shown = run_loop(_ask, record, lambda client: client.models())
    print_text(models_text(shown, width=terminal_width()), shown, as_json=as_json)
    return 0


def models_text(shown: Mapping[str, Any], *, width: int | None = None) -> str:
    """The models shape for people, broken to `width` columns."""
    rows = [
        {
            "model": f"{model['id']}{' *' if model['active'] else ''}",
            "installed": "yes" if model["installed"] else "no",
            "supported": "yes" if model["supported"] else f"no: {model['reason']}",
            "description": model["description"],
        }
        for model in shown["models"]
    ]
    return table(rows, ("model", "installed", "supported", "description"), width=width)


def status_text(shown: Mapping[str, Any], broken: str | None = None) -> str:
    """The status shape for people, and what is wrong with the active model's environment."""
    station = shown["station"]
    serving = f"serving on {station['address']} (pid {station['pid']})" if station else "not serving"
    lines = [f"Station: {serving}"]
    if active := shown["active"]:
        build = f"{active['build']} build, torch {active['torch']}" if active["build"] else "no torch"
        build = "broken" if broken else build
        lines.append(f"Active: {active['model']} ({build}), worker {active['worker']}")
        lines += [f"Broken: {broken}"] if broken else []
        lines.append(f"Environment: {active['environment']}")
        if degraded := active["degraded"]:
            lines.append(f"Degraded: planned {degraded['wanted']}: {degraded['reason']}")
    else:
        lines.append("Active: no model; `moondream-station switch MODEL` activates one")
    if (verification := shown["verification"]) and verification["torch"]:
        device = verification["device_name"] or verification["device"]
        lines.append(f"Verified: torch {verification['torch']} computes on {device}")
    if activation := shown["activation"]:
        where = f"at {activation['stage']}, since {activation['started_at']}"
        lines.append(f"Running: switch to {activation['model']}, {where}")
    return "\n".join(lines)


async def _ask(
    record: StationRecord, question: Callable[[StationClient], Awaitable[Mapping[str, Any]]]
) -> Mapping[str, Any]:
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    async with StationClient(record.address, token=record.token) as client:
        return await question(client)


async def _models_here(home: Home, settings: Settings) -> Mapping[str, Any]:
    from moondream_station.core.home.active_file import read_active  # noqa: PLC0415
    from moondream_station.core.station import open_manifest  # noqa: PLC0415
    from moondream_station.core.views.overview import models_shape  # noqa: PLC0415

    return models_shape(await open_manifest(home, settings, os.environ), read_active(home))
