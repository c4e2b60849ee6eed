"""The inference queue in front of the active model's worker, and the restart of a worker that crashed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from moondream_station.core.facts.errors import (
    EnvironmentBroken,
    NoActiveModel,
    StationError,
    WorkerBusy,
    WorkerFailed,
    WorkerLoading,
    WorkerReplaced,
    WorkerTimeout,
)
from moondream_station.core.worker.link import UNHEARD, CallStream, Progress, Request
from moondream_station.core.worker.worker import Worker, answer


class Line:
    """Requests in the order they came, each waiting for a free seat at the worker of the moment.

    Everything but waiting is synchronous, so that nothing can come between looking and taking.
    """

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self._waiting: dict[object, anyio.Event] = {}
        self.seated: Counter[Worker] = Counter()
        """How many calls occupy each worker, the former ones included."""
        self.changed = anyio.Event()
        """Set, and another one in its place, when something is worth looking at again."""

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self) -> object:
        """Stand at the end of the line; gives a ticket."""
        ticket = object()
        self._waiting[ticket] = anyio.Event()
        self.change()
        return ticket

    def leave(self, ticket: object) -> None:
        """Give up one's place, seated or not."""
        del self._waiting[ticket]
        self.change()

    def take_seat(self, ticket: object, worker: Worker) -> bool:
        """Take a living worker's seat, if one is free and nobody stands before the ticket."""
        is_free = worker.failure is None and self.seated[worker] < worker.threads
        if not is_free or next(iter(self._waiting)) is not ticket:
            return False
        self.seated[worker] += 1
        self.change()
        return True

    def give_seat_back(self, worker: Worker) -> None:
        """The worker is done with one call."""
        self.seated -= Counter([worker])  # which drops a worker without calls
        self.change()

    def change(self, *, is_for_all: bool = False) -> None:
        """Let who is first look again; waking everybody for each seat made 64 clients slower than one."""
        for turn in islice(self._waiting.values(), None if is_for_all else 1):
            turn.set()
        self.changed.set()
        self.changed = anyio.Event()

    async def wait_for_turn(self, ticket: object) -> None:
        """Wait until it is worth trying to take a seat again."""
        turn = self._waiting[ticket] = anyio.Event()
        await turn.wait()


_STEADY_SECONDS: Final = 60.0
"""A worker that lived so long failed for a reason of its own: the count starts again."""


@dataclass(frozen=True, slots=True, eq=False)
class _Service:
    """A model that is served, and how to get another worker for it."""

    model: str
    restart: Callable[[], Awaitable[Worker]] | None = None
    timeout_seconds: float | None = None


