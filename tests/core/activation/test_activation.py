"""One attempt: it ends once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from moondream_station.core.activation.activation import Activation, ActivationRequest
from moondream_station.core.bus.bus import Bus
from moondream_station.core.bus.journal import Journal, read_activation
from moondream_station.core.facts.errors import StationError
from moondream_station.core.facts.events import ActivationFailed
from moondream_station.core.facts.state import StationState
from moondream_station.core.home.layout import Home

pytestmark = pytest.mark.anyio


REQUEST = ActivationRequest(id="20261129T080000000000Z-abcdef", model="colours", strategy="auto")


def begun(folder: Path, request: ActivationRequest = REQUEST) -> tuple[Activation, Home]:
    """An activation with a journal in a home of its own."""
    home = Home(root=folder)
    home.create()
    journal = Journal(home)
    return Activation(request, bus=Bus(state=StationState(), journal=journal), journal=journal), home


async def test_a_request_joins_one_that_is_allowed_as_much(tmp_path: Path) -> None:
    """What goes on regardless does also what is asked for without that; not the other way round."""
    careful, _ = begun(tmp_path / "careful")
    daring, _ = begun(tmp_path / "daring", replace(REQUEST, anyway=True, accept_notice=True))
    another = replace(REQUEST, id="another")
    for request in (replace(another, anyway=True), replace(another, accept_notice=True)):
        assert not careful.is_for(request)
        assert daring.is_for(request)
    assert daring.is_for(another)
    assert not daring.is_for(replace(another, upgrade=True))


async def test_it_ends_once(tmp_path: Path) -> None:
    """A second end is refused: neither the outcome nor the journal knows of it."""
    activation, home = begun(tmp_path)
    activation.fail(StationError("The first."))
    activation.fail(StationError("The second."))
    activation.end_cancelled()
    (event,) = read_activation(home, activation.id)
    assert activation.outcome == event
    assert isinstance(event.fact, ActivationFailed)
    assert event.fact.error.message == "The first."
