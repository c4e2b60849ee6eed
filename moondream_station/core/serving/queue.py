"""The inference queue in front of the active model's worker, and the restart of a worker that crashed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from moondream_station.core.facts.errors import (
    DoesNotFit,
    EnvironmentBroken,
    NoActiveModel,
    StationError,
    WorkerBusy,
    WorkerFailed,
    WorkerLoading,
    WorkerReplaced,
    WorkerTimeout,
)
from moondream_station.core.facts.figures import Outcome, count_tokens
from moondream_station.core.serving.line import Line, Ticket
from moondream_station.core.serving.tally import Tally, outcome_of
from moondream_station.core.worker.link import UNHEARD, CallStream, Progress, Request
from moondream_station.core.worker.worker import Worker, answer

_STEADY_SECONDS: Final = 60.0
"""A worker that lived so long failed for a reason of its own: the count starts again."""
_FINAL: Final = (DoesNotFit, EnvironmentBroken)


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """A model that is served, and how to get another worker for it."""

    model: str
    restart: Callable[[], Awaitable[Worker]] | None = None
    """Gives another worker that is ready when one failed, or raises `StationError`."""
    timeout_seconds: float | None = None
    idle_seconds: float | None = None
    on_idle: Callable[[], object] = lambda: None
    """Called when nobody has asked for `idle_seconds`."""
    wake: Callable[[], object] | None = None
    """Starts a worker, where none runs because nobody needed one."""


@dataclass(eq=False, kw_only=True)
class InferencePool:
    """Lets requests through to the workers, as many at once as these have threads."""

    max_queue_size: int = 10
    default_timeout_seconds: float = 30.0
    """How long a request may wait and be worked on, where it does not say itself."""
    loading_seconds: float = 60.0
    stuck_seconds: float = 300.0
    """How long a call that nobody waits for any more may occupy the worker before that is replaced."""
    back_off_seconds: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0)
    """Before each restart in a row; after as many failures the worker is given up."""
    on_given_up: Callable[[StationError], object] = lambda _: None
    """Called with why, when the last worker failed too often in a row or can't be restarted."""
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._line = Line()
        self._service: Service | None = None
        """What is served; workers of it are on the line, or load, or are not available."""
        self._service_changed = anyio.Event()
        self._failure: StationError | None = None
        """Why there is no worker; one may be on its way again."""
        self._restarting = 0
        """How many workers are on their way again."""
        self._begun: list[Request] = []
        self._timeouts = 0
        self._processed = 0
        self._answered = 0
        self._tasks: TaskGroup | None = None
        self._of_service: TaskGroup | None = None
        """What is done for the service of the moment."""

    def expect(self, model: str) -> None:
        """A worker for this model is being loaded, and none serves: requests wait for it."""
        self._change(Service(model))

    @property
    def failure(self) -> StationError | None:
        """Why no worker serves; None also where one loads, or is restarted in a moment."""
        return None if self._restarting or self._line.workers else self._failure

    @property
    def timeout_seconds(self) -> float:
        """The limit of a request that does not say one itself."""
        return (self._service and self._service.timeout_seconds) or self.default_timeout_seconds

    def serve(self, worker: Worker, service: Service) -> None:
        """Send new calls to this worker; those that run on another one finish there (see `drained`)."""
        self._change(service, worker)

    def add(self, worker: Worker) -> None:
        """Send calls to this worker too, which is of the model that is served."""
        self._line.workers.append(worker)
        if self._of_service is not None and self._service is not None:
            self._of_service.start_soon(self._keep_running, self._service, worker)
        self._line.change(is_for_all=True)

    def sleep(self, model: str, wake: Callable[[], object]) -> None:
        """No worker runs, and the next request calls `wake`, once, and waits."""
        self._change(Service(model, wake=wake))

    @property
    def is_asleep(self) -> bool:
        """Whether a request is waited for, to start a worker."""
        return self._service is not None and self._service.wake is not None

    def give_up(self, model: str, failure: StationError) -> None:
        """No worker can serve this model: requests are told why."""
        self._change(Service(model), failure=failure)

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
                    changed, service = self._service_changed, self._service
                    async with anyio.create_task_group() as self._of_service:
                        if service is not None:
                            for worker in self._line.workers:
                                self._of_service.start_soon(self._keep_running, service, worker)
                            if (seconds := service.idle_seconds) is not None:
                                self._of_service.start_soon(self._notice_idleness, service, seconds)
                        await changed.wait()
                        # A change of service ends what is done for the former.
                        self._of_service.cancel_scope.cancel()
            finally:
                self._tasks = self._of_service = None

    @asynccontextmanager
    async def call(
        self,
        function: str,
        kwargs: Mapping[str, Any],
        *,
        timeout_seconds: float | None = None,
        progress: Progress = UNHEARD,
        client: Hashable = None,
    ) -> AsyncIterator[dict[str, Any] | CallStream]:
        """Let the active model's backend run a function; leaving the block gives up what is left of a stream.

        `timeout_seconds` is for waiting and answer together, and then for each chunk of a streamed one; None,
        0 or less is the default. A `WorkerTimeout` may also come while the stream is read. `progress` is
        called until the answer, or its stream, begins. Clients take turns.
        """
        seconds = timeout_seconds if timeout_seconds is not None and timeout_seconds > 0 else None
        began, tokens = anyio.current_time(), 0
        outcome, error = Outcome.CANCELLED, None
        try:
            worker, request, result = await self._ask(function, kwargs, seconds, progress, client)
            try:
                yield result
            finally:
                error, tokens = request.failure, request.streamed
                self._let_go(worker, request)
            outcome = outcome_of(error)
            if isinstance(result, dict):
                tokens = count_tokens(result)
                outcome = Outcome.ERROR if result.get("error") else outcome
        except StationError as failure:
            outcome, error = outcome_of(failure), failure
            raise
        finally:
            self._timeouts += outcome is Outcome.TIMEOUT
            seconds = anyio.current_time() - began
            self.tally.ended(function, outcome, error, seconds=seconds, tokens=tokens)

    def stats(self) -> dict[str, Any]:
        """Counters, with the keys of Moondream Station 0.1."""
        return {
            "workers": sum(worker.threads for worker in self._line.workers),
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
        self,
        function: str,
        kwargs: Mapping[str, Any],
        own_seconds: float | None,
        progress: Progress,
        client: Hashable,
    ) -> tuple[Worker, Request, dict[str, Any] | CallStream]:
        """Get an answer; a call that a worker never began before it ended goes to the next worker."""
        while True:
            seconds, began = own_seconds or self.timeout_seconds, anyio.current_time()
            worker, deadline = await self._take_seat(
                function, seconds, client, is_patient=own_seconds is None
            )
            self.tally.waited(anyio.current_time() - began)
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

    async def _take_seat(
        self, function: str, seconds: float, client: Hashable, *, is_patient: bool
    ) -> tuple[Worker, float]:
        """Wait for a worker that is ready and free; gives when the request's own time is over.

        That begins when a worker is ready; for who `is_patient`, when it has given its first answer, to
        whomever: it may load its model for it.
        """
        await checkpoint()
        ticket = self._line.join(client)
        deadline = math.inf
        try:
            while True:
                self._check_serving()
                now, workers = anyio.current_time(), self._line.workers
                has_answered = any(worker.has_answered for worker in workers)
                is_first = not workers or (is_patient and not has_answered)
                deadline = math.inf if is_first else min(deadline, now + seconds)
                # No checkpoint after the seat is taken: a cancellation there would lose it.
                if (worker := self._line.take_seat(ticket)) is not None:
                    return worker, min(deadline, now + seconds)
                self._line.limit(ticket, self.max_queue_size)
                if ticket.is_displaced:
                    raise WorkerBusy(
                        f"{self.max_queue_size} requests are waiting already.",
                        hint="Try again in a second; inference_max_queue_size says how many may wait.",
                    )
                if deadline <= now:
                    raise WorkerTimeout(
                        f"`{function}` did not get its turn within {seconds:g} s.",
                        hint="The worker is busy: try again, or give the request a longer `timeout`.",
                    )
                if not workers:
                    self._wake()
                    await self._wait_until_loaded(ticket)
                else:
                    with anyio.CancelScope(deadline=deadline):
                        await self._line.wait_for_turn(ticket)
        finally:
            self._line.leave(ticket)

    def _wake(self) -> None:
        """Have a worker started, where none runs because nobody needed one."""
        service = self._service
        if service is not None and service.wake is not None:
            self.expect(service.model)
            service.wake()

    async def _wait_until_loaded(self, ticket: Ticket) -> None:
        with anyio.move_on_after(self.loading_seconds):
            await checkpoint()
            while self._is_loading() and not ticket.is_displaced:
                await self._line.changed.wait()
        if self._is_loading() and not ticket.is_displaced:
            why = f" Before that, its worker failed: {self._failure.message}" if self._failure else ""
            raise WorkerLoading(
                f"The model is still loading after {self.loading_seconds:g} s.{why}",
                hint="Try again later; `moondream-station status` shows how far it is.",
            )

    def _is_loading(self) -> bool:
        has_ended = self._service is None or (self._failure is not None and not self._restarting)
        return not self._line.workers and not has_ended and not self.is_asleep

    def _check_serving(self) -> None:
        if self._service is None:
            raise NoActiveModel("No model is active.", hint="`moondream-station switch MODEL` activates one.")
        if self._failure is not None and not self._restarting and not self._line.workers:
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
        self, service: Service, worker: Worker | None = None, failure: StationError | None = None
    ) -> None:
        self._service, self._failure, self._restarting = service, failure, 0
        self._line.workers = [] if worker is None else [worker]
        self._line.change(is_for_all=True)
        self._service_changed.set()
        self._service_changed = anyio.Event()

    async def _notice_idleness(self, service: Service, idle_seconds: float) -> None:
        await self._line.idle(idle_seconds)
        service.on_idle()

    async def _keep_running(self, service: Service, worker: Worker) -> None:
        """Replace a worker that fails, until it fails too often in a row, or something else is served.

        One that has answered, or has lived for a while, can be replaced as often as it takes.
        """
        assert service.restart is not None  # noqa: S101  it came with its first worker
        failures = 0
        while True:
            began, answered = anyio.current_time(), self._answered
            error: StationError = await worker.wait_failed()
            is_good = self._answered > answered or anyio.current_time() - began >= _STEADY_SECONDS
            failures = 1 if is_good else failures + 1
            another: Worker | None = None
            if self._service is service:
                self._restarting += 1
                self._set(worker, None, error)
            while another is None:
                if self._service is not service:
                    return
                # A damaged environment is made again by another activation, and no restart brings memory.
                if failures > len(self.back_off_seconds) or isinstance(error, _FINAL):
                    self._restarting -= 1
                    self._set(None, None, error)
                    if not self._restarting and not self._line.workers:
                        self.on_given_up(error)
                    return
                await anyio.sleep(self.back_off_seconds[failures - 1])
                try:
                    another = await service.restart()
                except StationError as reason:
                    error, failures = reason, failures + 1
                    if self._service is service:  # a load that fails is stopped first, and takes its time
                        self._failure = error
            if self._service is not service:  # meanwhile, in the very moment of its readiness
                another.condemn("is not needed any more")
                return
            worker = another
            self._restarting -= 1
            self._set(None, worker)

    def _set(self, former: Worker | None, worker: Worker | None, failure: StationError | None = None) -> None:
        """Let one worker take another's place, each of which may be none."""
        self._failure = failure
        self._line.workers = [other for other in self._line.workers if other is not former]
        if worker is not None:
            self._line.workers.append(worker)
        self._line.change(is_for_all=True)
