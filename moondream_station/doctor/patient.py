"""Who is examined, and the facts that several checks need, each found out once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar, TypeVarTuple, cast

import anyio
import anyio.to_thread
import httpx2
from anyio.abc import TaskGroup

from moondream_station.core.activation.trials_file import read_trials
from moondream_station.core.backends.manifest import Manifest, ModelInfo
from moondream_station.core.backends.manifest_loader import (
    fetch_manifest,
    read_built_in,
    read_manifest,
)
from moondream_station.core.backends.manifest_places import is_on_network
from moondream_station.core.backends.provide import known_requirements
from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Build, Kind, parse_build
from moondream_station.core.builds.requirements import Requirements, parse_requirement_args
from moondream_station.core.builds.trials import NO_TRIALS
from moondream_station.core.capabilities.detect import detect
from moondream_station.core.capabilities.probes.nvidia import NVIDIA_DRIVER, NVIDIA_SMI, NvidiaSmiReading
from moondream_station.core.environments.store import Committed, committed_at, place_of
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.errors import EnvironmentBroken, StationError
from moondream_station.core.facts.selection import Selection
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.home.active_file import ActiveRecord, ModelRecord, read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.index.catalog_loader import open_catalog
from moondream_station.core.index.offers import CollectedOffers, collect_offers
from moondream_station.core.machine.machine import Machine
from moondream_station.core.machine.record import Recorder
from moondream_station.core.packaging.packaging_config import load_packaging_config
from moondream_station.core.resolve.interpreter import OLDEST_PYTHON
from moondream_station.core.selection.request import OVERRIDABLE, BuildRequest, Case
from moondream_station.core.selection.select import select
from moondream_station.core.selection.sentences import ANY_DRIVER, idle_gpu_warnings
from moondream_station.core.selection.verdicts import judge

T = TypeVar("T")
Args = TypeVarTuple("Args")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The active or default model, as far as it is on this computer."""

    model: str | None
    info: ModelInfo | None
    """Its entry in the manifest, None where there is none."""
    is_active: bool = False
    record: ModelRecord | None = None
    committed: Committed | None = None
    """Its environment, None where there is none that can be used."""
    requirements: Requirements | None = None
    """Its backend's requirements, None where they are not known here, or where there are none."""

    @property
    def is_installed(self) -> bool:
        """Whether it has an environment, so that it works without any index."""
        return self.committed is not None

    @property
    def needs_torch(self) -> bool:
        """Whether its backend is known to use torch."""
        if self.committed is not None:
            return self.committed.record.build is not None
        texts = self.requirements.texts if self.requirements else ()
        return any(text.startswith("torch") for text in texts)

    @property
    def words(self) -> str:
        """The model for a sentence."""
        return f"{'The active' if self.is_active else 'The default'} model {self.model}"


