"""What tests of the commands share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.stations import Premises, activate, open_premises


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    """A home, a manifest with the model `colours`, and an index of its own."""
    with open_premises(tmp_path) as premises:
        premises.add_model("colours")
        yield premises


@pytest.fixture
def installed(premises: Premises) -> Premises:
    """The same, with `colours` active."""
    activate(premises, "colours")
    return premises
