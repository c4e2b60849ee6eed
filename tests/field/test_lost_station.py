"""A serving station that dies in the middle of a switch that another process asked it for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.commands import Served, events_of, serving, started
from support.index_traffic import Fault
from support.stations import Premises, activate, open_premises


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    """A home with `colours` active, and a newer torch that comes slowly."""
    with open_premises(tmp_path) as premises:
        premises.add_model("colours")
        activate(premises, "colours")
        premises.index.add_torch("2.9.9", "cpu", filler_bytes=3_000_000)
        premises.index.faults.append(Fault(match="/whl/cpu/torch-2.9.9*.whl", bytes_per_second=300_000))
        yield premises
        premises.index.faults.clear()
        activate(premises, "colours")  # which removes what the killed station left half done


def _killed_in_download(station: Served, switching: subprocess.Popen[str]) -> dict[str, Any]:
    """Kill the station once the switch downloads; gives the switch's first event."""
    events = events_of(switching)
    first = next(events)
    assert any(event["event"] == "DownloadProgressed" for event in events)
    station.process.kill()
    station.process.wait()
    return first


def _assert_failed(switching: subprocess.Popen[str], first: dict[str, Any]) -> None:
    """The last line is the terminal event, of the same activation and at the stage it had come to."""
    out, err = switching.communicate(timeout=60)
    last = json.loads(out.splitlines()[-1])
    assert (switching.returncode, err) == (1, "")
    assert (last["event"], last["stage"], last["model"]) == ("ActivationFailed", "download", "colours")
    assert last["activation"] == first["activation"]
    assert last["seq"] > first["seq"]
    assert last["error"]["code"] == "station-unreachable"


def test_a_station_that_is_killed_ends_the_switch_with_a_terminal_event(premises: Premises) -> None:
    """As JSON, since programs wait for it."""
    with (
        serving(premises) as station,
        started(premises, "switch", "colours", "--upgrade", "--json") as switching,
    ):
        _assert_failed(switching, _killed_in_download(station, switching))


def test_a_station_that_is_restarted_at_once_does_so_too(premises: Premises) -> None:
    """The new one at the same address knows nothing of the switch, and its events are not waited for."""
    with serving(premises) as station:
        port = station.address.rsplit(":", 1)[1]
        with started(premises, "switch", "colours", "--upgrade", "--json") as switching:
            first = _killed_in_download(station, switching)
            with started(premises, "serve", "--port", port) as again:
                assert again.stdout is not None
                assert again.stdout.readline().strip().endswith(port)
                _assert_failed(switching, first)
