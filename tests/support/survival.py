"""What must be true after anything that was done to a home: nothing stray, nothing half, all of it works."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import psutil

from moondream_station.core.activation.housekeeping import Pruning, prune
from moondream_station.core.environments.store import place_of
from moondream_station.core.home.active_file import ActiveRecord, read_active
from moondream_station.core.resolve.pylock import read_stored_pylock
from support.index_traffic import Request
from support.stations import Premises, caption, processes_naming, switched

_GONE_LOOKS = 200


def gone(folder: Path) -> bool:
    """Whether every process that names a folder has gone; the guard takes a moment to notice a death."""
    for _ in range(_GONE_LOOKS):
        if not processes_naming(folder):
            return True
        time.sleep(0.05)
    return False


@dataclass(frozen=True)
class Survival:
    """A home with the active model `colours`, before something is done to it.

    Args:
        premises: Where it is.
        before: What was active.
    """

    premises: Premises
    before: ActiveRecord

    @classmethod
    def of(cls, premises: Premises) -> Survival:
        """Remember what is active now."""
        return cls(premises, read_active(premises.home))

    def check(self, *, fetched_again_at_most: int | None = None) -> None:
        """Look at everything that must be true afterwards, and leave the home tidy.

        Args:
            fetched_again_at_most: How many bytes of wheels the next switch may fetch.
        """
        premises = self.premises
        assert gone(premises.folder), processes_naming(premises.folder)
        self.check_active()
        premises.index.faults.clear()
        premises.index.clear_requests()
        anyio.run(self._check_works)
        if fetched_again_at_most is not None:
            assert wheel_bytes(premises.index.requests) <= fetched_again_at_most
        premises.check_tidy()
        check_pruned(premises)

    async def _check_works(self) -> None:
        """The next station serves what is active, and the next switch succeeds."""
        async with self.premises.station(serves=True) as station:
            await station.start_active()
            assert await caption(station) == "a small caption"
            await switched(station, "colours", upgrade=True)

    def check_active(self) -> None:
        """The pointer is as it was, or at an environment that is committed; never anything between."""
        now = read_active(self.premises.home)
        if now != self.before:
            assert now.models["colours"].previous == self.before.models["colours"].environment
            assert now.models["colours"].environment in self.premises.environments()


def wheel_bytes(requests: tuple[Request, ...]) -> int:
    """How many bytes of wheels a server has sent."""
    return sum(request.bytes_sent for request in requests if request.path.endswith(".whl"))


def check_pruned(premises: Premises) -> None:
    """After `prune` nothing is there that nothing refers to."""
    home = premises.home
    anyio.run(partial(prune, home, pruning=Pruning(), dry_run=False, on_wait=lambda _: None))
    named = read_active(home).environments
    assert {path.name for path in home.environments.iterdir()} == named
    locks = [read_stored_pylock(place_of(home, name).pylock.read_text(encoding="utf-8")) for name in named]
    wheels = {file.stored_name for lock in locks for file in lock.files}
    assert {path.name.removesuffix(".json") for path in home.downloads.iterdir()} <= wheels
    assert list(home.cache.iterdir()) == []
    assert [path.name for path in home.root.iterdir() if path.name.endswith(".tmp")] == []


def descendants(pid: int) -> list[psutil.Process]:
    """Every process that a process has started, directly or not."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
