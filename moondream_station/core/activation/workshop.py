"""What one activation installs with: the user's packaging set-up, a client, and the environments it makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self

import anyio
import httpx2

from moondream_station.core.activation.activation import Activation
from moondream_station.core.activation.choice import Candidates, no_build, python_with_a_build, select_again
from moondream_station.core.activation.housekeeping import freeable_bytes
from moondream_station.core.activation.models import known_here
from moondream_station.core.activation.prepare import Needs
from moondream_station.core.activation.trials_file import read_trials
from moondream_station.core.backends.code_store import BackendCode
from moondream_station.core.backends.manifest import Manifest, ModelInfo
from moondream_station.core.backends.provide import provide_backend
from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import parse_build
from moondream_station.core.capabilities.cache import CapabilityCache
from moondream_station.core.environments.building import Building, open_building
from moondream_station.core.environments.store import (
    CommitRecord,
    Place,
    find_rebuildable,
    find_reusable,
)
from moondream_station.core.facts.errors import NoSpace, VerificationFailed
from moondream_station.core.facts.events import (
    BuildSelected,
    DownloadProgressed,
    FallbackChosen,
    RequirementsLocked,
)
from moondream_station.core.fetch.download import fetch
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.fetch.retry import patience_of
from moondream_station.core.fetch.wheel_server import Arrivals
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.log import Log
from moondream_station.core.home.settings import Settings
from moondream_station.core.home.storage import Need, no_space_hint, remove_tree, storage_failure
from moondream_station.core.home.task_groups import meanwhile
from moondream_station.core.index.offers import collect_offers
from moondream_station.core.packaging.packaging_config import PackagingConfig, load_packaging_config
from moondream_station.core.resolve.resolve import build_wheels, resolve_lock
from moondream_station.core.selection.select import Conclusions, conclusions, select
from moondream_station.core.serving.workers import Environment, WorkerSpec
from moondream_station.core.weights.disk import Learned, source_of
from moondream_station.core.weights.hub import learn
from moondream_station.core.worker.verification import WorkerPlan

_CLOSE_SECONDS = 0.5
_REMOVE_SECONDS = 1.0
_log = Log()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every activation of a station works with."""

    home: Home
    environ: Mapping[str, str]
    settings: Settings
    catalog: Catalog
    manifest: Manifest
    cache: CapabilityCache


