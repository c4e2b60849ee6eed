"""The active model's workers: started, replaced, ended while nobody needs them, and handed to the pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from moondream_station.core.backends.manifest import Parallel
from moondream_station.core.bus.bus import Bus
from moondream_station.core.environments.store import check_whole, committed_at
from moondream_station.core.facts.activation_state import WorkerState
from moondream_station.core.facts.errors import DoesNotFit, StationError, WorkerFailed
from moondream_station.core.facts.events import StopReason, VerificationCompleted
from moondream_station.core.home.log import Log
from moondream_station.core.serving.queue import InferencePool, Service
from moondream_station.core.serving.workers import HostedWorker, WorkerHost, WorkerSpec, as_worker_failure
from moondream_station.core.worker.loading import MemoryNeed, held_bytes
from moondream_station.core.worker.worker import Worker

_log = Log()
_STOP_SECONDS: Final = 5.0


@dataclass(slots=True, eq=False)
class _Load:
    """A worker on its way, from its start until its backend is loaded."""

    is_further: bool
    """Whether another worker of the model serves already."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)


@dataclass(eq=False, kw_only=True)
class ActiveWorker:
    """Holds the active model's workers, and puts the pool in front of them."""

    host: WorkerHost
    pool: InferencePool
    bus: Bus
    tasks: TaskGroup
    wake: Callable[[], object]
    """Starts the active model's worker, when a request comes while none runs."""
    cpu_timeout_seconds: float | None = None
    keep_alive_seconds: float = -1.0
    """How long a worker runs that nobody needs, where its model does not say; negative for ever."""

    def __post_init__(self) -> None:
        self._workers: list[HostedWorker] = []
        self._starting = anyio.Lock()
        """Held while one more worker starts: each must see what memory the one before it took."""
        self.limited: str | None = None
        """Why fewer requests are answered at once than asked for."""
        self._loads: set[_Load] = set()
        self._is_claimed = False
        """Whether an activation's worker loads, or is about to, that no other may load beside."""
        self._evicted: WorkerSpec | None = None
        self.spec: WorkerSpec | None = None
        """What is served, or is to be: a worker of anything else that gets ready after all comes too late."""
        self._absent = frozenset[str]()

    @property
    def functions(self) -> tuple[str, ...] | None:
        """Those of the served backend, without what its model turned out not to have; None without one."""
        if self.spec is None:
            return None
        return tuple(name for name in self.spec.code.functions if name not in self._absent)

    @property
    def serves(self) -> bool:
        """Whether a worker serves, is on its way to, or is to be started by the next request."""
        return bool(self._loads or self.living) or self.pool.is_asleep

    @property
    def living(self) -> list[HostedWorker]:
        """The workers that run and are loaded."""
        return [hosted for hosted in self._workers if hosted.worker.failure is None]

    async def make_room(self, spec: WorkerSpec, *, has_room: bool | None) -> None:
        """Before a new worker loads, end what must not be in memory beside it; requests wait for the new one.

        `has_room` is whether memory was seen to suffice for both; None where nobody knows what the new one
        needs: the old one stays if ending it would free next to nothing, unless it still loads.
        """
        self._is_claimed = True
        await self._end([load for load in self._loads if load.is_further], [], StopReason.MEMORY)
        if has_room is None and not self._loads and self._workers:
            has_room = all([await hosted.is_small() for hosted in self._workers])
        if not self._loads and (has_room or not self._workers):
            return
        self.host.settled = anyio.Event()
        old, self._workers = self._workers, []
        self._evicted = old[0].spec if old else self.spec
        self.spec = None
        self.pool.expect(spec.model)
        await self._end(list(self._loads), old, StopReason.MEMORY)
        self.bus.amend_worker(WorkerState.STOPPED)

    def take_over(self, hosted: HostedWorker) -> None:
        """Serve with this worker from now on; the old one ends when its last request has."""
        old, self._workers, self._evicted = self._workers, [hosted], None
        self.spec, self._is_claimed = hosted.spec, False
        self._serve(hosted, old)

    def settle(self) -> None:
        """An activation has ended: start the worker again that made room, or waited, for one that failed."""
        self.host.settled.set()
        spec, has_failed = self._evicted, self._is_claimed
        self._evicted, self._is_claimed = None, False
        if spec is not None:
            self.tasks.start_soon(self._restore, spec)
        elif has_failed and self.spec is not None:
            self.tasks.start_soon(self._widen, self.spec)  # what was on its way had made room

    async def stop(self, model: str) -> bool:
        """End the model's workers, and what they answer; the next request starts one.

        Returns whether any ran.
        """
        if self._evicted is not None or self.pool.is_asleep:
            return False
        loads, workers = list(self._loads), self._sleep(model, StopReason.SHUTDOWN)
        await self._end(loads, workers, StopReason.SHUTDOWN)
        return bool(loads or workers)

    def _sleep(self, model: str, reason: StopReason) -> list[HostedWorker]:
        """Let what serves end, and the next request start it again."""
        workers, self._workers = self._workers, []
        self.spec = self.spec and replace(self.spec)  # another one: what loads for it gets ready too late
        self.pool.sleep(model, self.wake)
        for load in self._loads:
            load.scope.cancel()
        for hosted in workers:
            hosted.release(reason)
        return workers

    async def _end(self, loads: list[_Load], workers: list[HostedWorker], reason: StopReason) -> None:
        """End workers, loaded or not, and wait until they have."""
        for load in loads:
            load.scope.cancel()
            await load.ended.wait()
        for hosted in workers:
            await hosted.stop(reason)

    async def start(self, spec: WorkerSpec) -> None:
        """Start the worker of the model that is active already; requests wait for it.

        Where another one takes over while it loads, nothing comes of it, and no failure of it matters. Where
        another one loads already, this one waits until that has failed.
        """
        if self._is_claimed:
            self._evicted = spec
            return
        self.spec, self._absent = spec, frozenset()
        self.pool.expect(spec.model)
        try:
            hosted = await self._ready(spec)
        except StationError as error:
            if self.spec is not spec:
                return
            self.pool.give_up(spec.model, error)
            raise
        if self._keep(hosted):
            self._serve(hosted, [])

    def _serve(self, hosted: HostedWorker, old: list[HostedWorker]) -> None:
        spec, keep_alive, self._absent = hosted.spec, self.keep_alive_seconds, hosted.absent
        if spec.keep_alive_seconds is not None:
            keep_alive = spec.keep_alive_seconds
        self.pool.serve(
            hosted.worker,
            Service(
                spec.model,
                restart=partial(self._restart, spec),
                timeout_seconds=self.cpu_timeout_seconds if hosted.device in {None, "cpu"} else None,
                idle_seconds=keep_alive if keep_alive >= 0 else None,
                on_idle=partial(self._sleep, spec.model, StopReason.MEMORY),
            ),
        )
        self.limited = None
        if self.host.parallel > 1 and spec.parallel is None:
            self._limit(f"The manifest does not say how {spec.code.id} answers several (`parallel`).")
        self.tasks.start_soon(self._settle_down, hosted, old)

    async def _settle_down(self, hosted: HostedWorker, old: list[HostedWorker]) -> None:
        """Let the former workers go, each when its last request has ended; then there is room for more."""
        async with anyio.create_task_group() as retiring:
            for former in old:
                retiring.start_soon(self._retire, former)
        await self._widen(hosted.spec)

    def _wants_more(self, spec: WorkerSpec) -> bool:
        """Whether one more worker would let one more request be answered at once."""
        wanted = self.host.parallel if spec.parallel is Parallel.PROCESSES else 1
        return self.spec is spec and 0 < len(self.living) < wanted

    async def _widen(self, spec: WorkerSpec) -> None:
        """Start further workers, where only several can answer at once, and memory allows it."""
        try:
            while self._wants_more(spec):
                async with self._starting:
                    if self._wants_more(spec):  # another one may have started meanwhile
                        self.pool.add(await self._further(spec))
                        self.limited = None
        except StationError as error:
            self._limit_to_living(spec, error)

    def _limit_to_living(self, spec: WorkerSpec, error: StationError) -> None:
        if self._wants_more(spec) and not self._is_claimed:
            self._limit(f"{len(self.living)} of {self.host.parallel} workers run: {error.message}")

    def _limit(self, reason: str) -> None:
        self.limited = reason
        _log.warning("workers_limited", reason=reason)

    async def _restart(self, spec: WorkerSpec) -> Worker:
        async with self._starting:
            for hosted in self._workers:
                if hosted.worker.failure is not None:
                    await hosted.ended.wait()  # its end is reported before the next one's start
            self._workers = self.living
            if self._workers:
                try:
                    return await self._further(spec)
                except DoesNotFit as error:  # the pool does without this one from now on
                    self._limit_to_living(spec, error)
                    raise
            with as_worker_failure(spec.model):
                await check_whole(await anyio.to_thread.run_sync(committed_at, spec.place))
            hosted = await self._ready(spec)
            self._keep(hosted)  # where it came too late, the pool has no use for its worker either
            return hosted.worker

    async def _further(self, spec: WorkerSpec) -> Worker:
        """One more worker beside those that serve; `DoesNotFit` where memory does not suffice for it."""
        if self._is_claimed or not self._wants_more(spec):
            raise DoesNotFit("No further worker is wanted.")
        hosted = await self._ready(spec, beside=self._workers[0])
        if not self._keep(hosted):
            raise WorkerFailed("Another model is served by now.")
        return hosted.worker

    async def _restore(self, spec: WorkerSpec) -> None:
        try:
            await self.start(spec)
        except StationError as error:
            _log.warning("old_worker_not_restored", model=spec.model, code=error.code, reason=error.message)

    async def _ready(self, spec: WorkerSpec, *, beside: HostedWorker | None = None) -> HostedWorker:
        """A worker whose backend is loaded; a `StationError` as in `start`, also where it made room."""
        load = _Load(is_further=beside is not None)
        self._loads.add(load)
        try:
            with load.scope, as_worker_failure(spec.model):
                return await self._load(spec, beside)
        finally:
            self._loads.discard(load)
            load.ended.set()
        raise WorkerFailed(f"The worker of {spec.model} made room for another one.")

    async def _load(self, spec: WorkerSpec, beside: HostedWorker | None) -> HostedWorker:
        hosted = await self.host.start(spec)
        try:
            verification = (await hosted.worker.verify(spec.plan)).checked()
            if beside is not None:
                await _check_memory(hosted, beside, verification.report.device)
            await hosted.load(verification.report.device)
        except BaseException:
            is_missed = self.spec is spec and beside is None
            reason = StopReason.CRASHED if is_missed else StopReason.MEMORY
            with anyio.move_on_after(_STOP_SECONDS, shield=True):
                await hosted.stop(reason)
            raise
        if self.spec is spec:  # otherwise it says nothing about the active model
            self.bus.publish(
                VerificationCompleted(ok=True, report=verification.report, mismatches=verification.mismatches)
            )
        return hosted

    def _keep(self, hosted: HostedWorker) -> bool:
        """Keep a worker that is ready, unless another one has taken over meanwhile: then let it go."""
        if self.spec is not hosted.spec:
            hosted.release(StopReason.REPLACED)
            return False
        self._workers.append(hosted)
        return True

    async def _retire(self, old: HostedWorker) -> None:
        await self.pool.drained(old.worker)
        old.release(StopReason.REPLACED)


async def _check_memory(hosted: HostedWorker, beside: HostedWorker, device: str | None) -> None:
    """Raise `DoesNotFit` where memory is not known to suffice for a worker beside one of the same model.

    What it needs is what its backend says or, in the computer's memory, what the other one holds.
    """
    spec = hosted.spec
    need, _ = await hosted.worker.fetch(spec.code, spec.args, device=device)
    if need is None and device in {None, "cpu"}:
        held = await anyio.to_thread.run_sync(held_bytes, beside.worker.pid)
        need = MemoryNeed(needed_bytes=held, free_on_device_bytes=None)
    if need is None:
        raise DoesNotFit(f"the backend {spec.code.id} does not say how much GPU memory another one needs.")
    if shortage := await anyio.to_thread.run_sync(need.shortage):
        raise DoesNotFit(f"another one needs {shortage}.")
