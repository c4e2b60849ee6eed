"""The workers of a station: each held open by a task of its own; the active model's started and replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus

from moondream_station.core.backends.code_store import BackendCode, read_backend
from moondream_station.core.backends.manifest import Manifest
from moondream_station.core.bus.bus import Bus
from moondream_station.core.environments.store import (
    CommitRecord,
    Place,
    check_whole,
    committed_at,
    place_of,
)
from moondream_station.core.facts.activation_state import WorkerState
from moondream_station.core.facts.errors import (
    BackendUnavailable,
    EnvironmentBroken,
    StationError,
    WorkerFailed,
)
from moondream_station.core.facts.events import (
    StopReason,
    VerificationCompleted,
    WorkerStarted,
    WorkerStopped,
)
from moondream_station.core.home.layout import Home
from moondream_station.core.home.log import Log
from moondream_station.core.processes.child_process import child_environment
from moondream_station.core.serving.queue import InferencePool
from moondream_station.core.weights.disk import model_cache
from moondream_station.core.worker.link import UNHEARD, Progress
from moondream_station.core.worker.loading import MemoryNeed, disk_usage, held_bytes, is_small
from moondream_station.core.worker.verification import WorkerPlan
from moondream_station.core.worker.worker import Worker, open_worker

_log = Log()
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What a worker is made from."""

    model: str
    code: BackendCode
    args: Mapping[str, object]
    place: Place
    plan: WorkerPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An environment that is whole, and the worker that belongs in it."""

    spec: WorkerSpec
    record: CommitRecord
    is_committed: bool = True


@dataclass(slots=True, kw_only=True, eq=False)
class HostedWorker:
    """A worker that a task holds open."""

    spec: WorkerSpec
    worker: Worker
    need: MemoryNeed | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    """Args with which the backend loads again what it fetched, as the commit that a branch named."""
    device: str | None = None
    reason: StopReason = StopReason.SHUTDOWN
    released: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)

    async def fetch(self, device: str | None, *, progress: Progress = UNHEARD) -> bool | None:
        """Let the backend bring what it will load; gives whether memory suffices, None where it won't say."""
        self.need, self.found = await self.worker.fetch(
            self.spec.code, self.spec.args, device=device, progress=progress
        )
        self.spec = replace(self.spec, args={**self.spec.args, **self.found})  # also for its next start
        return None if self.need is None else await anyio.to_thread.run_sync(self.need.is_met)

    async def load(self, device: str | None, *, progress: Progress = UNHEARD) -> None:
        """Call the backend's `init_backend`; it is ready when that returned."""
        self.device = device
        await self.worker.init(self.spec.code, self.spec.args, device=device, progress=progress)

    async def is_small(self) -> bool:
        """Whether ending it would free next to nothing, as measured; on a GPU, as its backend said."""
        if self.device not in {None, "cpu"}:
            return self.need is not None and is_small(self.need.needed_bytes)
        return await anyio.to_thread.run_sync(lambda: is_small(held_bytes(self.worker.pid)))

    def release(self, reason: StopReason) -> None:
        """Let it end; `ended` is set when it has."""
        if not self.released.is_set():
            self.reason = reason
            self.released.set()

    async def stop(self, reason: StopReason) -> None:
        """End it and wait until it has."""
        self.release(reason)
        await self.ended.wait()


@contextmanager
def as_worker_failure(model: str) -> Iterator[None]:
    """What the system refuses while a worker is started or loaded fails that worker, and nothing else."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise WorkerFailed(
            f"The worker of {model} can't be started: {error.strerror or error}{where}.",
            hint=f"`moondream-station doctor` checks the system; `moondream-station switch {model}` retries.",
        ) from error


@dataclass(eq=False, kw_only=True)
class WorkerHost:
    """Starts workers, and publishes that they started and stopped."""

    tasks: TaskGroup
    bus: Bus
    home: Home
    environ: Mapping[str, str]
    threads: int

    def __post_init__(self) -> None:
        self.settled = anyio.Event()
        """Set while no activation has ended a worker to make room; until then nobody hears of its end."""
        self.settled.set()

    async def start(self, spec: WorkerSpec, *, activation: str | None = None) -> HostedWorker:
        """Start a worker; returns when it has said hello."""
        with as_worker_failure(spec.model):
            hosted: HostedWorker = await self.tasks.start(self._hold, spec, activation)
        return hosted

    async def _hold(
        self, spec: WorkerSpec, activation: str | None, *, task_status: TaskStatus[HostedWorker]
    ) -> None:
        hosted: HostedWorker | None = None
        try:
            try:
                async with open_worker(
                    spec.place.python,
                    env=child_environment(self.environ),
                    cwd=spec.code.folder,
                    log_path=self.home.worker_log(spec.model),
                    threads=self.threads,
                ) as worker:
                    worker.signs_of_life = partial(disk_usage, model_cache(self.environ))
                    hosted = HostedWorker(spec=spec, worker=worker)
                    self.bus.publish(WorkerStarted(model=spec.model, pid=worker.pid), activation=activation)
                    task_status.started(hosted)
                    async with anyio.create_task_group() as watching:
                        watching.start_soon(_release_when_failed, hosted)
                        await hosted.released.wait()
                        watching.cancel_scope.cancel()
            except OSError as error:
                if hosted is None:
                    raise
                # Nobody waits for this task: raised here, it would end the station and every other worker.
                _log.warning("worker_not_ended_cleanly", model=spec.model, reason=str(error))
            if hosted.reason is StopReason.MEMORY:
                hosted.ended.set()  # the activation that waits for this is reported first
                await self.settled.wait()
        finally:
            if hosted is not None:
                self.bus.publish(WorkerStopped(model=spec.model, pid=hosted.worker.pid, reason=hosted.reason))
                hosted.ended.set()


async def _release_when_failed(hosted: HostedWorker) -> None:
    await hosted.worker.wait_failed()
    hosted.release(StopReason.CRASHED)


@dataclass(slots=True, eq=False)
class _Load:
    """A worker on its way, from its start until its backend is loaded."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)


