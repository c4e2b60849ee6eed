"""What one activation installs with: its connections, and the environments that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import anyio
import httpx2

from moondream_station.core.activation.activation import Activation
from moondream_station.core.activation.prepare import Preparation, Prepared
from moondream_station.core.activation.prune import freeable_bytes
from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import parse_build
from moondream_station.core.environments.building import open_building
from moondream_station.core.environments.store import CommitRecord, Committed, Place
from moondream_station.core.facts.errors import NoSpace
from moondream_station.core.facts.events import Degraded, DownloadProgressed, EnvironmentBuilt, Stage
from moondream_station.core.facts.report import VerificationReport
from moondream_station.core.facts.selection import Source
from moondream_station.core.fetch.download import fetch
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.fetch.retry import patience_of
from moondream_station.core.fetch.wheel_server import Arrivals
from moondream_station.core.home.layout import Home
from moondream_station.core.home.space import no_space_hint
from moondream_station.core.home.storage import remove_tree
from moondream_station.core.packaging.packaging_config import PackagingConfig, load_packaging_config
from moondream_station.core.packaging.uv_environment import to_uv_environment
from moondream_station.core.resolve.resolve import resolve_lock
from moondream_station.core.resolve.sdists import build_wheels
from moondream_station.core.selection.select import Ranked


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An environment that is filled and whole, committed or not yet.

    Args:
        place: Where it is.
        build: Its PyTorch build, None for a backend without torch.
        torch: Its torch, with the local part.
        source: Where that came from.
        index_url: The index that has it, None unless `source` is "index".
        degraded: What the machine should have had instead.
        lock: What it was made from; None for one that was committed before.
        file_count: How many files its records name.
        committed: Its record, for one that was committed before.
    """

    place: Place
    build: str | None
    torch: str | None
    source: Source | None
    index_url: str | None
    degraded: Degraded | None = None
    lock: Lock | None = None
    file_count: int = 0
    committed: Committed | None = None

    @classmethod
    def of(cls, committed: Committed) -> Installed:
        """One that was committed before."""
        record = committed.record
        return cls(
            place=committed.place,
            build=record.build,
            torch=record.torch,
            source=record.source,
            index_url=record.index_url,
            degraded=record.degraded,
            file_count=record.file_count,
            committed=committed,
        )

    def record(self, prepared: Prepared, report: VerificationReport) -> CommitRecord:
        """What is, or was, committed of it, once torch was verified in it."""
        if self.committed is not None:
            return self.committed.record
        lock = self.lock
        assert lock is not None  # noqa: S101  it is what a new environment is made from
        return CommitRecord(
            lock_digest=lock.digest,
            request_key=prepared.request_key,
            model=prepared.model_id,
            backend=prepared.code.id,
            backend_version=prepared.code.version,
            build=self.build,
            torch=self.torch,
            source=self.source,
            index_url=self.index_url,
            degraded=self.degraded,
            python=str(prepared.interpreter.path),
            python_version=prepared.interpreter.version,
            packages=lock.packages,
            file_count=self.file_count,
            verification=report,
            created_at=datetime.now(UTC),
            code=prepared.code.place,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every installation of a station works with.

    Args:
        home: Where everything goes.
        environ: The user's variables.
        torch_index: Base URL of the PyTorch index or its mirror.
        catalog: What is known about builds.
        preparation: Looks at the machine again, when it turns out to be another one than thought.
    """

    home: Home
    environ: Mapping[str, str]
    torch_index: str
    catalog: Catalog
    preparation: Preparation


class Making:
    """Locks what is needed and makes environments of it, for one activation.

    Use it as a context: at the end its connections are closed, and the environments that were not committed
    are removed, under another name first.
    """

    def __init__(self, tools: Tools, activation: Activation, prepared: Prepared) -> None:
        self._tools = tools
        self._activation = activation
        self._prepared = prepared
        self._resources = AsyncExitStack()
        self._made: list[Place] = []
        self._client: httpx2.AsyncClient | None = None
        self._config: PackagingConfig | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._resources.aclose()
            for place in self._made:
                await anyio.to_thread.run_sync(remove_tree, place.path)

    def keep(self, installed: Installed) -> None:
        """This environment was committed; every other one made here is removed at the end."""
        self._made = [place for place in self._made if place != installed.place]

    async def connect(self) -> tuple[PackagingConfig, httpx2.AsyncClient]:
        """The user's packaging set-up, and a client that goes by it."""
        if self._config is None or self._client is None:
            self._config = await load_packaging_config(self._tools.environ)
            client = open_client(self._config, torch_index=self._tools.torch_index)
            self._client = await self._resources.enter_async_context(client)
        return self._config, self._client

    async def lock(self, ranked: Ranked | None) -> Lock:
        """Resolve the requirements to exact wheels.

        Args:
            ranked: The build that torch must come from, None where there is none to choose.

        Raises:
            ResolutionConflict: The requirements do not go together on that build.
            StationError: An index can't be asked, or a file can't be had.
        """
        config, client = await self.connect()
        return await resolve_lock(
            requirements=self._prepared.requirements,
            offer=ranked.offer if ranked else None,
            others=ranked.others if ranked else (),
            interpreter=self._prepared.interpreter,
            config=config,
            torch_index=self._tools.torch_index,
            home=self._tools.home,
            client=client,
            environ=self._tools.environ,
            publish=self._fetched_while_locking,
        )

    def _fetched_while_locking(self, fact: DownloadProgressed) -> None:
        """A wheel had to be read before it could be locked; what is downloaded is told once it is locked."""
        self._activation.progressed(fact.overall_received_bytes, fact.overall_total_bytes, "bytes")

    async def make(self, lock: Lock, ranked: Ranked | None, *, degraded: Degraded | None) -> Installed:
        """Download what a lock names, and build an environment of it.

        Args:
            lock: What goes in.
            ranked: The build that its torch is of, None where it has no torch.
            degraded: What would have been better, and why it could not be had.

        Raises:
            NoSpace: There is not enough space; the hint says what could be freed.
            StationError: A file can't be had, or the environment is not whole.
        """
        try:
            return await self._download_and_build(lock, ranked, degraded)
        except NoSpace as error:
            full = error
        freeable = await anyio.to_thread.run_sync(freeable_bytes, self._tools.home, lock)
        raise NoSpace(full.message, hint=no_space_hint(freeable), log=full.log) from full

    async def _download_and_build(
        self, lock: Lock, ranked: Ranked | None, degraded: Degraded | None
    ) -> Installed:
        self._activation.enter(Stage.DOWNLOAD)
        lock = await self._with_built_wheels(lock)
        async with open_building(
            lock,
            home=self._tools.home,
            interpreter=self._prepared.interpreter,
            environ=self._tools.environ,
            progress=self._activation.progressed,
        ) as building:
            wheels = await self._fetch(lock, ranked, building.arrivals)
            self._activation.enter(Stage.BUILD)
            started = anyio.current_time()
            file_count = await building.finish(wheels)
        place = building.place
        self._made.append(place)
        self._activation.publish(
            EnvironmentBuilt(
                environment=place.name,
                packages=len(lock.files),
                reused=False,
                seconds=round(anyio.current_time() - started, 3),
            )
        )
        return Installed(
            place=place,
            build=ranked.build if ranked else None,
            torch=lock.torch,
            source=ranked.offer.source if ranked else None,
            index_url=ranked.offer.index_url if ranked else None,
            degraded=degraded,
            lock=lock,
            file_count=file_count,
        )

    async def _with_built_wheels(self, lock: Lock) -> Lock:
        """What is to be built from source is fetched and built before anything else: the rest is wheels."""
        if not lock.sources.files:
            return lock
        config, _ = await self.connect()
        return await build_wheels(
            lock,
            await self._fetch(lock.sources, None, None),
            home=self._tools.home,
            interpreter=self._prepared.interpreter,
            environ=self._tools.environ,
            variables=to_uv_environment(config, torch_index=self._tools.torch_index),
        )

    async def _fetch(
        self, lock: Lock, ranked: Ranked | None, arrivals: Arrivals | None
    ) -> Mapping[str, Path]:
        config, client = await self.connect()
        build = parse_build(ranked.build) if ranked else None
        return await fetch(
            lock,
            home=self._tools.home,
            client=client,
            publish=self._activation.publish,
            patience=patience_of(config),
            unpacked_factor=self._tools.catalog.unpacked_factor(build.kind if build else None),
            arrivals=arrivals,
        )
