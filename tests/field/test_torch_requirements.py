"""Requirements as people have them, from the reports of other projects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import run_json
from support.stations import Premises, activate, open_premises

HERE = Path(__file__).parent


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    """A folder, a home that does not exist yet, and an index of the usual wheels."""
    with open_premises(tmp_path) as premises:
        yield premises


@pytest.mark.parametrize("file", ["one-companion.txt", "companion-plain.txt"])
def test_a_companion_may_be_named_with_its_build(premises: Premises, file: str) -> None:
    """Companions' specifiers are held against their full version, with and without the local part: cu124."""
    case = HERE / "companion-local-version"
    shown = run_json(premises, "plan", "--machine", str(case / "machine.json"), "-r", str(case / file))
    assert (shown["build"], shown["torch"]) == ("cu124", "2.6.0")


def test_a_companion_that_names_its_build_is_installed(premises: Premises) -> None:
    """A switch takes the wheel that the index lists under that very version, though torch names no build."""
    premises.add_model("colours", requirements="torch==2.9.0\ntorchvision==0.24.0+cpu\n")
    assert activate(premises, "colours").build == "cpu"
