"""The active model's worker in a station that serves: started, replaced, restarted, behind its queue."""

from __future__ import annotations

from functools import partial

import anyio
from anyio.abc import TaskGroup

from moondream_station.core.bus.bus import Bus
from moondream_station.core.facts.errors import StationError
from moondream_station.core.facts.events import StopReason, VerificationCompleted
from moondream_station.core.home.log import Log
from moondream_station.core.serving.queue import InferencePool
from moondream_station.core.serving.worker_host import HostedWorker, WorkerHost, WorkerSpec
from moondream_station.core.worker.verification import checked
from moondream_station.core.worker.worker import Worker

_log = Log()
_STOP_SECONDS = 5.0
_SMALL = "selftest"
"""The backend whose workers are known to be small enough to run beside any other."""


class ActiveWorker:
    """Holds the active model's worker, and puts the pool in front of it.

    Args:
        host: Starts workers.
        pool: Lets requests through.
        bus: Where facts are published.
        tasks: Where old workers finish their last requests.
    """

    def __init__(self, *, host: WorkerHost, pool: InferencePool, bus: Bus, tasks: TaskGroup) -> None:
        self._pool = pool
        self._host = host
        self._bus = bus
        self._tasks = tasks
        self._current: HostedWorker | None = None
        self._evicted: WorkerSpec | None = None
        self._target: WorkerSpec | None = None
        """What is to be served: a worker of anything else that gets ready after all comes too late."""

    def may_overlap(self, spec: WorkerSpec) -> bool:
        """Whether memory is known to suffice for the old and the new worker side by side."""
        return self._current is None or spec.code.id == _SMALL

    async def make_room(self, spec: WorkerSpec) -> None:
        """End the old worker, so that the new one can load; requests wait for that one."""
        old, self._current = self._current, None
        if old is None:
            return
        self._pool.expect(spec.model)
        self._evicted = old.spec
        await old.stop(StopReason.MEMORY)

    def take_over(self, hosted: HostedWorker) -> None:
        """Serve with this worker from now on; the old one ends when its last request has."""
        old, self._current, self._evicted = self._current, hosted, None
        self._target = hosted.spec
        self._serve(hosted)
        if old is not None:
            self._tasks.start_soon(self._retire, old)

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
        self._pool.serve(hosted.worker, model=hosted.spec.model, restart=restart)

    async def _restart(self, spec: WorkerSpec) -> Worker:
        hosted = await self._ready(spec)
        self._keep(hosted)  # where it came too late, the pool has no use for its worker either
        return hosted.worker

    async def _restore(self, spec: WorkerSpec) -> None:
        try:
            await self.start(spec)
        except StationError as error:
            _log.warning("old_worker_not_restored", model=spec.model, code=error.code, reason=error.message)

    async def _ready(self, spec: WorkerSpec) -> HostedWorker:
        hosted = await self._host.start(spec)
        try:
            verification = checked(await hosted.worker.verify(spec.plan))
            await hosted.load(verification.report.device)
        except BaseException:
            with anyio.move_on_after(_STOP_SECONDS, shield=True):
                await hosted.stop(StopReason.CRASHED)
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
