"""The workers of a station: each held open by a task of its own, which publishes its start and end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus

from moondream_station.core.backends.code_store import BackendCode, read_backend
from moondream_station.core.backends.manifest import Manifest, Parallel
from moondream_station.core.bus.bus import Bus
from moondream_station.core.environments.store import (
    CommitRecord,
    Place,
    check_whole,
    committed_at,
    place_of,
)
from moondream_station.core.facts.errors import (
    BackendUnavailable,
    EnvironmentBroken,
    WorkerFailed,
)
from moondream_station.core.facts.events import StopReason, WorkerStarted, WorkerStopped
from moondream_station.core.home.layout import Home
from moondream_station.core.home.log import Log
from moondream_station.core.processes.child_process import child_environment
from moondream_station.core.weights.disk import model_cache
from moondream_station.core.worker.link import UNHEARD, Progress
from moondream_station.core.worker.loading import MemoryNeed, disk_usage, held_bytes, is_small
from moondream_station.core.worker.verification import WorkerPlan
from moondream_station.core.worker.worker import Worker, open_worker

_log = Log()
_STOP_SECONDS = 5.0
_OF_HUB = {"HF_HUB_DISABLE_XET": "1"}
"""For Hugging Face's client, unless the user sets it: what breaks off starts at zero with Xet. Without, its
versions 0.x resume, which 0.1's backends have that fetch with transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What a worker is made from."""

    model: str
    code: BackendCode
    args: Mapping[str, object]
    place: Place
    plan: WorkerPlan
    parallel: Parallel | None = None
    """How the backend answers several requests at once, None where it does not say that it can."""
    keep_alive_seconds: float | None = None
    """As `keep_alive` in the settings; None where the manifest leaves it to them."""

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        model: str,
        code: BackendCode,
        place: Place,
        plan: WorkerPlan,
        found: Mapping[str, object] = MappingProxyType({}),
    ) -> WorkerSpec:
        """What the manifest says of a model's worker; `found` is what its backend said at its last switch."""
        info = manifest.model(model)
        backend = manifest.backends.get(info.backend)
        return cls(
            model=model,
            code=code,
            args={**info.args, **found},
            place=place,
            plan=plan,
            parallel=backend.parallel if backend else None,
            keep_alive_seconds=info.keep_alive,
        )


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
    absent: frozenset[str] = frozenset()
    """Functions that the manifest lists and the model does not have."""
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
        self.absent = await self.worker.init(self.spec.code, self.spec.args, device=device, progress=progress)

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
    parallel: int
    """How many requests are to be answered at once, where a backend can."""

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
                    env=_OF_HUB | child_environment(self.environ),
                    cwd=spec.code.folder,
                    log_path=self.home.worker_log(spec.model),
                    threads=self.parallel if spec.parallel is Parallel.THREADS else 1,
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
    plan = WorkerPlan(build=commit.build, torch=commit.torch)
    spec = WorkerSpec.of(manifest, model, code, place, plan, commit.found.get(model, {}))
    return Environment(spec=spec, record=commit)
