"""`prune` of much: what it says meanwhile, and how it is cancelled."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import run, run_json, started, wait_until
from support.stations import Premises, open_premises

_FILES = 40_000


@pytest.fixture
def littered(tmp_path: Path) -> Iterator[Premises]:
    """A home with two environments that nothing refers to, the second with many files."""
    with open_premises(tmp_path) as premises:
        premises.home.create()
        environments = premises.home.environments
        (environments / "00000000-0000").mkdir()
        (environments / "00000000-0000" / "file").write_bytes(bytes(1000))
        for folder in range(_FILES // 1000):
            (environments / "11111111-1111" / str(folder)).mkdir(parents=True)
            for file in range(1000):
                (environments / "11111111-1111" / str(folder) / str(file)).touch()
        yield premises


def test_what_is_being_removed_is_said(littered: Premises) -> None:
    """On stderr, before it begins; a list of what is gone follows on stdout."""
    done = run(littered, "prune")
    assert done.returncode == 0
    assert "Removing 2 items, 1.0 kB" in done.stderr
    assert "Freed 1.0 kB." in done.stdout
    assert "Removing" not in run(littered, "prune", "--dry-run").stderr


def test_it_ends_soon_when_it_is_cancelled_and_says_what_is_gone(littered: Premises) -> None:
    """In the middle of an environment, which the next run removes to its end; what is whole stays so."""
    environments = littered.home.environments
    with started(littered, "prune", "--json") as pruning:
        wait_until(lambda: not (environments / "00000000-0000").exists())
        pruning.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, _ = pruning.communicate(timeout=60)
        assert time.monotonic() - began < 2
    assert pruning.returncode == 130
    removed = json.loads(out)["removed"]
    assert [entry["path"] for entry in removed] == ["environments/00000000-0000"]
    assert any(environments.iterdir())
    run_json(littered, "prune")
    assert list(environments.iterdir()) == []
