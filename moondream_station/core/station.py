"""The station: its services wired together, and what the edges ask of them.

Nothing else constructs services. A command that only switches opens a station that serves nobody; a serving
one has a pool in front of the active model's worker, and the HTTP server talks to it alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from moondream_station.core.activation.activation import (
    Activation,
    ActivationRequest,
    wait_for_cancel_request,
)
from moondream_station.core.activation.active_model import ActiveModel
from moondream_station.core.activation.housekeeping import check_rollback
from moondream_station.core.activation.inspection import Inspection
from moondream_station.core.activation.models import list_models
from moondream_station.core.activation.orchestrator import Orchestrator
from moondream_station.core.activation.workshop import Tools
from moondream_station.core.backends.manifest import Manifest
from moondream_station.core.backends.manifest_loader import ManifestFile, open_manifest
from moondream_station.core.backends.manifest_places import is_on_network
from moondream_station.core.backends.provide import known_requirements
from moondream_station.core.backends.signatures import read_signatures
from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.bus.bus import Bus, new_activation_id
from moondream_station.core.bus.journal import Journal
from moondream_station.core.capabilities.cache import CapabilityCache
from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.errors import (
    NoActiveModel,
    NothingToCancel,
    UnknownModel,
)
from moondream_station.core.facts.events import (
    BackendActivationRequested,
    CancelReason,
    Event,
)
from moondream_station.core.facts.functions import Signature
from moondream_station.core.facts.state import CallShown, StationInfo, StationState, status, worker_shown
from moondream_station.core.home.layout import Home
from moondream_station.core.home.log import Log
from moondream_station.core.home.settings import Settings
from moondream_station.core.index.catalog_loader import open_catalog
from moondream_station.core.machine.machine import LocalMachine, Machine
from moondream_station.core.serving.active_worker import ActiveWorker
from moondream_station.core.serving.queue import InferencePool
from moondream_station.core.serving.tally import Tally
from moondream_station.core.serving.workers import WorkerHost
from moondream_station.core.views.overview import stored_state

_log = Log()

_SECONDS = 30.0
_CPU_SECONDS = 600.0
"""What a request may take by default on a CPU, where Moondream 2 needs minutes for an image."""


class Station:
    """One run of the station on a home, as the edges see it. Made by `open_station`."""

    doctor: Callable[[], Coroutine[Any, Any, Mapping[str, Any]]]
    """Examines the machine and the station, and gives the doctor's shape. Set by who serves over HTTP."""

    def __init__(
        self,
        *,
        home: Home,
        settings: Settings,
        environ: Mapping[str, str],
        manifest: Manifest,
        catalog: Catalog,
        bus: Bus,
        journal: Journal,
        machine: Machine,
        tally: Tally,
        tasks: TaskGroup,
    ) -> None:
        self.home = home
        self.settings = settings
        self.bus = bus
        self._journal = journal
        self._tasks = tasks
        self._latest: Activation | None = None
        source = settings.manifest
        self._manifest_file = None if source is None or is_on_network(source) else ManifestFile(source)
        host = WorkerHost(
            tasks=tasks, bus=bus, home=home, environ=environ, parallel=settings.inference_workers
        )
        self._pool = InferencePool(
            max_queue_size=settings.inference_max_queue_size,
            default_timeout_seconds=settings.inference_timeout or _SECONDS,
            on_given_up=lambda failure: tasks.start_soon(self._kept.start_again, failure),
            tally=tally,
        )
        tasks.start_soon(self._pool.run)
        seconds = None if settings.inference_timeout else _CPU_SECONDS
        self._active = ActiveWorker(
            host=host,
            pool=self._pool,
            bus=bus,
            tasks=tasks,
            wake=lambda: tasks.start_soon(self._kept.wake),
            cpu_timeout_seconds=seconds,
            keep_alive_seconds=settings.keep_alive,
        )
        self._kept = ActiveModel(
            home=home,
            active=self._active,
            tasks=tasks,
            manifest=lambda: self.manifest,
            switch=lambda model: self.request_switch(model, anyway=True),
            latest=lambda: self._latest,
        )
        self.start_active = self._kept.start
        tools = Tools(
            home=home,
            environ=environ,
            settings=settings,
            catalog=catalog,
            manifest=manifest,
            cache=CapabilityCache(home, machine),
        )
        active = None if bus.state.station is None else self._active
        self._orchestrator = Orchestrator(tools=tools, host=host, active=active)
        self.inspection = Inspection(
            settings=settings,
            machine=machine,
            tools=lambda: self._orchestrator.tools,
            state=lambda: bus.state,
        )
        self.stats = self._pool.stats
        self.call = self._pool.call
        self.subscribe = bus.subscribe

    @property
    def manifest(self) -> Manifest:
        """The manifest, as the next activation will use it."""
        return self._orchestrator.tools.manifest

    @property
    def state(self) -> StationState:
        """Everything there is to show, as of now."""
        return self.bus.state

    @property
    def active_model(self) -> str | None:
        """The active model's id, None where none is."""
        active = self.state.active
        return active.model if active else None

    @property
    def _running(self) -> Activation | None:
        latest = self._latest
        return None if latest is None or latest.outcome is not None else latest

    def status(self) -> Mapping[str, Any]:
        """The status shape."""
        calls = tuple(CallShown(**call) for call in self._pool.calls())
        return status(self.state, calls, worker_shown(self.state, self.functions(), self._pool.failure))

    def models(self) -> Mapping[str, Any]:
        """The manifest's models."""
        self._reread_manifest()
        tools = self._orchestrator.tools
        capabilities = self.state.capabilities
        return list_models(
            self.manifest, self.home, capabilities, tools.environ, tools.catalog, self.settings
        )

    def functions(self) -> frozenset[str]:
        """Names of the active backend's functions; empty while no model is active."""
        if (served := self._active.functions) is not None:  # what runs, whatever the manifest says by now
            return frozenset(served)
        active = self.state.active
        backend = self.manifest.backends.get(active.backend) if active else None
        return frozenset(backend.served_functions) if backend else frozenset()

    def signatures(self) -> Mapping[str, Signature]:
        """The active backend's functions, each with what its code says of it."""
        if self._active.spec is None:
            return dict.fromkeys(sorted(self.functions()), Signature())
        code = self._active.spec.code
        return read_signatures(code.folder / f"{code.entry_module}.py", self._active.functions or ())

    def request_switch(
        self,
        model: str,
        strategy: str | None = None,
        *,
        upgrade: bool = False,
        python: Path | None = None,
        anyway: bool = False,
        accept_notice: bool = False,
    ) -> tuple[str, bool]:
        """Ask for a model to become the active one; gives the activation's id, and whether it ran already.

        A request for what is under way already joins it; any other one takes the place of what is. Without a
        strategy it is the setting's. `upgrade` resolves again although an environment exists, made from the
        interpreter `python`; `anyway` goes on where the model does not fit the machine.

        Raises:
            UnknownModel: The manifest has no such model; the attempt and its failure are published.
            UsageError: There is no such strategy.
        """
        if strategy is not None:
            check_strategy(strategy)
        self._reread_manifest()
        request = ActivationRequest(
            id=new_activation_id(after=self.bus.state.seq),
            model=model,
            strategy=strategy or self.settings.strategy,
            upgrade=upgrade,
            python=python,
            anyway=anyway,
            accept_notice=accept_notice,
        )
        return self._begin(request)

    def request_rollback(self, model: str) -> tuple[str, bool]:
        """Ask for the active model to go back to the environment that it had before; as `request_switch`.

        Raises:
            UnknownModel: The manifest has no such model.
            NothingToRollBack: It had no environment before, or is not the active one.
        """
        self._reread_manifest()
        self.manifest.model(model)
        check_rollback(self.home, model)
        request = ActivationRequest(
            id=new_activation_id(after=self.bus.state.seq),
            model=model,
            strategy=self.settings.strategy,
            rollback=True,
        )
        return self._begin(request)

    def request_cancel(self, reason: CancelReason = CancelReason.USER) -> str:
        """Ask the running activation to end, and return its id.

        Raises:
            NothingToCancel: None runs.
        """
        running = self._running
        if running is None:
            raise NothingToCancel("No activation is running.")
        running.cancel(reason)
        return running.id

    async def stop(self) -> Mapping[str, Any]:
        """End the active model's worker, so that its memory is free; the next request starts it again.

        Raises:
            NoActiveModel: No model is active.
        """
        if (model := self.active_model) is None:
            raise NoActiveModel("No model is active.", hint="`moondream-station switch MODEL` activates one.")
        return {"model": model, "stopped": await self._active.stop(model)}

    def figures(self) -> Mapping[str, Any]:
        """What was done since the station started, with 0.1's keys first."""
        stats = self._pool.tally.stats(self._pool.stats(), limited=self._active.limited)
        shape: Mapping[str, Any] = to_json(stats)
        return shape

    async def wait(self, activation_id: str) -> Event:
        """Wait until the latest activation of this run has ended; gives its terminal fact."""
        latest = self._latest
        if latest is None or latest.id != activation_id:
            raise NothingToCancel(f"The activation {activation_id} does not run here.")
        await latest.ended.wait()
        assert latest.outcome is not None  # noqa: S101  that is what ended means
        return latest.outcome

    def expect_active(self) -> None:
        """Let requests wait for the active model's worker, from before anybody can ask."""
        if self.active_model in self.manifest.models:
            self._pool.expect(str(self.active_model))

    def _reread_manifest(self) -> None:
        changed = self._manifest_file.reread(self.manifest) if self._manifest_file is not None else None
        if changed is not None:
            self._orchestrator.tools = replace(self._orchestrator.tools, manifest=changed)

    def _begin(self, request: ActivationRequest) -> tuple[str, bool]:
        running = self._running
        if running is not None and running.is_for(request):
            return running.id, True
        activation = Activation(request, bus=self.bus, journal=self._journal)
        activation.publish(self._requested(request))
        try:
            self.manifest.model(request.model)
        except UnknownModel as error:
            activation.fail(error)
            raise
        if running is not None:
            running.cancel(CancelReason.SUPERSEDED)
        before, self._latest = self._latest, activation
        self._tasks.start_soon(self._run, activation, before)
        return activation.id, False

    def _requested(self, request: ActivationRequest) -> BackendActivationRequested:
        model = self.manifest.models.get(request.model)
        known = known_requirements(request.model, manifest=self.manifest, home=self.home)
        return BackendActivationRequested(
            model=request.model,
            backend=model.backend if model else None,
            requirements=known.texts if known else (),
            strategy=request.strategy,
        )

    async def _run(self, activation: Activation, before: Activation | None) -> None:
        async def obey_requests() -> None:
            await wait_for_cancel_request(self.home, activation.id)
            activation.cancel(CancelReason.USER)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(obey_requests)
            await self._orchestrator.run(activation, after=before)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def open_station(
    home: Home,
    settings: Settings,
    environ: Mapping[str, str],
    *,
    station: StationInfo | None = None,
    machine: Machine | None = None,
) -> AsyncIterator[Station]:
    """Open the station on a home; when the block is left, activations are cancelled and workers ended.

    Without `station`, which says who serves, it serves nobody: a command that only switches.

    Raises:
        HomeUnusable: The home can't be used.
        ManifestInvalid: The manifest can't be.
    """
    home.create()
    manifest = await open_manifest(home, settings, environ)
    catalog = await open_catalog(settings, home=home, environ=environ)
    if catalog.doubt:
        _log.warning("catalog_not_used", reason=catalog.doubt)
    journal = Journal(home)
    tally = Tally()
    state = stored_state(home, station=station, manifest=manifest)
    bus = Bus(state=state, journal=journal, observe=tally.observe)
    async with anyio.create_task_group() as tasks:
        opened = Station(
            home=home,
            settings=settings,
            environ=environ,
            manifest=manifest,
            catalog=catalog,
            bus=bus,
            journal=journal,
            machine=machine or LocalMachine(environ),
            tally=tally,
            tasks=tasks,
        )
        try:
            yield opened
        finally:
            bus.close()
            tasks.cancel_scope.cancel()
