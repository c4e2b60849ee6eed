"""The active model's worker in a station that serves: started, replaced, restarted, behind its queue.

What HTTP asks of a station is `ServingStation`; what an activation asks of whoever serves is `Serving`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from moondream_station.core.activation.rollback import check_rollback
from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.bus.bus import Bus, Subscription
from moondream_station.core.facts.errors import StationError
from moondream_station.core.facts.events import StopReason, VerificationCompleted
from moondream_station.core.facts.state import StationState, status
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.log import Log
from moondream_station.core.serving.existing import existing_worker
from moondream_station.core.serving.queue import InferencePool
from moondream_station.core.serving.worker_host import HostedWorker, WorkerHost, WorkerSpec
from moondream_station.core.views.models import models_shape
from moondream_station.core.worker.judging import checked
from moondream_station.core.worker.worker import Worker

if TYPE_CHECKING:
    from moondream_station.core.station import Station

Examine: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
"""Looks at the machine and the station, and gives the doctor's shape; who serves brings it."""

_log = Log()
_STOP_SECONDS = 5.0
_SMALL = "selftest"
"""The backend whose workers are known to be small enough to run beside any other."""


class Serving:
    """Holds the active model's worker, and puts the pool in front of it.

    Args:
        host: Starts workers.
        pool: Lets requests through.
        bus: Where facts are published.
        tasks: Where old workers finish their last requests.
    """

    def __init__(self, *, host: WorkerHost, pool: InferencePool, bus: Bus, tasks: TaskGroup) -> None:
        self.pool = pool
        self._host = host
        self._bus = bus
        self._tasks = tasks
        self._current: HostedWorker | None = None
        self._evicted: WorkerSpec | None = None
        self._wanted: WorkerSpec | None = None
        """What is to be served: a worker of anything else that gets ready after all comes too late."""

    def may_overlap(self, spec: WorkerSpec) -> bool:
        """Whether memory is known to suffice for the old and the new worker side by side."""
        return self._current is None or spec.code.id == _SMALL

    async def make_room(self, spec: WorkerSpec) -> None:
        """End the old worker, so that the new one can load; requests wait for that one."""
        old, self._current = self._current, None
        if old is None:
            return
        self.pool.expect(spec.model)
        self._evicted = old.spec
        await old.stop(StopReason.MEMORY)

    def take_over(self, hosted: HostedWorker) -> None:
        """Serve with this worker from now on; the old one ends when its last request has."""
        old, self._current, self._evicted = self._current, hosted, None
        self._wanted = hosted.spec
        self._serve(hosted)
        if old is not None:
            self._tasks.start_soon(self._let_go, old)

    def restore(self) -> None:
        """Start the worker again that made room for one that failed."""
        spec, self._evicted = self._evicted, None
        if spec is not None:
            self._tasks.start_soon(self._restore, spec)

    async def start(self, spec: WorkerSpec) -> None:
        """Start the worker of the model that is active already; requests wait for it.

        Where another one takes over while it loads, nothing comes of it, and no failure of it matters.

        Raises:
            WorkerFailed: It died, or its backend could not be loaded.
            WorkerTimeout: It did not start, or stalled.
            VerificationFailed: Torch no longer works as it did.
        """
        self._wanted = spec
        self.pool.expect(spec.model)
        try:
            hosted = await self._ready(spec)
        except StationError as error:
            if self._wanted is not spec:
                return
            self.pool.give_up(spec.model, error)
            raise
        if self._came_in_time(hosted):
            self._serve(hosted)

    def _serve(self, hosted: HostedWorker) -> None:
        restart = partial(self._restart, hosted.spec)
        self.pool.serve(hosted.worker, model=hosted.spec.model, restart=restart)

    async def _restart(self, spec: WorkerSpec) -> Worker:
        hosted = await self._ready(spec)
        self._came_in_time(hosted)  # where it did not, the pool has no use for its worker either
        return hosted.worker

    async def _restore(self, spec: WorkerSpec) -> None:
        try:
            await self.start(spec)
        except StationError as error:
            _log.warning("old_worker_not_restored", model=spec.model, code=error.code, reason=error.message)

    async def _ready(self, spec: WorkerSpec) -> HostedWorker:
        hosted = await self._host.start(spec)
        try:
            verification = checked(await hosted.verify())
            await hosted.load(verification.report.device)
        except BaseException:
            with anyio.move_on_after(_STOP_SECONDS, shield=True):
                await hosted.stop(StopReason.CRASHED)
            raise
        if self._wanted is spec:  # else it says nothing of the active model
            self._bus.publish(
                VerificationCompleted(ok=True, report=verification.report, mismatches=verification.mismatches)
            )
        return hosted

    def _came_in_time(self, hosted: HostedWorker) -> bool:
        """Keep a worker that is ready, or let it go where another one has taken over meanwhile."""
        if self._wanted is not hosted.spec:
            hosted.release(StopReason.REPLACED)
            return False
        self._current = hosted
        return True

    async def _let_go(self, old: HostedWorker) -> None:
        await self.pool.drained(old.worker)
        old.release(StopReason.REPLACED)