def _subject_of(home: Home | None, settings: Settings, manifest: Manifest) -> Subject:
    """The active model, else the one that 0.1 had active; without a home the manifest's default."""
    active = read_active(home) if home else ActiveRecord()
    chosen = settings.current_model if home and settings.current_model in manifest.models else None
    model = active.model or chosen or manifest.default_model
    info = manifest.models.get(model or "")
    if home is None or model is None:
        return Subject(model=model, info=info)
    record, committed = active.models.get(model), None
    if record is not None:
        with suppress(EnvironmentBroken):
            committed = committed_at(place_of(home, record.environment))
    known = known_requirements(model, manifest=manifest, home=home)
    return Subject(
        model=model,
        info=info,
        is_active=active.model == model,
        record=record,
        committed=committed,
        requirements=replace(known, warnings=()) if known and known.texts else None,
    )


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Which build the machine would get, by the catalog or by the indexes, and the case it was chosen in."""

    case: Case
    selection: Selection
    build: Build | None
    """What would be installed, None where nothing could be."""
    forced: Build | None
    """What the strategy names, None where it leaves the choice."""

    @property
    def capabilities(self) -> Capabilities:
        """The machine."""
        return self.case.request.capabilities

    @property
    def kind(self) -> Kind | None:
        """What the build would compute on."""
        return self.build.kind if self.build else None

    @property
    def refusal(self) -> str | None:
        """What speaks against a build that was chosen by name, None where nothing does."""
        refusal = judge(self.forced, self.case).refusal if self.forced else None
        return refusal.reason if refusal and refusal.obstacle in OVERRIDABLE else None

    @property
    def idle_gpus(self) -> tuple[str, ...]:
        """A sentence about each GPU that will not be used, with what would change it."""
        if self.build is None or self.forced is not None:
            return ()
        return idle_gpu_warnings(judge(self.build, self.case), self.case)

    @property
    def needed_driver(self) -> str | None:
        """The NVIDIA driver that the build needs, None where that is not known."""
        gpus = self.case.hardware.of_kind(Kind.CUDA).gpus
        return self.case.hardware.needed_driver(self.build, gpus) if self.build else None

    def with_newest_driver(self) -> Planned:
        """The choice if the NVIDIA driver were the newest that there could be."""
        capabilities = replace(self.capabilities, nvidia_driver=ANY_DRIVER)
        return plan_for(replace(self.case.request, capabilities=capabilities))

    def other_pythons(self) -> tuple[str, ...]:
        """The Pythons that the station runs on and something could be installed for, oldest first."""

        def numbers(version: str) -> tuple[int, ...]:
            return tuple(int(part) for part in version.split(".") if part.isdigit())

        rows = self.case.catalog.rows
        known = {python for row in rows for python in row.pythons if not python.endswith("t")}
        return tuple(
            python
            for python in sorted(known, key=numbers)
            if numbers(python) >= OLDEST_PYTHON
            and plan_for(replace(self.case.request, python=python)).selection.build
        )


def plan_for(request: BuildRequest, collected: CollectedOffers | None = None) -> Planned:
    """Choose a build, without asking anybody; from the catalog unless offers were collected."""
    offers = request.catalog_offers() if collected is None else collected.offers
    is_complete = collected is None or collected.is_complete
    selection = select(request, offers, is_complete=is_complete).selection
    return Planned(
        case=Case.of(request, offers),
        selection=selection,
        build=parse_build(selection.build or ""),
        forced=parse_build(request.strategy),
    )


class Unknowable(Exception):
    """A check lacks a fact that could not be found out, and for which another check says why."""

    def __init__(self, fact: str, failure: Exception) -> None:
        self.fact = fact
        self.failure = failure
        self.reason = explain(failure)
        super().__init__(f"{fact} could not be read: {self.reason}")


class Shared(Generic[T]):
    """A fact that several checks need, found out once one asks, in a task that no check's end cancels."""

    def __init__(self, name: str, find: Callable[[], Awaitable[T]], tasks: TaskGroup) -> None:
        self._name = name
        self._find = find
        self._tasks = tasks
        self._is_known: anyio.Event | None = None
        self._value: tuple[T] | None = None

    async def get(self) -> T:
        """The fact, as soon as it is known; raises `Unknowable` where it could not be found out."""
        if self._is_known is None:
            self._is_known = anyio.Event()
            self._tasks.start_soon(self._run, self._is_known)
        await self._is_known.wait()
        if self._value is None:
            raise Unknowable(self._name, self._failure) from self._failure
        return self._value[0]

    async def _run(self, known: anyio.Event) -> None:
        try:
            self._value = (await self._find(),)
        except Exception as failure:  # noqa: BLE001  whatever it is, it must not end the other checks
            self._failure = failure
        known.set()


def explain(failure: Exception) -> str:
    """A failure in words: the station's own as they are, others with their type."""
    if isinstance(failure, StationError | Unknowable):
        return str(failure)
    return f"{type(failure).__name__}: {failure}".removesuffix(": ")


@dataclass(frozen=True, slots=True)
class Examined:
    """The machine as its probes see it."""

    capabilities: Capabilities
    nvidia_smi: NvidiaSmiReading
    """What nvidia-smi printed, with its complaints."""
    kernel_driver: str | None
    """The NVIDIA driver's version by the kernel's files."""


