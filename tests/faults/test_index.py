"""A package index that misbehaves in every way, met by the real command: what is told, and what is kept."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.commands import run, switch
from support.index_traffic import Fault
from support.stations import Premises
from support.survival import Survival, wheel_bytes
from support.wheels import Wheel

_SIZE = 3_000_000
_numbers = itertools.count(10)
_HASTY = {"PIP_DEFAULT_TIMEOUT": "1", "PIP_RETRIES": "1"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault of the index while a wheel is fetched, and what comes of it.

    Args:
        name: Its name.
        fault: The fields of the fault.
        code: The error's code, None where the switch succeeds all the same.
        told: Words of the error's message.
        again: How many bytes the whole may take, as a multiple of the wheel; with an error: the next switch.
    """

    name: str
    fault: dict[str, Any] = field(default_factory=dict)
    code: str | None = None
    told: str = ""
    again: float = 1.0


CASES = [
    # A reset takes with it what the system had not handed over yet.
    Case(name="reset", fault={"reset_after_bytes": 1_500_000, "times": 2}, again=2.0),
    Case(name="reset-for-ever", fault={"reset_after_bytes": 0}, code="download-failed", told="2 attempts"),
    Case(name="closed", fault={"close_after_bytes": 1_500_000, "times": 1}, again=1.1),
    Case(name="hang", fault={"hang_after_bytes": 1_500_000, "times": 1}, again=1.1),
    Case(
        name="hang-for-ever", fault={"hang_after_bytes": 0}, code="download-failed", told="nothing for 1 sec"
    ),
    Case(name="trickle", fault={"bytes_per_second": 1_000_000}),
    Case(name="corrupt-once", fault={"corrupt_byte": 1_000_000, "times": 1}, again=2.0),
    Case(name="corrupt", fault={"corrupt_byte": 1_000_000}, code="hash-mismatch", told="second download"),
    Case(name="403", fault={"status": 403}, code="download-failed", told="403"),
    Case(name="404", fault={"status": 404}, code="download-failed", told="404"),
    Case(name="503-once", fault={"status": 503, "times": 1}),
    Case(name="503", fault={"status": 503}, code="download-failed", told="503"),
    Case(
        name="no-range", fault={"ignore_range": True, "close_after_bytes": 1_500_000, "times": 1}, again=1.6
    ),
    Case(name="wrong-size", fault={"size_delta": 1}, code="hash-mismatch", told="bytes instead of"),
]


def offered(premises: Premises) -> Wheel:
    """A newer torch on the index."""
    return premises.index.add_torch(f"2.9.{next(_numbers)}", "cpu", filler_bytes=_SIZE)


@pytest.mark.faults
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_while_a_wheel_is_fetched(lasting: Premises, case: Case) -> None:
    """It is borne, or told with its cause and remedy; good bytes are kept, and the old model answers."""
    wheel = offered(lasting)
    lasting.index.faults.append(Fault(match=f"*/{wheel.filename}", **case.fault))
    survival = Survival.of(lasting)
    lasting.index.clear_requests()
    lasting.variables.update(_HASTY)
    *events, last = switch(lasting, "colours", "--upgrade")
    if case.code is None:
        assert last["event"] == "ActivationSucceeded"
        assert wheel_bytes(lasting.index.requests) <= case.again * len(wheel.data) + (1 << 17)
        check_progress(events)
    else:
        assert (last["event"], last["stage"]) == ("ActivationFailed", "download"), last
        assert last["error"]["code"] == case.code
        assert case.told in last["error"]["message"]
        assert last["error"]["hint"]
    survival.check(fetched_again_at_most=len(wheel.data) + (1 << 17))


def check_progress(events: list[dict[str, Any]]) -> None:
    """What is received of a file never shrinks, unless the fact says that nothing of it counts any more."""
    received: dict[str, int] = {}
    for event in events:
        if event["event"] == "DownloadProgressed":
            before, now = received.get(event["file"], 0), event["received_bytes"]
            assert now >= before or (now, event["resumed_from"]) == (0, 0), event
            assert event["overall_total_bytes"] is not None
            received[event["file"]] = now


@pytest.mark.faults
def test_a_file_that_changed_between_two_runs(lasting: Premises) -> None:
    """The part of the old one is not mixed with the new one, which is not the lock's."""
    wheel = offered(lasting)
    lasting.index.faults.append(Fault(match=f"*/{wheel.filename}", close_after_bytes=1_500_000))
    lasting.variables.update(_HASTY)
    survival = Survival.of(lasting)
    lasting.index.replace(wheel.filename, wheel.data[::-1])
    failed = switch(lasting, "colours", "--upgrade")[-1]
    assert failed["event"] == "ActivationFailed"
    lasting.index.replace(wheel.filename, wheel.data)
    survival.check(fetched_again_at_most=len(wheel.data) + (1 << 17))


_WHERE: dict[str, dict[str, str]] = {
    "refused": {
        "MOONDREAM_STATION_TORCH_INDEX": "http://127.0.0.1:9/whl",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    },
    "no such name": {
        "MOONDREAM_STATION_TORCH_INDEX": "http://index.invalid/whl",
        "PIP_INDEX_URL": "http://index.invalid/simple",
    },
    "proxy": {"PIP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""},
}
_SAID = {
    "refused": "the connection is refused",
    "no such name": "its name can't be resolved",
    "proxy": "proxy",
}


@pytest.mark.faults
@pytest.mark.parametrize("name", _WHERE)
def test_nobody_to_ask(lasting: Premises, name: str) -> None:
    """Each way of not being there is told apart, with every place that was tried, and what to do."""
    lasting.variables.update(_HASTY)
    done = run(lasting, "switch", "colours", "--upgrade", **_WHERE[name])
    assert done.returncode == 1
    assert "[index-unreachable, at select]" in done.stderr
    assert _SAID[name] in done.stderr
    assert "hint: Check the network" in done.stderr
