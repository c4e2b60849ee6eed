"""The active model's worker in a station that serves: started, replaced, restarted, behind its queue."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from moondream_station.core.bus.bus import Bus
from moondream_station.core.environments.store import check_whole, committed_at
from moondream_station.core.facts.activation_state import WorkerState
from moondream_station.core.facts.errors import StationError, WorkerFailed
from moondream_station.core.facts.events import StopReason, VerificationCompleted
from moondream_station.core.home.log import Log
from moondream_station.core.serving.queue import InferencePool
from moondream_station.core.serving.worker_host import HostedWorker, WorkerHost, WorkerSpec, as_worker_failure
from moondream_station.core.worker.worker import Worker

_log = Log()
_STOP_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Load:
    """A worker on its way, from its start until its backend is loaded."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)


class ActiveWorker:
    """Holds the active model's worker, and puts the pool in front of it."""

    def __init__(
        self,
        *,
        host: WorkerHost,
        pool: InferencePool,
        bus: Bus,
        tasks: TaskGroup,
        cpu_timeout_seconds: float | None = None,
    ) -> None:
        self._pool = pool
        self._host = host
        self._bus = bus
        self._tasks = tasks
        self._cpu_timeout_seconds = cpu_timeout_seconds
        self._current: HostedWorker | None = None
        self._loads: set[_Load] = set()
        self._is_claimed = False
        """Whether an activation's worker loads, or is about to, that no other may load beside."""
        self._evicted: WorkerSpec | None = None
        self._target: WorkerSpec | None = None
        """What is to be served: a worker of anything else that gets ready after all comes too late."""

    @property
    def spec(self) -> WorkerSpec | None:
        """What is served, or on its way to be; None where nothing is."""
        return self._target

    @property
    def serves(self) -> bool:
        """Whether a worker serves, or is on its way to."""
        return bool(self._loads) or (self._current is not None and self._current.worker.failure is None)

    async def make_room(self, spec: WorkerSpec, *, has_room: bool | None) -> None:
        """Before a new worker loads, end what must not be in memory beside it; requests wait for the new one.

        `has_room` is whether memory was seen to suffice for both; None where nobody knows what the new one
        needs: the old one stays if ending it would free next to nothing, unless it still loads.
        """
        self._is_claimed = True
        if has_room is None and not self._loads and self._current is not None:
            has_room = await self._current.is_small()
        if not self._loads and (has_room or self._current is None):
            return
        self._host.settled = anyio.Event()
        old, self._current = self._current, None
        self._evicted = old.spec if old is not None else self._target
        self._target = None
        self._pool.expect(spec.model)
        for load in tuple(self._loads):
            load.scope.cancel()
            await load.ended.wait()
        if old is not None:
            await old.stop(StopReason.MEMORY)
        self._bus.amend_worker(WorkerState.STOPPED)

    def take_over(self, hosted: HostedWorker) -> None:
        """Serve with this worker from now on; the old one ends when its last request has."""
        old, self._current, self._evicted = self._current, hosted, None
        self._target, self._is_claimed = hosted.spec, False
        self._serve(hosted)
        if old is not None:
            self._tasks.start_soon(self._retire, old)

    def settle(self) -> None:
        """An activation has ended: start the worker again that made room, or waited, for one that failed."""
        self._host.settled.set()
        spec, self._evicted, self._is_claimed = self._evicted, None, False
        if spec is not None:
            self._tasks.start_soon(self._restore, spec)

    async def start(self, spec: WorkerSpec) -> None:
        """Start the worker of the model that is active already; requests wait for it.

        Where another one takes over while it loads, nothing comes of it, and no failure of it matters. Where
        another one loads already, this one waits until that has failed.
        """
        if self._is_claimed:
            self._evicted = spec
            return
        self._target = spec
        self._pool.expect(spec.model)
        try:
            hosted = await self._ready(spec)
        except StationError as error:
            if self._target is not spec:
                return
            self._pool.give_up(spec.model, error)
            raise
        if self._keep(hosted):
            self._serve(hosted)

    def _serve(self, hosted: HostedWorker) -> None:
        restart = partial(self._restart, hosted.spec)
        seconds = self._cpu_timeout_seconds if hosted.device in {None, "cpu"} else None
        self._pool.serve(hosted.worker, model=hosted.spec.model, restart=restart, timeout_seconds=seconds)

    async def _restart(self, spec: WorkerSpec) -> Worker:
        with as_worker_failure(spec.model):
            await check_whole(await anyio.to_thread.run_sync(committed_at, spec.place))
        hosted = await self._ready(spec)
        self._keep(hosted)  # where it came too late, the pool has no use for its worker either
        return hosted.worker

    async def _restore(self, spec: WorkerSpec) -> None:
        try:
            await self.start(spec)
        except StationError as error:
            _log.warning("old_worker_not_restored", model=spec.model, code=error.code, reason=error.message)

    async def _ready(self, spec: WorkerSpec) -> HostedWorker:
        """A worker whose backend is loaded; a `StationError` as in `start`, also where it made room."""
        load = _Load()
        self._loads.add(load)
        try:
            with load.scope, as_worker_failure(spec.model):
                return await self._load(spec)
        finally:
            self._loads.discard(load)
            load.ended.set()
        raise WorkerFailed(f"The worker of {spec.model} made room for another one.")

    async def _load(self, spec: WorkerSpec) -> HostedWorker:
        hosted = await self._host.start(spec)
        try:
            verification = (await hosted.worker.verify(spec.plan)).checked()
            await hosted.load(verification.report.device)
        except BaseException:
            reason = StopReason.CRASHED if self._target is spec else StopReason.MEMORY
            with anyio.move_on_after(_STOP_SECONDS, shield=True):
                await hosted.stop(reason)
            raise
        if self._target is spec:  # otherwise it says nothing about the active model
            self._bus.publish(
                VerificationCompleted(ok=True, report=verification.report, mismatches=verification.mismatches)
            )
        return hosted

    def _keep(self, hosted: HostedWorker) -> bool:
        """Keep a worker that is ready, unless another one has taken over meanwhile: then let it go."""
        if self._target is not hosted.spec:
            hosted.release(StopReason.REPLACED)
            return False
        self._current = hosted
        return True

    async def _retire(self, old: HostedWorker) -> None:
        await self._pool.drained(old.worker)
        old.release(StopReason.REPLACED)