@dataclass(eq=False, kw_only=True)
class InferencePool:
    """Lets requests through to the worker, as many at once as it has threads."""

    max_queue_size: int = 10
    default_timeout_seconds: float = 30.0
    """How long a request may wait and be worked on, where it does not say itself."""
    loading_seconds: float = 60.0
    stuck_seconds: float = 300.0
    """How long a call that nobody waits for any more may occupy the worker before that is replaced."""
    back_off_seconds: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0)
    """Before each restart in a row; after as many failures the worker is given up."""
    on_given_up: Callable[[StationError], object] = lambda _: None
    """Called with why, when a worker failed too often in a row or can't be restarted."""

    def __post_init__(self) -> None:
        self._line = Line()
        self._service: _Service | None = None
        """What is served; a worker of it is on the line, or loads, or is not available."""
        self._service_changed = anyio.Event()
        self._failure: StationError | None = None
        """Why there is no worker; one may be on its way again."""
        self._is_restarting = False
        self._begun: list[Request] = []
        self._timeouts = 0
        self._processed = 0
        self._answered = 0
        self._tasks: TaskGroup | None = None

    def expect(self, model: str) -> None:
        """A worker for this model is being loaded, and none serves: requests wait for it."""
        self._change(_Service(model))

    @property
    def failure(self) -> StationError | None:
        """Why no worker serves; None also where one loads, or is restarted in a moment."""
        return None if self._is_restarting else self._failure

    @property
    def timeout_seconds(self) -> float:
        """The limit of a request that does not say one itself."""
        return (self._service and self._service.timeout_seconds) or self.default_timeout_seconds

    def serve(
        self,
        worker: Worker,
        *,
        model: str,
        restart: Callable[[], Awaitable[Worker]],
        timeout_seconds: float | None = None,
    ) -> None:
        """Send new calls to this worker; those that run on another one finish there (see `drained`).

        `restart` gives another worker that is ready when this one failed, or raises `StationError`; it is
        cancelled when something else is to be served.
        """
        self._change(_Service(model, restart, timeout_seconds), worker)

    def give_up(self, model: str, failure: StationError) -> None:
        """No worker can serve this model: requests are told why."""
        self._change(_Service(model), failure=failure)

    async def drained(self, worker: Worker) -> None:
        """Wait until no call runs on a worker."""
        while worker in self._line.seated:
            await self._line.changed.wait()
        await checkpoint()

    async def run(self) -> None:
        """Look after one worker after another, for as long as the station lives."""
        async with anyio.create_task_group() as lasting:
            self._tasks = lasting
            try:
                while True:
                    changed, service, worker = self._service_changed, self._service, self._line.worker
                    async with anyio.create_task_group() as tasks:
                        if service is not None and service.restart is not None and worker is not None:
                            tasks.start_soon(self._keep_alive, service, service.restart, worker)
                        await changed.wait()
                        tasks.cancel_scope.cancel()  # a change of service ends what is done for the former
            finally:
                self._tasks = None

    @asynccontextmanager
    async def call(
        self,
        function: str,
        kwargs: Mapping[str, Any],
        *,
        timeout_seconds: float | None = None,
        progress: Progress = UNHEARD,
    ) -> AsyncIterator[dict[str, Any] | CallStream]:
        """Let the active model's backend run a function; leaving the block gives up what is left of a stream.

        `timeout_seconds` is for waiting and answer together, and then for each chunk of a streamed one; None,
        0 or less is the default. A `WorkerTimeout` may also come while the stream is read. `progress` is
        called until the answer, or its stream, begins.
        """
        seconds = timeout_seconds if timeout_seconds is not None and timeout_seconds > 0 else None
        try:
            worker, request, result = await self._ask(function, kwargs, seconds, progress)
            try:
                yield result
            finally:
                self._let_go(worker, request)
        except WorkerTimeout:
            self._timeouts += 1
            raise

    def stats(self) -> dict[str, Any]:
        """Counters, with the keys of Moondream Station 0.1."""
        worker = self._line.worker
        return {
            "workers": 0 if worker is None else worker.threads,
            "queue_size": len(self._line),
            "max_queue_size": self.max_queue_size,
            "processing": self._line.seated.total(),
            "timeouts": self._timeouts,
            "default_timeout": self.timeout_seconds,
            "model": None if self._service is None else self._service.model,
            "status": "stopped" if self._service is None else "running",
            "requests_processed": self._processed,
        }

    def calls(self) -> list[dict[str, Any]]:
        """What the workers work on, and how far that is."""
        return [request.shown() for request in self._begun if not request.is_ended]

    async def _ask(
        self, function: str, kwargs: Mapping[str, Any], own_seconds: float | None, progress: Progress
    ) -> tuple[Worker, Request, dict[str, Any] | CallStream]:
        """Get an answer; a call that a worker never began before it ended goes to the next worker."""
        while True:
            seconds = own_seconds or self.timeout_seconds
            worker, deadline = await self._take_seat(function, seconds, is_patient=own_seconds is None)
            try:
                request = worker.begin(function, kwargs, on_end=partial(self._line.give_seat_back, worker))
            except StationError:
                self._line.give_seat_back(worker)
                raise
            self._begun = [*(begun for begun in self._begun if not begun.is_ended), request]
            remaining: float | None = max(0.0, deadline - anyio.current_time())
            get = partial(request.past_progress, progress)
            if own_seconds is None and not worker.has_answered:
                remaining = None
                get = partial(worker.frame_while_alive, request, progress)
            try:
                result = await answer(request, remaining, chunk_seconds=seconds, get=get)
            except (WorkerFailed, WorkerReplaced):
                if request.has_begun:
                    self._processed += 1
                    raise
                continue
            except BaseException:
                self._processed += 1
                self._let_go(worker, request)
                raise
            # Backends of 0.1 raise nothing: one whose model could not be loaded loads it in its next call.
            if not worker.has_answered and (isinstance(result, CallStream) or not result.get("error")):
                worker.has_answered = True
                self._line.change(is_for_all=True)
            self._processed += 1
            self._answered += 1
            return worker, request, result

    async def _take_seat(self, function: str, seconds: float, *, is_patient: bool) -> tuple[Worker, float]:
        """Wait for a worker that is ready and free; gives when the request's own time is over.

        That begins when a worker is ready; for who `is_patient`, when it has given its first answer, to
        whomever: it may load its model for it.
        """
        await checkpoint()
        ticket = self._line.join()
        deadline = math.inf
        try:
            while True:
                self._check_serving()
                now, worker = anyio.current_time(), self._line.worker
                is_first = worker is None or (is_patient and not worker.has_answered)
                deadline = math.inf if is_first else min(deadline, now + seconds)
                # No checkpoint after the seat is taken: a cancellation there would lose it.
                if worker is not None and self._line.take_seat(ticket, worker):
                    return worker, min(deadline, now + seconds)
                if len(self._line) > self.max_queue_size:
                    raise WorkerBusy(
                        f"{self.max_queue_size} requests are waiting already.",
                        hint="Try again in a second; inference_max_queue_size says how many may wait.",
                    )
                if deadline <= now:
                    raise WorkerTimeout(
                        f"`{function}` did not get its turn within {seconds:g} s.",
                        hint="The worker is busy: try again, or give the request a longer `timeout`.",
                    )
                if worker is None:
                    await self._wait_until_loaded()
                else:
                    with anyio.CancelScope(deadline=deadline):
                        await self._line.wait_for_turn(ticket)
        finally:
            self._line.leave(ticket)

    async def _wait_until_loaded(self) -> None:
        with anyio.move_on_after(self.loading_seconds):
            await checkpoint()
            while self._is_loading():
                await self._line.changed.wait()
        if self._is_loading():
            why = f" Before that, its worker failed: {self._failure.message}" if self._failure else ""
            raise WorkerLoading(
                f"The model is still loading after {self.loading_seconds:g} s.{why}",
                hint="Try again later; `moondream-station status` shows how far it is.",
            )

    def _is_loading(self) -> bool:
        has_ended = self._service is None or (self._failure is not None and not self._is_restarting)
        return self._line.worker is None and not has_ended

    def _check_serving(self) -> None:
        if self._service is None:
            raise NoActiveModel("No model is active.", hint="`moondream-station switch MODEL` activates one.")
        if self._failure is not None and not self._is_restarting:
            raise WorkerFailed(self._failure.message, hint=self._failure.hint, log=self._failure.log)

    def _let_go(self, worker: Worker, request: Request) -> None:
        """Nobody waits for the call any more; one that does not end takes its worker with it."""
        request.abandon()
        if not request.is_ended and self._tasks is not None:
            self._tasks.start_soon(self._replace_if_stuck, worker, request)

    async def _replace_if_stuck(self, worker: Worker, request: Request) -> None:
        seen: Hashable = None
        while True:
            with anyio.move_on_after(self.stuck_seconds):
                await request.ended.wait()
                return
            # In its first call a worker may load its model for longer than its caller waits.
            signs = None if worker.has_answered else await worker.signs()
            if signs == seen:
                break
            seen = signs
        if not request.is_ended:
            worker.condemn(f"did not come back from `{request.subject}`")

    def _change(
        self, service: _Service, worker: Worker | None = None, failure: StationError | None = None
    ) -> None:
        self._service = service
        self._set(worker, failure)
        self._service_changed.set()
        self._service_changed = anyio.Event()

    def _set(
        self, worker: Worker | None, failure: StationError | None = None, *, is_restarting: bool = False
    ) -> None:
        self._failure, self._is_restarting = failure, is_restarting
        self._line.worker = worker
        self._line.change(is_for_all=True)

    async def _keep_alive(
        self, service: _Service, restart: Callable[[], Awaitable[Worker]], worker: Worker
    ) -> None:
        """Replace a worker that fails, until it fails too often in a row, or something else is served.

        One that has answered, or has lived for a while, can be replaced as often as it takes.
        """
        failures = 0
        while True:
            began, answered = anyio.current_time(), self._answered
            error: StationError = await worker.wait_failed()
            is_good = self._answered > answered or anyio.current_time() - began >= _STEADY_SECONDS
            failures = 1 if is_good else failures + 1
            another: Worker | None = None
            while another is None:
                if self._service is not service:
                    return
                # A damaged environment is made again by another activation, not by another restart.
                if failures > len(self.back_off_seconds) or isinstance(error, EnvironmentBroken):
                    self._set(None, error)
                    self.on_given_up(error)
                    return
                self._set(None, error, is_restarting=True)
                await anyio.sleep(self.back_off_seconds[failures - 1])
                try:
                    another = await restart()
                except StationError as reason:
                    error, failures = reason, failures + 1
            if self._service is not service:  # meanwhile, in the very moment of its readiness
                another.condemn("is not needed any more")
                return
            worker = another
            self._set(worker)
