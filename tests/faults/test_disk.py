"""A disk that is full, broken or read-only at any instant: told as what it is, and survived."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moondream_station.core.facts.events import Stage
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.checkpoints import Point
from support.checkpoints import CHECKPOINTS, stopped_at
from support.commands import run, serving, switch
from support.small_disk import full, need_mounts, read_only, small_disk
from support.stations import Premises, open_premises
from support.survival import Survival

pytestmark = [pytest.mark.faults, pytest.mark.own_process]

_SWITCH = ("switch", "colours", "--upgrade", "--json")
_SIZE = 3_000_000
_DISK_BYTES = 160 << 20
_numbers = itertools.count(10)


@pytest.fixture(scope="module")
def confined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """Premises with the active model `colours`, on a disk of their own of 160 MB."""
    folder = tmp_path_factory.mktemp("confined") / "disk"
    need_mounts(folder)
    with small_disk(folder, _DISK_BYTES), open_premises(folder) as premises:
        premises.add_model("colours")
        assert switch(premises, "colours")[-1]["event"] == "ActivationSucceeded"
        yield premises


def last_of(printed: str) -> dict[str, Any]:
    """The last event of a switch."""
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def check_told(survival: Survival, code: int, printed: str, *error_codes: str) -> None:
    """It failed with one of these codes and left the pointer, or it had nothing left to write."""
    last = last_of(printed)
    if code == 0:
        assert last["event"] == "ActivationSucceeded"
        return
    assert (code, last["event"]) == (1, "ActivationFailed"), printed
    assert last["error"]["code"] in error_codes, last
    assert last["error"]["hint"]
    assert read_active(survival.premises.home) == survival.before


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_no_space_from_a_checkpoint_on(confined: Premises, name: str) -> None:
    """`no-space` with a remedy; with room again the next switch succeeds."""
    confined.index.add_torch(f"2.9.{next(_numbers)}", "cpu", filler_bytes=_SIZE)
    survival = Survival.of(confined)
    with (
        stopped_at(name, confined, "switch", "colours", "--upgrade", "--json") as stopped,
        full(confined.folder),
    ):
        stopped.go_on()
        code, printed = stopped.end()
    check_told(survival, code, printed, "no-space")
    if name in {Stage.DOWNLOAD, Stage.BUILD, Stage.COMMIT, Point.SYNCED}:
        assert code == 1
    survival.check(fetched_again_at_most=2 * _SIZE)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_read_only_from_a_checkpoint_on(confined: Premises, name: str) -> None:
    """What it would write to is named; when it can be written again, the next switch succeeds."""
    confined.index.add_torch(f"2.9.{next(_numbers)}", "cpu", filler_bytes=_SIZE)
    survival = Survival.of(confined)
    home = confined.home
    folders = (home.environments, home.downloads, home.cache, home.backends)
    with (
        stopped_at(name, confined, "switch", "colours", "--upgrade", "--json") as stopped,
        read_only(*folders),
    ):
        stopped.go_on()
        code, printed = stopped.end()
    check_told(survival, code, printed, "home-unusable")
    survival.check(fetched_again_at_most=2 * _SIZE)


@pytest.mark.parametrize("words", ["switch colours", "serve --port 0", "prune", "remove colours"])
def test_a_home_that_is_read_only(confined: Premises, words: str) -> None:
    """Every command that writes says so and how to go on; looking at it works."""
    with read_only(confined.home.root):
        done = run(confined, *words.split(), "--json")
        assert done.returncode == 1
        assert (last_of(done.stdout)["error"]["code"]) == "home-unusable"
        assert run(confined, "status").returncode == 0
        assert run(confined, "models").returncode == 0


@pytest.mark.parametrize("stage", [Stage.SELECT, Stage.LOCK, Stage.DOWNLOAD, Stage.BUILD])
def test_the_cache_is_emptied_by_somebody(confined: Premises, stage: Stage) -> None:
    """What can be had again is had again: the switch succeeds."""
    confined.index.add_torch(f"2.9.{next(_numbers)}", "cpu", filler_bytes=_SIZE)
    survival = Survival.of(confined)
    with stopped_at(stage, confined, *_SWITCH) as stopped:
        for path in confined.home.cache.iterdir():
            shutil.rmtree(path)
        stopped.go_on()
        code, printed = stopped.end()
    assert code == 0, printed
    survival.check(fetched_again_at_most=0)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Premises]:
    """Premises with the active model `colours`, on a disk on which not one byte is free."""
    folder = tmp_path / "disk"
    need_mounts(folder)
    with small_disk(folder, _DISK_BYTES), open_premises(folder) as premises:
        for model in ("others", "colours"):
            premises.add_model(model)
            assert switch(premises, model)[-1]["event"] == "ActivationSucceeded"
        with full(folder):
            yield premises


@pytest.mark.parametrize(
    "words",
    [
        *("prune", "prune --dry-run", "remove others", "remove colours", "status", "models"),
        *("doctor --fix --offline",),
    ],
)
def test_a_disk_without_a_free_byte(filled: Premises, words: str) -> None:
    """The commands that `no-space` names free space there."""
    done = run(filled, *words.split(), "--json")
    assert "no-space" not in done.stdout
    assert "a bug in Moondream Station" not in done.stdout + done.stderr
    assert "The repair failed" not in done.stdout
    assert done.returncode == 0 or words.startswith("doctor"), done.stdout
    if words.startswith("remove"):
        assert words.split()[1] not in read_active(filled.home).models


def test_a_model_is_served_without_a_free_byte(filled: Premises) -> None:
    """It is intact, and to answer takes no space; other commands find the station."""
    with serving(filled) as station:
        assert station.get("/v1/models")
        assert station.post("/v1/caption", {})
        assert "serving" in run(filled, "status").stdout
