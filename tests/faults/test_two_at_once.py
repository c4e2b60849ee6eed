"""Two commands on one home: one is killed, or all begin at the same instant."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

import pytest

from moondream_station.core.facts.events import Stage
from support.checkpoints import stopped_at
from support.commands import events_of, started
from support.posix import SIGKILL
from support.stations import Premises
from support.survival import Survival

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("stage", list(Stage)[1:])
def test_the_first_is_killed_while_the_second_waits(lasting: Premises, stage: Stage) -> None:
    """A dead holder's lock is free: the second goes on at once, and succeeds."""
    survival = Survival.of(lasting)
    with (
        stopped_at(stage, lasting, "switch", "colours", "--upgrade") as first,
        started(lasting, "switch", "colours", "--upgrade", "--json") as second,
    ):
        events = events_of(second)
        waiting = next(event for event in events if event["event"] == "ActivationWaiting")
        assert waiting["holder_pid"] == first.process.pid
        first.process.kill()
        first.process.wait()
        assert list(events)[-1]["event"] == "ActivationSucceeded"
        assert second.wait(timeout=60) == 0
    survival.check(fetched_again_at_most=0)


@pytest.mark.parametrize("number", [SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_second_is_ended_while_it_waits(lasting: Premises, number: signal.Signals) -> None:
    """The first notices nothing."""
    survival = Survival.of(lasting)
    with (
        stopped_at(Stage.BUILD, lasting, "switch", "colours", "--upgrade") as first,
        started(lasting, "switch", "colours", "--upgrade", "--json") as second,
    ):
        next(event for event in events_of(second) if event["event"] == "ActivationWaiting")
        os.kill(second.pid, number)
        second.communicate(timeout=30)
        assert second.returncode == (130 if number != SIGKILL else -SIGKILL)
        first.go_on()
        code, _ = first.end()
        assert code == 0
    survival.check(fetched_again_at_most=0)


def test_four_at_the_same_instant(lasting: Premises) -> None:
    """All of them succeed, one after the other."""
    with ExitStack() as stack:
        commands = [
            stack.enter_context(started(lasting, "switch", "colours", "--upgrade", "--json"))
            for _ in range(4)
        ]
        for process in commands:
            process.communicate(timeout=120)
            assert process.returncode == 0
    lasting.check_tidy()
