"""A switch that is ended at each checkpoint, by each signal: what was active works, the next one succeeds."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time

import pytest

from moondream_station.core.facts.events import Stage
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.checkpoints import Point
from support.checkpoints import CHECKPOINTS, stopped_at
from support.commands import started
from support.index_traffic import Fault
from support.posix import SIGKILL
from support.stations import Premises
from support.survival import Survival, descendants

_SIZE = 3_000_000
_HELD_BACK = 1 << 20
"""So much of a file may wait for the disk, and so come again."""

_numbers = itertools.count(10)


def offer_another_torch(premises: Premises) -> str:
    """Put a newer torch on the index, so that a switch has something to fetch; gives its version."""
    version = f"2.9.{next(_numbers)}"
    premises.index.add_torch(version, "cpu", filler_bytes=_SIZE)
    return version


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_killed_at_a_checkpoint(lasting: Premises, name: str) -> None:
    """SIGKILL: no process survives it, what was active answers, the next switch succeeds and is tidy."""
    offer_another_torch(lasting)
    survival = Survival.of(lasting)
    with stopped_at(name, lasting, "switch", "colours", "--upgrade") as stopped:
        stopped.process.kill()
        stopped.process.wait()
        is_fetched = name in {*list(Stage)[5:], *Point}
        survival.check(fetched_again_at_most=0 if is_fetched else 2 * _SIZE)
    if name == Point.NAMED:
        assert read_active(lasting.home) != survival.before


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_cancelled_at_a_checkpoint(lasting: Premises, name: str, number: signal.Signals) -> None:
    """The terminal fact comes last, cancelled or too late; exit code and pointer agree with it."""
    offer_another_torch(lasting)
    survival = Survival.of(lasting)
    with stopped_at(name, lasting, "switch", "colours", "--upgrade", "--json") as stopped:
        os.kill(stopped.process.pid, number)
        stopped.go_on()
        code, printed = stopped.end()
    last = json.loads(printed.splitlines()[-1])
    is_named = read_active(lasting.home) != survival.before
    assert (code, last["event"]) == (
        (0, "ActivationSucceeded") if is_named else (130, "ActivationCancelled")
    ), printed
    assert not (is_named and name in list(Stage)[:8])
    survival.check(fetched_again_at_most=2 * _SIZE)


def test_killed_in_the_middle_of_a_file(lasting: Premises) -> None:
    """The next switch asks for the rest alone."""
    version = offer_another_torch(lasting)
    match = f"/whl/cpu/torch-{version}*.whl"
    lasting.index.faults.append(Fault(match=match, hang_after_bytes=2 * _HELD_BACK + 1000))
    survival = Survival.of(lasting)
    with started(lasting, "switch", "colours", "--upgrade") as process:
        (wheel,) = (
            wheel for wheel in lasting.index.wheels() if wheel.filename.startswith(f"torch-{version}")
        )
        lasting.index.wait_for(wheel.filename, bytes_sent=2 * _HELD_BACK + 1000)
        (part,) = lasting.home.downloads.glob("*.partial")
        while part.stat().st_size < _HELD_BACK:
            time.sleep(0.01)
        process.kill()
        process.wait()
    survival.check(fetched_again_at_most=len(wheel.data) - part.stat().st_size)


@pytest.mark.faults
@pytest.mark.parametrize("number", [SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stage", [Stage.LOCK, Stage.BUILD, Stage.START, Stage.VERIFY])
def test_what_the_station_started_is_ended_instead(
    lasting: Premises, stage: Stage, number: signal.Signals
) -> None:
    """uv, its guard or the worker dies: the switch ends by itself, either way, and nothing is half done."""
    offer_another_torch(lasting)
    survival = Survival.of(lasting)
    with started(lasting, "switch", "colours", "--upgrade", "--json") as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "StageStarted" and event["stage"] == stage:
                break
        while process.poll() is None and not (found := descendants(process.pid)):
            time.sleep(0.002)
        for child in found:
            if child.is_running():
                child.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode in {0, 1}
    survival.check(fetched_again_at_most=2 * _SIZE)
