"""The builds of one activation: the current one, those that turned out not to work, and the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from moondream_station.core.builds.offers import offer_from_wheel
from moondream_station.core.environments.store import Committed
from moondream_station.core.facts.errors import IndexUnreachable, NoBuild, ResolutionConflict, StationError
from moondream_station.core.facts.events import BuildSelected, Degraded
from moondream_station.core.facts.selection import Candidate, Selection, Verdict
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.home.storage import read_file
from moondream_station.core.index.offers import CollectedOffers
from moondream_station.core.resolve.pylock import read_stored_pylock
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import Ranked, SelectionResult, select
from moondream_station.core.selection.sentences import origin_of

CPU = "cpu"
_LOCK_TRIES = 3
T = TypeVar("T")


class Candidates:
    """A selection that can lose candidates. A strategy that names a build has only that one."""

    def __init__(
        self,
        result: SelectionResult,
        collected: CollectedOffers | None = None,
        *,
        lock: Lock | None = None,
        degraded: Degraded | None = None,
    ) -> None:
        self.selection: Selection = result.selection
        self.collected = collected
        self.lock = lock
        """What the only candidate was locked to before, for an environment that is made again."""
        self._degraded = degraded
        self._remaining = list(result.order)
        self._preferred = self._remaining[0].build if self._remaining else None
        self._reason = ""
        self._has_fallen_back = False
        if self.selection.strategy not in {"auto", "guide"}:
            del self._remaining[1:]

    @property
    def current(self) -> Ranked | None:
        """The candidate that is tried now, None where there is none."""
        return self._remaining[0] if self._remaining else None

    @property
    def degraded(self) -> Degraded | None:
        """What this machine should have had, where the CPU build takes the place of an accelerator's."""
        current = self.current
        if current is None or self._preferred is None or current.build != CPU or self._preferred == CPU:
            return self._degraded
        return Degraded(wanted=self._preferred, reason=self._reason)

    def fact(self) -> BuildSelected:
        """The choice as it stands."""
        current = self.current
        offer = current.offer if current else None
        return BuildSelected(
            build=current.build if current else None,
            torch=current.torch if current else None,
            index_url=offer.index_url if offer else None,
            source=offer.source if offer else None,
            reason=self.selection.reason,
            candidates=self.selection.candidates,
        )

    def settle_for(self, torch: str) -> bool:
        """Take another torch of the current build, named with its local part; gives whether it is another."""
        current = self.current
        others = current.others if current else ()
        chosen = next((offer for offer in others if str(offer.full_version) == torch), None)
        if current is None or chosen is None:
            return False
        reason = f"torch {chosen.torch} is used, because the requirements exclude torch {current.torch}."
        reason += origin_of(chosen)
        self._remaining[0] = replace(current, torch=chosen.torch, offer=chosen, others=())
        self.selection = replace(
            self.selection,
            torch=chosen.torch,
            reason=reason,
            candidates=tuple(
                replace(candidate, torch=chosen.torch, reason=reason)
                if candidate.build == current.build
                else candidate
                for candidate in self.selection.candidates
            ),
        )
        return True

    async def first_that_locks(
        self, lock: Callable[[], Awaitable[T]], rejected: Callable[[str, str], object] = lambda *_: None
    ) -> T:
        """Lock; a current candidate that does not resolve gives way to the next, three at most.

        `rejected` is called with its build and the reason, once the next one is the current.
        """
        for tries_left in reversed(range(_LOCK_TRIES)):
            current = self.current
            try:
                return await lock()
            except ResolutionConflict as conflict:
                if not tries_left or current is None or self.reject(conflict.message) is None:
                    raise
                rejected(current.build, conflict.message)
        raise AssertionError("the last attempt returns or raises")

    def reject(self, reason: str) -> Ranked | None:
        """Reject the current candidate because it can't be installed; gives the next one, if there is one."""
        return self._move_on(reason, self._remaining[1:])

    def fall_back(self, build: str, reason: str) -> Ranked | None:
        """Leave a build on which torch does not compute; gives what is tried instead, None where nothing is.

        One other accelerator build is tried, then the CPU's: what two builds can't do on a device, no third
        will, and each is some gigabytes. Where the build is not the current one, that one has its try.
        """
        if self.current is None or self.current.build != build:
            return self.current
        rest = self._remaining[1:]
        accelerated = [] if self._has_fallen_back else [ranked for ranked in rest if ranked.build != CPU][:1]
        self._has_fallen_back = True
        return self._move_on(reason, [*accelerated, *(ranked for ranked in rest if ranked.build == CPU)])

    def _move_on(self, reason: str, remaining: list[Ranked]) -> Ranked | None:
        rejected = self._remaining[0].build
        self._remaining = remaining
        self._reason = reason
        following = self.current
        sentence = reason
        if following:
            sentence = f"{following.build} is used because {rejected} does not work: {reason}"
            sentence += origin_of(following.offer)
        self.selection = replace(
            self.selection,
            build=following.build if following else None,
            torch=following.torch if following else None,
            reason=sentence,
            candidates=tuple(
                _after(candidate, rejected, following, reason) for candidate in self.selection.candidates
            ),
        )
        return following


def _after(candidate: Candidate, rejected: str, following: Ranked | None, reason: str) -> Candidate:
    if candidate.build == rejected:
        return replace(candidate, torch=None, verdict=Verdict.REJECTED, reason=reason)
    if following and candidate.build == following.build:
        return replace(candidate, verdict=Verdict.CHOSEN)
    return candidate


def select_again(request: BuildRequest, committed: Committed) -> SelectionResult:
    """What an environment was made for, chosen again from its own wheel of torch alone: drivers change."""
    record = committed.record
    if record.build is None:
        return select(request, [])
    lock = read_stored_pylock(read_file(committed.place.pylock).decode())
    wheel = next(file for file in lock.files if file.name == "torch")
    offer = offer_from_wheel(
        wheel.filename,
        catalog=request.catalog,
        source=record.source or "default",
        index_url=record.index_url,
        url=wheel.url,
    )
    assert offer is not None  # noqa: S101  it was one when the environment was made
    return select(request, [offer])


def no_build(selection: Selection, collected: CollectedOffers) -> StationError:
    """Why there is no build: because the machine can run none, or because no index answered.

    Where some places answered and another did not, that one may have what is missing: it is named too.
    """
    silent = [report.sentence for report in collected.tried if report.outcome == "failed"]
    if not silent:
        return NoBuild(selection.reason, hint="`moondream-station plan` shows every build and its reason.")
    if collected.offers:
        return NoBuild(
            f"{selection.reason} There may be more builds, because not every index answered:"
            f" {' '.join(silent)}",
            hint="Check the network, the proxy and that address, then run the command again."
            " `moondream-station plan` shows every build and its reason.",
        )
    tried = " ".join(report.sentence for report in collected.tried)
    return IndexUnreachable(
        f"No PyTorch build is available. Tried: {tried}",
        hint="Check the network and the proxy, or name a mirror with MOONDREAM_STATION_TORCH_INDEX, or a"
        " folder of wheels with PIP_FIND_LINKS.",
    )