async def without_doctor() -> Mapping[str, Any]:
    """What a station says that was opened without a doctor.

    Raises:
        StationError: Always.
    """
    raise StationError(
        "Nobody examines this station from inside.", hint="Run `moondream-station doctor` beside it."
    )


class ServingStation:
    """A station as HTTP sees it.

    Args:
        station: The station.
        serving: The active model's worker.
        examine: The doctor; it looks at the core, which therefore does not know it.
    """

    def __init__(self, station: Station, serving: Serving, examine: Examine) -> None:
        self._station = station
        self._serving = serving
        self._examine = examine

    @property
    def state(self) -> StationState:
        """Everything there is to show, as of now."""
        return self._station.bus.state

    def status(self) -> Mapping[str, Any]:
        """The status shape."""
        return status(self.state)

    def models(self) -> Mapping[str, Any]:
        """The manifest's models."""
        return models_shape(self._station.manifest, read_active(self._station.home))

    def stats(self) -> Mapping[str, Any]:
        """Counters of the inference queue."""
        return self._serving.pool.stats()

    async def doctor(self) -> Mapping[str, Any]:
        """Look at the machine and the station, as `doctor --json` does."""
        return await self._examine()

    def functions(self) -> frozenset[str]:
        """Names of the active backend's functions; empty while no model is active."""
        active = self.state.active
        backend = self._station.manifest.backends.get(active.backend) if active else None
        return frozenset(backend.served_functions) if backend else frozenset()

    def call(
        self, function: str, arguments: Mapping[str, Any], *, timeout_seconds: float | None
    ) -> AbstractAsyncContextManager[Mapping[str, Any] | AsyncIterator[Any]]:
        """Let the active backend run a function."""
        return self._serving.pool.call(function, arguments, timeout_seconds=timeout_seconds)

    def request_switch(
        self, model: str, strategy: str | None, *, upgrade: bool = False, python: Path | None = None
    ) -> tuple[str, bool]:
        """Ask for a model to become the active one; gives the activation's id and whether it ran already.

        Raises:
            UnknownModel: The manifest has no such model.
            UsageError: There is no such strategy.
        """
        if strategy is not None:
            check_strategy(strategy)
        return self._station.request_switch(model, strategy, upgrade=upgrade, python=python)

    def request_rollback(self, model: str) -> tuple[str, bool]:
        """Ask for the active model to go back to the environment it had before; answers as a switch does.

        Raises:
            UnknownModel: The manifest has no such model.
            NothingToRollBack: It had none before, or is not the active one.
        """
        self._station.manifest.model(model)
        check_rollback(self._station.home, model)
        return self._station.request_rollback(model)

    def request_cancel(self) -> str:
        """Ask the running activation to end, and return its id.

        Raises:
            NothingToCancel: None runs.
        """
        return self._station.request_cancel()

    def subscribe(self, *, after: int | None = None) -> AbstractAsyncContextManager[Subscription]:
        """Follow the events.

        Raises:
            HistoryGone: `after` is no longer in the history.
        """
        return self._station.bus.subscribe(after=after)

    @property
    def active_model(self) -> str | None:
        """The active model's id, None where none is."""
        active = self.state.active
        return active.model if active else None

    def expect_active(self) -> None:
        """Let requests wait for the active model's worker, from before anybody can ask."""
        if self.active_model in self._station.manifest.models:
            self._serving.pool.expect(str(self.active_model))

    async def start_active(self) -> None:
        """Start the worker of the model that is active, or activate it anew where that can't be.

        Nothing is resolved or installed for it, unless its environment or its code is gone or broken, or
        torch no longer works in it.
        """
        active = read_active(self._station.home)
        if active.model is None or active.model not in self._station.manifest.models:
            return
        environment = active.models[active.model].environment
        try:
            existing = await existing_worker(
                self._station.home, self._station.manifest, active.model, environment
            )
            if self._is_active(active.model, environment):
                await self._serving.start(existing.spec)
        except StationError as error:
            _log.warning(
                "active_model_not_started", model=active.model, code=error.code, reason=error.message
            )
            if self._is_active(active.model, environment) and not self._station.is_switching:
                self._station.request_switch(active.model)

    def _is_active(self, model: str, environment: str) -> bool:
        """Whether it still is: a switch may have ended while something else was waited for."""
        active = read_active(self._station.home)
        return active.model == model and active.models[model].environment == environment