class Workshop:
    """Finds and makes environments for one activation. Every step returns its result, and calls no other.

    Use it as a context: at the end its connections are closed, and the environments that were not committed
    are removed.
    """

    def __init__(self, tools: Tools, activation: Activation) -> None:
        self._tools = tools
        self._activation = activation
        self._resources = AsyncExitStack()
        self._made: list[Place] = []
        self._network: tuple[PackagingConfig, httpx2.AsyncClient] | None = None
        self._connecting = anyio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Within two seconds: a cancellation waits for it. The next sweep removes what is left then."""
        try:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await self._resources.aclose()
            with anyio.move_on_after(_REMOVE_SECONDS, shield=True):
                await anyio.to_thread.run_sync(self._discard, abandon_on_cancel=True)
        except OSError as error:  # the outcome is told already: what is left over changes nothing of it
            _log.warning("environment_not_removed", reason=str(error))

    def _discard(self) -> None:
        for place in self._made:
            remove_tree(place.path, seconds=_REMOVE_SECONDS / len(self._made))

    def keep(self, environment: Environment) -> None:
        """This environment is committed; every other one made here is removed at the end."""
        self._made = [place for place in self._made if place != environment.spec.place]

    def providing(self, backend_id: str) -> AbstractAsyncContextManager[Callable[[], BackendCode]]:
        """Bring a backend's code while something else is done; what is yielded gives it afterwards."""
        home, manifest = self._tools.home, self._tools.manifest

        async def provide() -> BackendCode:
            info, connect = manifest.backends[backend_id], self._client
            try:
                return await provide_backend(backend_id, info, manifest=manifest, home=home, connect=connect)
            except OSError as error:
                raise storage_failure(error, home.root) from error

        return meanwhile(provide)

    def learning(self, model: ModelInfo) -> AbstractAsyncContextManager[Callable[[], Learned | None]]:
        """Find out what a model's weights take, and whether they can be downloaded, likewise."""
        home, environ, source = self._tools.home, self._tools.environ, source_of(model.args)

        async def ask() -> Learned | None:
            if source is None or self._activation.request.anyway:  # nothing that the hub says would count
                return await anyio.to_thread.run_sync(known_here, model, home, environ)
            slow = partial(self._activation.progressed, 0, 1, "answers from the hub")
            return await learn(source, home=home, environ=environ, connect=self._client, slow=slow)

        return meanwhile(ask)

    async def reuse(self, needs: Needs) -> Environment | None:
        """A whole environment that was made for the same, if its build is still possible: drivers change."""
        if self._activation.request.upgrade:
            return None
        home, present = self._tools.home, self._present(needs)
        committed = await find_reusable(home, needs.request_key, code=needs.code.place, present=present)
        if committed is None:
            return None
        record = committed.record
        result = select_again(needs.build_request(self._tools.catalog, self._tools.settings), committed)
        if result.selection.build != record.build:
            return None
        fact = Candidates(result).fact()
        if record.build is None:
            fact = replace(fact, reason="No torch is needed.", candidates=())
        self._choose(needs, fact)
        self._activation.built(committed.place.name, packages=len(record.packages))
        return Environment(spec=self._spec(needs, committed.place, record), record=record)

    def _choose(self, needs: Needs, fact: BuildSelected, *, because: str | None = None) -> None:
        """Report a choice, and whether the model fits there; refuse one on which it can't work."""
        catalog, anyway = self._tools.catalog, self._activation.request.anyway
        self._activation.publish(replace(fact, fit=needs.fit_on(fact.build, catalog)))
        needs.check(fact.build, catalog, anyway=anyway, because=because)

    async def rebuild(self, needs: Needs) -> Candidates | None:
        """The build of a damaged environment that can be made again from what is here, without a network."""
        if self._activation.request.upgrade:
            return None
        home, present = self._tools.home, self._present(needs)
        found = await find_rebuildable(home, needs.request_key, code=needs.code.place, present=present)
        if found is None:
            return None
        committed, lock = found
        result = select_again(needs.build_request(self._tools.catalog, self._tools.settings), committed)
        if result.selection.build != committed.record.build:
            return None
        return Candidates(result, lock=lock, degraded=committed.record.degraded)

    def _present(self, needs: Needs) -> str | None:
        stored = read_active(self._tools.home).models.get(needs.model_id)
        return stored.environment if stored else None

    async def choose(self, needs: Needs) -> Candidates:
        """Ask every source which wheels of torch it has, and select."""
        config, client = await self._connected()
        requirements = await config.within_constraints(needs.requirements)
        trials = await anyio.to_thread.run_sync(read_trials, self._tools.home)
        request = needs.build_request(self._tools.catalog, self._tools.settings)
        request = replace(request, requirements=requirements, trials=trials)
        collected = await collect_offers(
            request,
            torch_index=self._tools.settings.torch_index,
            config=config,
            home=self._tools.home,
            client=client,
            refresh=self._activation.request.upgrade,
        )
        found = select(request, collected.offers, is_complete=collected.is_complete)
        python = await python_with_a_build(request, collected, found, self._tools.environ)
        return Candidates(found, collected, degraded=found.degraded, python=python)

    def announce(self, needs: Needs, candidates: Candidates) -> None:
        """Report the choice, or why there is none; but where the lock alone shows whether torch is needed."""
        if not needs.requirements.mentions_torch:
            return
        if candidates.current is None and candidates.collected is not None:
            raise no_build(candidates.selection, candidates.collected, candidates.python)
        self._choose(needs, candidates.fact(), because=candidates.selection.reason)
        needs.check_download(candidates.fact().build, self._tools.catalog, self._activation.request)

    def fall_back(self, build: str, candidates: Candidates, failure: VerificationFailed) -> None:
        """Go on with another build than one on which torch fails; where there is none, raise the failure."""
        if candidates.fall_back(build, failure.message) is None:
            raise failure
        self.announce_fallback(build, candidates, failure.message)

    def announce_fallback(self, from_build: str, candidates: Candidates, reason: str) -> None:
        """Report that the current candidate is taken instead: another build, or another torch of the same."""
        assert candidates.current is not None  # noqa: S101  the one that is taken
        to_build = candidates.current.build
        self._activation.publish(FallbackChosen(from_build=from_build, to_build=to_build, reason=reason))

    async def lock(self, needs: Needs, candidates: Candidates) -> Lock:
        """Resolve to exact wheels; a candidate that does not resolve gives way to the next, three at most."""

        def rejected(build: str, reason: str) -> None:
            self.announce_fallback(build, candidates, reason)
            self.announce(needs, candidates)

        if candidates.lock is not None:
            lock, seconds = candidates.lock, 0.0
        else:
            resolve = partial(self._resolve, needs, candidates)
            lock, seconds = await candidates.first_that_locks(resolve, rejected)
        self._report(needs, candidates, lock)
        fact = RequirementsLocked(packages=len(lock.files), total_bytes=lock.total_bytes, seconds=seconds)
        self._activation.publish(fact)
        return lock

    async def _resolve(self, needs: Needs, candidates: Candidates) -> tuple[Lock, float]:
        """The lock for the current candidate, and the seconds that it took."""
        began = anyio.current_time()
        config, client = await self._connected()
        current = candidates.current

        def fetched(fact: DownloadProgressed) -> None:
            # A wheel that must be read before it can be locked; what is downloaded is reported once locked.
            self._activation.progressed(fact.overall_received_bytes, fact.overall_total_bytes, "bytes")

        lock = await resolve_lock(
            requirements=needs.requirements,
            offer=current.offer if current else None,
            others=current.others if current else (),
            interpreter=needs.interpreter,
            config=config,
            torch_index=self._tools.settings.torch_index,
            home=self._tools.home,
            client=client,
            environ=self._tools.environ,
            catalog=self._tools.catalog,
            publish=fetched,
        )
        return lock, round(anyio.current_time() - began, 3)

    def _report(self, needs: Needs, candidates: Candidates, lock: Lock) -> None:
        """Report the choice that a lock has made: another torch of the build, or whether torch is needed."""
        is_announced = needs.requirements.mentions_torch
        current = candidates.current
        is_other = lock.torch is not None and candidates.settle_for(lock.torch)
        if is_other and is_announced and current is not None:
            self.announce_fallback(current.build, candidates, candidates.selection.reason)
        if is_other or not is_announced:
            fact = candidates.fact()
            if lock.torch is None:
                reason = "No package of this backend needs torch."
                fact = replace(fact, build=None, torch=None, index_url=None, source=None, reason=reason)
            self._choose(needs, fact)
        if lock.tool_output:
            self._activation.note(lock.tool_output)

    @asynccontextmanager
    async def building(self, needs: Needs, lock: Lock) -> AsyncIterator[Building]:
        """An environment on its way, which unpacks what arrives; archives of sources are wheels by then.

        Where space runs out, here or in the block, the hint says how much could be freed.
        """
        try:
            async with open_building(
                await self._with_built_wheels(needs, lock),
                home=self._tools.home,
                interpreter=needs.interpreter,
                environ=self._tools.environ,
                progress=self._activation.progressed,
            ) as building:
                yield building
        except NoSpace as error:
            full = error
        else:
            return
        freeable = await anyio.to_thread.run_sync(freeable_bytes, self._tools.home, lock)
        raise NoSpace(full.message, hint=no_space_hint(freeable), log=full.log) from full

    async def _with_built_wheels(self, needs: Needs, lock: Lock) -> Lock:
        """The lock with a wheel in the place of each archive of sources; most locks have none."""
        if not lock.sources.files:
            return lock
        config, _ = await self._connected()
        return await build_wheels(
            lock,
            await self._fetch(lock.sources, build=None),
            home=self._tools.home,
            interpreter=needs.interpreter,
            environ=self._tools.environ,
            variables=config.to_uv_environment(torch_index=self._tools.settings.torch_index),
        )

    async def download(self, building: Building, needs: Needs, candidates: Candidates) -> Mapping[str, Path]:
        """Fetch the wheels of an environment on its way; gives where each is, by file name.

        There must be room for the weights too, before gigabytes of wheels are fetched.
        """
        build = candidates.current.build if candidates.current else None
        weights = None if self._activation.request.anyway else needs.around.weights
        also = (weights,) if weights else ()
        return await self._fetch(building.lock, build=build, also=also, arrivals=building.arrivals)

    async def _fetch(
        self, lock: Lock, *, build: str | None, also: Iterable[Need] = (), arrivals: Arrivals | None = None
    ) -> Mapping[str, Path]:
        config, client = await self._connected()
        parsed = parse_build(build) if build else None
        return await fetch(
            lock,
            home=self._tools.home,
            client=client,
            publish=self._activation.publish,
            patience=patience_of(config),
            unpacked_factor=self._tools.catalog.unpacked_factor(parsed.kind if parsed else None),
            also=also,
            arrivals=arrivals,
        )

    async def finish(
        self, building: Building, wheels: Mapping[str, Path], needs: Needs, candidates: Candidates
    ) -> Environment:
        """Fill an environment, check it file by file, and report it; it is removed unless it is kept."""
        began = anyio.current_time()
        file_count = await building.finish(wheels)
        self._made.append(building.place)
        lock = building.lock
        self._activation.built(building.place.name, packages=len(lock.files), began=began)
        current = candidates.current if lock.torch is not None else None
        record = CommitRecord(
            lock_digest=lock.digest,
            request_key=needs.request_key,
            model=needs.model_id,
            backend=needs.code.id,
            backend_version=needs.code.version,
            build=current.build if current else None,
            torch=lock.torch,
            source=current.offer.source if current else None,
            index_url=current.offer.index_url if current else None,
            degraded=candidates.degraded,
            python=str(needs.interpreter.path),
            python_version=needs.interpreter.version,
            packages=lock.packages,
            file_count=file_count,
            verification=None,
            created_at=datetime.now(UTC),
            code=needs.code.place,
        )
        spec = self._spec(needs, building.place, record)
        return Environment(spec=spec, record=record, is_committed=False)

    def _spec(self, needs: Needs, place: Place, record: CommitRecord) -> WorkerSpec:
        build, torch, catalog = record.build, record.torch, self._tools.catalog
        known = conclusions(build, torch, needs.capabilities, catalog) if build and torch else Conclusions()
        plan = WorkerPlan(build=build, torch=torch, conclusions=known)
        return WorkerSpec.of(self._tools.manifest, needs.model_id, needs.code, place, plan)

    async def _client(self) -> httpx2.AsyncClient:
        return (await self._connected())[1]

    async def _connected(self) -> tuple[PackagingConfig, httpx2.AsyncClient]:
        """The user's packaging set-up, and a client that goes by it; read and opened once."""
        async with self._connecting:
            if self._network is None:
                config = await load_packaging_config(self._tools.environ)
                # Reading the system's certificates takes 50 ms: in a thread, for who fetches something alone.
                opening = partial(open_client, config, torch_index=self._tools.settings.torch_index)
                client = await anyio.to_thread.run_sync(opening)
                self._network = config, await self._resources.enter_async_context(client)
            return self._network
