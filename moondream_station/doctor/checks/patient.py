"""Who is examined, and the facts that several checks need, each found out once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar, TypeVarTuple, cast

import anyio
import anyio.to_thread
import httpx2
from anyio.abc import TaskGroup

from moondream_station.core.backends.manifest import Manifest
from moondream_station.core.backends.manifest_loader import (
    is_on_network,
    load_local_manifest,
    load_manifest,
    read_built_in,
)
from moondream_station.core.builds.naming import parse_build
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.capabilities.detect import detect
from moondream_station.core.capabilities.probes.nvidia import NVIDIA_DRIVER, NVIDIA_SMI, NvidiaSmiReading
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.errors import StationError
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.index.offers import CollectedOffers, collect_offers
from moondream_station.core.machine.machine import Machine
from moondream_station.core.machine.record import MachineRecord, Recorder
from moondream_station.core.packaging.packaging_config import load_packaging_config
from moondream_station.core.selection.request import BuildRequest
from moondream_station.doctor.checks.planned import Planned, plan_for
from moondream_station.doctor.checks.subject import Subject, find_subject

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Unknowable(Exception):
    """A check lacks a fact that could not be found out, and for which another check says why."""

    def __init__(self, fact: str, failure: Exception) -> None:
        self.fact = fact
        self.failure = failure
        self.reason = explain(failure)
        super().__init__(f"{fact} could not be read: {self.reason}")


class Shared(Generic[T]):
    """A fact that several checks need, found out in a task of its own, so that no check holds up another."""

    def __init__(self, name: str, find: Callable[[], Awaitable[T]]) -> None:
        self._name = name
        self._find = find
        self._is_known = anyio.Event()
        self._value: tuple[T] | None = None
        self._failure: Exception = RuntimeError("nobody looked")

    async def run(self) -> None:
        """Find it out; a failure is kept for those who ask."""
        try:
            self._value = (await self._find(),)
        except Exception as failure:  # noqa: BLE001  whatever it is, it must not end the other checks
            self._failure = failure
        self._is_known.set()

    async def get(self) -> T:
        """The fact, as soon as it is known; raises `Unknowable` where it could not be found out."""
        await self._is_known.wait()
        if self._value is None:
            raise Unknowable(self._name, self._failure) from self._failure
        return self._value[0]


def explain(failure: Exception) -> str:
    """A failure in words: the station's own as they are, others with their type."""
    if isinstance(failure, StationError | Unknowable):
        return str(failure)
    return f"{type(failure).__name__}: {failure}".removesuffix(": ")


@dataclass(frozen=True, slots=True)
class Examined:
    """The machine as its probes see it, and each question with its answer, which may be private."""

    capabilities: Capabilities
    record: MachineRecord

    @property
    def nvidia_smi(self) -> NvidiaSmiReading:
        """What nvidia-smi printed, with its complaints."""
        return cast("NvidiaSmiReading", NVIDIA_SMI.read(self.record))

    @property
    def kernel_driver(self) -> str | None:
        """The NVIDIA driver's version by the kernel's files."""
        return NVIDIA_DRIVER.read(self.record).version


class Patient:
    """A home that need not exist, and a machine that need not be this one.

    Offline, and on another machine, no other computer is asked.
    """

    def __init__(
        self,
        *,
        home: Home,
        settings: Settings,
        environ: Mapping[str, str],
        machine: Machine,
        offline: bool,
    ) -> None:
        self.home = home
        self.settings = settings
        self.environ = environ
        self.machine = machine
        self.is_here = machine.is_local
        self.is_offline = offline or not machine.is_local
        self.examined = Shared("the machine", self._detect)
        self.manifest = Shared("the manifest", self._read_manifest)
        self.subject = Shared("the active or default model", self._find_subject)
        self.planned = Shared("the choice of a build", self._plan)
        self.config = Shared("the packaging set-up", lambda: load_packaging_config(environ))
        self.offers = Shared("what the indexes have", self._collect)

    def find_out(self, tasks: TaskGroup) -> None:
        """Begin to find out what several checks need."""
        shared: list[Shared[Any]] = [self.examined, self.manifest, self.subject, self.planned]
        if self.is_here:
            shared.append(self.config)
        if not self.is_offline:
            shared.append(self.offers)
        for fact in shared:
            tasks.start_soon(fact.run)

    async def _detect(self) -> Examined:
        recorder = Recorder(self.machine)
        capabilities = await detect(recorder, on_probe=lambda _: None)
        return Examined(capabilities, recorder.record)

    async def _read_manifest(self) -> Manifest:
        source = self.settings.manifest
        if source is None:
            return await in_thread(read_built_in)
        if not is_on_network(source):
            return await load_local_manifest(source)
        if self.is_offline:
            # With a client that reaches nobody, the last good copy is used.
            async with httpx2.AsyncClient(transport=httpx2.MockTransport(_reach_nobody)) as client:
                return await load_manifest(source, home=self.home, client=client)
        async with open_client(await self.config.get()) as client:
            # What is fetched is not kept: the doctor changes nothing in the home.
            return await load_manifest(source, home=self.home, client=client, keep=False)

    async def _find_subject(self) -> Subject:
        manifest = await self.manifest.get()
        home = self.home if self.is_here else None
        return await in_thread(find_subject, home, self.settings, manifest)

    async def _plan(self) -> Planned:
        subject, machine = await self.subject.get(), await self.examined.get()
        requirements = parse_requirement_args(subject.requirements or ("torch",))
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
        now = await in_thread(plan_for, planned.request, collected.offers)
        return now if now.build is not None else planned

    async def _collect(self) -> CollectedOffers:
        planned, config = await self.planned.get(), await self.config.get()
        # The doctor changes nothing in the home, so listings go elsewhere.
        with TemporaryDirectory(prefix="moondream-station-") as folder:
            async with open_client(config, torch_index=self.settings.torch_index) as client:
                return await collect_offers(
                    planned.request,
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
