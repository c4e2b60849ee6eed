"""What the tests of faults share: premises that every test leaves whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.commands import switch
from support.stations import Premises, open_premises


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """Premises with the active model `colours`."""
    with open_premises(tmp_path_factory.mktemp("lasting")) as premises:
        premises.add_model("colours")
        assert switch(premises, "colours")[-1]["event"] == "ActivationSucceeded"
        yield premises