@dataclass(eq=False, kw_only=True)
class Patient:
    """A home that need not exist, and a machine that need not be this one."""

    home: Home
    settings: Settings
    environ: Mapping[str, str]
    machine: Machine
    is_offline: bool
    """Whether no other computer is asked, as of another machine none is."""
    tasks: TaskGroup
    """Where what the checks share is found out."""

    def __post_init__(self) -> None:
        self.is_here = self.machine.is_local
        self.examined = Shared("the machine", self._detect, self.tasks)
        self.manifest = Shared("the manifest", self._read_manifest, self.tasks)
        self.subject = Shared("the active or default model", self._find_subject, self.tasks)
        self.planned = Shared("the choice of a build", self._plan, self.tasks)
        self.catalog = Shared("the catalog of builds", self._open_catalog, self.tasks)
        self.config = Shared("the packaging set-up", lambda: load_packaging_config(self.environ), self.tasks)
        self.offers = Shared("what the indexes have", self._collect, self.tasks)

    async def _detect(self) -> Examined:
        recorder = Recorder(self.machine)
        capabilities = await detect(recorder, on_probe=lambda _: None)
        smi = cast("NvidiaSmiReading", NVIDIA_SMI.read(recorder.record))
        return Examined(capabilities, smi, NVIDIA_DRIVER.read(recorder.record).version)

    async def _read_manifest(self) -> Manifest:
        source = self.settings.manifest
        if source is None:
            return read_built_in()
        if not is_on_network(source):
            return await read_manifest(source)
        if self.is_offline:
            # With a client that reaches nobody, the last good copy is used.
            async with httpx2.AsyncClient(transport=httpx2.MockTransport(_reach_nobody)) as client:
                return await fetch_manifest(source, home=self.home, client=client)
        async with open_client(await self.config.get()) as client:
            # What is fetched is not kept: the doctor changes nothing in the home.
            return await fetch_manifest(source, home=self.home, client=client, keep=False)

    async def _open_catalog(self) -> Catalog:
        # What is fetched is not kept: the doctor changes nothing in the home.
        return await open_catalog(
            self.settings, home=self.home, environ=self.environ, is_offline=self.is_offline, keep=False
        )

    async def _find_subject(self) -> Subject:
        home = self.home if self.is_here else None
        return await in_thread(_subject_of, home, self.settings, await self.manifest.get())

    async def _plan(self) -> Planned:
        subject, machine = await self.subject.get(), await self.examined.get()
        requirements = subject.requirements or parse_requirement_args(("torch",))
        mixes_indexes = False
        if self.is_here:
            with suppress(Unknowable, StationError):  # a switch reports constraints that can't be read
                config = await self.config.get()
                mixes_indexes = config.mixes_indexes
                requirements = await config.within_constraints(requirements)
        strategy = self.settings.strategy
        is_valid = strategy in {"auto", "guide"} or parse_build(strategy) is not None
        request = BuildRequest(
            capabilities=machine.capabilities,
            requirements=requirements,
            python=self.machine.facts.python,
            strategy=strategy if is_valid else "auto",
            mixes_indexes=mixes_indexes,
            catalog=await self.catalog.get(),
            asks_amd=bool(self.settings.vendor_indexes),
            trials=await in_thread(read_trials, self.home) if self.is_here else NO_TRIALS,
            today=datetime.now(UTC).date(),
        )
        return await in_thread(plan_for, request)

    async def planned_now(self) -> Planned:
        """The choice of a build by what the indexes have now; by the catalog where none answers."""
        planned = await self.planned.get()
        if self.is_offline:
            return planned
        try:
            collected = await self.offers.get()
        except Unknowable:  # the checks of the network say why
            return planned
        now = await in_thread(plan_for, planned.case.request, collected)
        return now if now.build is not None else planned

    async def _collect(self) -> CollectedOffers:
        planned, config = await self.planned.get(), await self.config.get()
        # The doctor changes nothing in the home, so listings go elsewhere.
        with TemporaryDirectory(prefix="moondream-station-") as folder:
            async with open_client(config, torch_index=self.settings.torch_index) as client:
                return await collect_offers(
                    planned.case.request,
                    torch_index=self.settings.torch_index,
                    config=config,
                    home=Home(root=Path(folder)),
                    client=client,
                    refresh=True,
                )


def _reach_nobody(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("no network is to be used", request=request)


async def in_thread(function: Callable[[*Args], T], *args: *Args) -> T:
    """Call what blocks; when its check is over, the thread is abandoned."""
    return await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=True)
