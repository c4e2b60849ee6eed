"""Which environment an activation gets: one that was made for the same, or a new one of the best build."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import anyio

from moondream_station.core.activation.activation import Activation
from moondream_station.core.activation.candidates import Choosing
from moondream_station.core.activation.prepare import Prepared
from moondream_station.core.activation.workshop import Installed, Making, Tools
from moondream_station.core.builds.offers import Offer, offer_from_wheel
from moondream_station.core.environments.store import Committed, find_reusable
from moondream_station.core.facts.errors import IndexUnreachable, NoBuild, ResolutionConflict, StationError
from moondream_station.core.facts.events import (
    BuildSelected,
    EnvironmentBuilt,
    FallbackChosen,
    RequirementsLocked,
    Stage,
)
from moondream_station.core.facts.selection import Selection
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.home.active_file import read_active
from moondream_station.core.index.offers import CollectedOffers, collect_offers
from moondream_station.core.packaging.packaging_config import within_constraints
from moondream_station.core.resolve.pylock import read_stored_pylock
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import Ranked, SelectionResult, select

_LOCK_TRIES = 3


class Installation:
    """Chooses what one activation installs, and chooses again when torch does not compute in the first.

    Args:
        tools: What installations work with.
        making: Makes the environments.
        activation: For whom; it is told everything.
        prepared: What is known before.
    """

    def __init__(self, tools: Tools, making: Making, activation: Activation, prepared: Prepared) -> None:
        self._tools = tools
        self._making = making
        self._activation = activation
        self._prepared = prepared
        self._capabilities = prepared.capabilities
        self._bounded = prepared.requirements
        self._choosing: Choosing | None = None

    async def install(self) -> Installed:
        """Take an environment that was made for the same, or make one.

        Raises:
            StationError: No build fits, the requirements can't be resolved, a file can't be had, or there is
                no room; by cause.
        """
        self._activation.enter(Stage.SELECT)
        if not self._activation.request.upgrade:
            record = read_active(self._tools.home).models.get(self._prepared.model_id)
            committed = await find_reusable(
                self._tools.home,
                self._prepared.request_key,
                code=self._prepared.code.place,
                present=record.environment if record is not None else None,
            )
            if committed is not None and (installed := self._reuse(committed)) is not None:
                return installed
        await self._choose()
        return await self._install_current()

    async def fall_back(self, installed: Installed, reason: str) -> Installed | None:
        """Make another environment, because torch does not compute in the last one.

        Args:
            installed: The last one.
            reason: What happened there, in one sentence.

        Returns:
            The next one, None where no other build is left.
        """
        if self._choosing is None:
            # The environment was made when the machine was another one: look at it again, and choose anew.
            detected = await self._tools.preparation.look_again(self._activation)
            self._capabilities = detected.capabilities
            self._activation.enter(Stage.SELECT)
            await self._collect()
        choosing = self._choosing
        assert choosing is not None and installed.build is not None  # noqa: PT018, S101  torch was verified
        current = choosing.current
        if current is not None and current.build == installed.build:
            current = choosing.fall_back(reason)
        if current is None:
            return None
        self._announce_fallback(installed.build, reason)
        return await self._install_current()

    def _reuse(self, committed: Committed) -> Installed | None:
        """An environment is used again only where its build is still possible: drivers change."""
        place, record = committed.place, committed.record
        if record.build is not None:
            result = self._select([self._offer_of(committed)])
            if result.selection.build != record.build:
                return None
            fact = Choosing(result).fact()
        else:
            fact = BuildSelected(
                build=None,
                torch=None,
                index_url=None,
                source=None,
                reason="No torch is needed.",
                candidates=(),
            )
        self._activation.publish(fact)
        self._activation.publish(
            EnvironmentBuilt(environment=place.name, packages=len(record.packages), reused=True, seconds=0.0)
        )
        return Installed.of(committed)

    def _offer_of(self, committed: Committed) -> Offer:
        """The wheel of torch that an environment was made from."""
        record = committed.record
        lock = read_stored_pylock(committed.place.pylock.read_text(encoding="utf-8"))
        wheel = next(file for file in lock.files if file.name == "torch")
        offer = offer_from_wheel(
            wheel.filename,
            catalog=self._tools.catalog,
            source=record.source or "default",
            index_url=record.index_url,
            url=wheel.url,
        )
        assert offer is not None  # noqa: S101  it was one when the environment was made
        return offer

    def _select(self, offers: Iterable[Offer]) -> SelectionResult:
        return select(self._build_request(), offers)

    def _build_request(self) -> BuildRequest:
        return BuildRequest(
            capabilities=self._capabilities,
            requirements=self._bounded,
            python=self._prepared.interpreter.name,
            strategy=self._activation.request.strategy,
            catalog=self._tools.catalog,
        )

    async def _choose(self) -> None:
        collected = await self._collect()
        requirements = self._prepared.requirements
        if self._choosing is not None and self._choosing.current is None and requirements.mentions_torch:
            raise no_build(self._choosing.selection, collected)

    async def _collect(self) -> CollectedOffers:
        """Ask every source what it has, and select."""
        config, client = await self._making.connect()
        self._bounded = await within_constraints(self._prepared.requirements, config)
        collected = await collect_offers(
            self._build_request(),
            torch_index=self._tools.torch_index,
            config=config,
            home=self._tools.home,
            client=client,
            refresh=self._activation.request.upgrade,
        )
        self._choosing = Choosing(self._select(collected.offers))
        return collected

    async def _install_current(self) -> Installed:
        """Install the current candidate; one that does not resolve gives way to the next, three at most."""
        choosing = self._choosing
        assert choosing is not None  # noqa: S101  chosen before
        for attempt in range(1, _LOCK_TRIES + 1):
            if self._prepared.requirements.mentions_torch:
                self._activation.publish(choosing.fact())
                self._prepared.check_gpu(choosing.selection.build, because=choosing.selection.reason)
            try:
                lock = await self._lock(choosing.current)
            except ResolutionConflict as error:
                rejected = choosing.current
                if rejected is None or attempt == _LOCK_TRIES or choosing.reject(error.message) is None:
                    raise
                self._announce_fallback(rejected.build, error.message)
            else:
                current = choosing.current if lock.torch is not None else None
                return await self._making.make(lock, current, degraded=choosing.degraded)
        raise AssertionError("the last attempt returns or raises")

    async def _lock(self, ranked: Ranked | None) -> Lock:
        """Lock, and tell what was chosen and locked.

        Whether a backend needs torch that only another package may ask for shows in its lock: there the
        choice is told after it.
        """
        self._activation.enter(Stage.LOCK)
        started = anyio.current_time()
        lock = await self._making.lock(ranked)
        self._settle(lock)
        if not self._prepared.requirements.mentions_torch:
            self._tell_choice(lock)
        if lock.tool_output:
            self._activation.note(lock.tool_output)
        self._activation.publish(
            RequirementsLocked(
                packages=len(lock.files),
                total_bytes=lock.total_bytes,
                seconds=round(anyio.current_time() - started, 3),
            )
        )
        return lock

    def _settle(self, lock: Lock) -> None:
        """Tell it where the lock has another torch of the build than the one that was told."""
        choosing = self._choosing
        assert choosing is not None  # noqa: S101  chosen before
        if lock.torch is None or not choosing.settle_for(lock.torch):
            return
        if self._prepared.requirements.mentions_torch and choosing.current is not None:
            self._announce_fallback(choosing.current.build, choosing.selection.reason)
            self._activation.publish(choosing.fact())

    def _tell_choice(self, lock: Lock) -> None:
        choosing = self._choosing
        assert choosing is not None  # noqa: S101  chosen before
        fact = choosing.fact()
        if lock.torch is None:
            reason = "No package of this backend needs torch."
            fact = replace(fact, build=None, torch=None, index_url=None, source=None, reason=reason)
        self._activation.publish(fact)

    def _announce_fallback(self, from_build: str, reason: str) -> None:
        choosing = self._choosing
        assert choosing is not None and choosing.current is not None  # noqa: PT018, S101  there is a next one
        self._activation.publish(
            FallbackChosen(from_build=from_build, to_build=choosing.current.build, reason=reason)
        )


def no_build(selection: Selection, collected: CollectedOffers) -> StationError:
    """Why there is no build: because the machine can run none, or because no index could be asked.

    Where some places answered and another one did not, that one may have what is missing: it is named too.
    """
    failed = [report.sentence for report in collected.tried if report.outcome == "failed"]
    if not failed:
        return NoBuild(selection.reason, hint="`moondream-station plan` shows every build and its reason.")
    if collected.offers:
        return NoBuild(
            f"{selection.reason} Not everything could be asked: {' '.join(failed)}",
            hint="What could not be asked may have one: check the network, the proxy and that address, then"
            " run the command again. `moondream-station plan` shows every build and its reason.",
        )
    tried = " ".join(report.sentence for report in collected.tried)
    return IndexUnreachable(
        f"No PyTorch build can be had. Tried {tried}",
        hint="Check the network and the proxy, or name a mirror with MOONDREAM_STATION_TORCH_INDEX, or a"
        " folder of wheels with PIP_FIND_LINKS.",
    )
