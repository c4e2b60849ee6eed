"""One attempt: it ends once."""

from __future__ import annotations

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


async def test_it_ends_once(tmp_path: Path) -> None:
    """A second end is refused: neither the outcome nor the journal knows of it."""
    home = Home(root=tmp_path)
    home.create()
    journal = Journal(home)
    activation = Activation(
        ActivationRequest(id="20261129T080000000000Z-abcdef", model="colours", strategy="auto"),
        bus=Bus(state=StationState(), journal=journal),
        journal=journal,
    )
    activation.fail(StationError("The first."))
    activation.fail(StationError("The second."))
    activation.end_cancelled()
    (event,) = read_activation(home, activation.id)
    assert activation.outcome == event
    assert isinstance(event.fact, ActivationFailed)
    assert event.fact.error.message == "The first."