@dataclass(eq=False, kw_only=True)
class ActiveWorker:
    """Holds the active model's worker, and puts the pool in front of it."""

    host: WorkerHost
    pool: InferencePool
    bus: Bus
    tasks: TaskGroup
    cpu_timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        self._current: HostedWorker | None = None
        self._loads: set[_Load] = set()
        self._is_claimed = False
        """Whether an activation's worker loads, or is about to, that no other may load beside."""
        self._evicted: WorkerSpec | None = None
        self.spec: WorkerSpec | None = None
        """What is served, or is to be: a worker of anything else that gets ready after all comes too late."""

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
        self.host.settled = anyio.Event()
        old, self._current = self._current, None
        self._evicted = old.spec if old is not None else self.spec
        self.spec = None
        self.pool.expect(spec.model)
        for load in tuple(self._loads):
            load.scope.cancel()
            await load.ended.wait()
        if old is not None:
            await old.stop(StopReason.MEMORY)
        self.bus.amend_worker(WorkerState.STOPPED)

    def take_over(self, hosted: HostedWorker) -> None:
        """Serve with this worker from now on; the old one ends when its last request has."""
        old, self._current, self._evicted = self._current, hosted, None
        self.spec, self._is_claimed = hosted.spec, False
        self._serve(hosted)
        if old is not None:
            self.tasks.start_soon(self._retire, old)

    def settle(self) -> None:
        """An activation has ended: start the worker again that made room, or waited, for one that failed."""
        self.host.settled.set()
        spec, self._evicted, self._is_claimed = self._evicted, None, False
        if spec is not None:
            self.tasks.start_soon(self._restore, spec)

    async def start(self, spec: WorkerSpec) -> None:
        """Start the worker of the model that is active already; requests wait for it.

        Where another one takes over while it loads, nothing comes of it, and no failure of it matters. Where
        another one loads already, this one waits until that has failed.
        """
        if self._is_claimed:
            self._evicted = spec
            return
        self.spec = spec
        self.pool.expect(spec.model)
        try:
            hosted = await self._ready(spec)
        except StationError as error:
            if self.spec is not spec:
                return
            self.pool.give_up(spec.model, error)
            raise
        if self._keep(hosted):
            self._serve(hosted)

    def _serve(self, hosted: HostedWorker) -> None:
        restart = partial(self._restart, hosted.spec)
        seconds = self.cpu_timeout_seconds if hosted.device in {None, "cpu"} else None
        self.pool.serve(hosted.worker, model=hosted.spec.model, restart=restart, timeout_seconds=seconds)

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
        hosted = await self.host.start(spec)
        try:
            verification = (await hosted.worker.verify(spec.plan)).checked()
            await hosted.load(verification.report.device)
        except BaseException:
            reason = StopReason.CRASHED if self.spec is spec else StopReason.MEMORY
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
        self._current = hosted
        return True

    async def _retire(self, old: HostedWorker) -> None:
        await self.pool.drained(old.worker)
        old.release(StopReason.REPLACED)


async def existing_worker(home: Home, manifest: Manifest, model: str, environment: str) -> Environment:
    """A model's worker in an environment that it has, or had before."""
    place = place_of(home, environment)
    try:
        committed = await anyio.to_thread.run_sync(committed_at, place)
        await check_whole(committed)
    except EnvironmentBroken as broken:
        again = f"`moondream-station switch {model} --upgrade` creates a new one."
        raise EnvironmentBroken(broken.message, hint=again, log=broken.log) from broken
    commit = committed.record
    code = await anyio.to_thread.run_sync(read_backend, home, commit.code_place)
    if code is None:
        raise BackendUnavailable(
            f"The code of the backend {commit.backend} {commit.backend_version} is gone.",
            hint=f"`moondream-station switch {model}` fetches it again.",
        )
    spec = WorkerSpec(
        model=model,
        code=code,
        args={**manifest.model(model).args, **commit.found.get(model, {})},
        place=place,
        plan=WorkerPlan(build=commit.build, torch=commit.torch),
    )
    return Environment(spec=spec, record=commit)
