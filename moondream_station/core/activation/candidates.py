"""The builds of one activation: which one it is at, which have turned out not to work, which comes next."""

from __future__ import annotations

from dataclasses import replace

from moondream_station.core.facts.events import BuildSelected, Degraded
from moondream_station.core.facts.selection import Candidate, Selection, Verdict
from moondream_station.core.selection.select import Ranked, SelectionResult

CPU = "cpu"


class Choosing:
    """A selection that can lose candidates. A strategy that names a build has only that one."""

    def __init__(self, result: SelectionResult) -> None:
        self.selection: Selection = result.selection
        self._left = list(result.order)
        self._wanted = self._left[0].build if self._left else None
        self._reason = ""
        self._has_fallen_back = False
        if self.selection.strategy not in {"auto", "guide"}:
            del self._left[1:]

    @property
    def current(self) -> Ranked | None:
        """The candidate it is at, None where there is none."""
        return self._left[0] if self._left else None

    @property
    def degraded(self) -> Degraded | None:
        """What this machine should have had, where it is at the processor instead of an accelerator."""
        current = self.current
        if current is None or self._wanted is None or current.build != CPU or self._wanted == CPU:
            return None
        return Degraded(wanted=self._wanted, reason=self._reason)

    def fact(self) -> BuildSelected:
        """The choice as it stands."""
        current = self.current
        offer = current.offer if current else None
        return BuildSelected(
            build=current.build if current else None,
            torch=current.torch if current else None,
            index_url=offer.index_url if offer and offer.source == "index" else None,
            source=offer.source if offer else None,
            reason=self.selection.reason,
            candidates=self.selection.candidates,
        )

    def settle_for(self, torch: str) -> bool:
        """Go on with another torch of the current build, because the first one does not resolve.

        Args:
            torch: Its version, with the local part.

        Returns:
            Whether it is another one.
        """
        current = self.current
        chosen = (
            next((one for one in current.others if str(one.full_version) == torch), None) if current else None
        )
        if current is None or chosen is None:
            return False
        reason = (
            f"torch {chosen.torch} is used, because the requirements don't go with torch {current.torch}."
        )
        self._left[0] = replace(current, torch=chosen.torch, offer=chosen, others=())
        self.selection = replace(
            self.selection,
            torch=chosen.torch,
            reason=reason,
            candidates=tuple(
                replace(one, torch=chosen.torch, reason=reason) if one.build == current.build else one
                for one in self.selection.candidates
            ),
        )
        return True

    def reject(self, reason: str) -> Ranked | None:
        """Reject the current candidate because it can't be installed, and go on to the next one.

        Returns:
            The next candidate, None where none is left.
        """
        return self._go_on(reason, self._left[1:])

    def fall_back(self, reason: str) -> Ranked | None:
        """Reject the current candidate because torch does not compute on it, and go on.

        One other accelerator build is tried, then the processor: what two builds of it can't do on a device,
        no third will.

        Returns:
            The next candidate, None where none is left.
        """
        rest = self._left[1:]
        accelerated = [] if self._has_fallen_back else [ranked for ranked in rest if ranked.build != CPU][:1]
        self._has_fallen_back = True
        return self._go_on(reason, [*accelerated, *(ranked for ranked in rest if ranked.build == CPU)])

    def _go_on(self, reason: str, left: list[Ranked]) -> Ranked | None:
        rejected = self._left[0].build
        self._left = left
        self._reason = reason
        following = self.current
        sentence = (
            f"{following.build} is used because {rejected} does not work: {reason}" if following else reason
        )
        self.selection = replace(
            self.selection,
            build=following.build if following else None,
            torch=following.torch if following else None,
            reason=sentence,
            candidates=tuple(
                self._after(candidate, rejected, following, reason) for candidate in self.selection.candidates
            ),
        )
        return following

    def _after(self, candidate: Candidate, rejected: str, following: Ranked | None, reason: str) -> Candidate:
        if candidate.build == rejected:
            return replace(candidate, torch=None, verdict=Verdict.REJECTED, reason=reason)
        if following and candidate.build == following.build:
            return replace(candidate, verdict=Verdict.CHOSEN)
        return candidate
