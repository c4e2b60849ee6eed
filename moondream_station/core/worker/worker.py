"""A backend's worker, as the rest of the station uses it: start, verify, initialise, call, end."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
import anyio.to_thread

from moondream_station.core.backends.code_store import BackendCode
from moondream_station.core.facts.errors import (
    BackendError,
    NoSpace,
    StationError,
    WeightsUnreachable,
    WorkerFailed,
    WorkerTimeout,
)
from moondream_station.core.home.task_groups import as_raised
from moondream_station.core.processes.worker_process import WorkerProcess, open_worker_process
from moondream_station.core.worker.link import UNHEARD, CallStream, Frame, Link, Progress, Request
from moondream_station.core.worker.loading import MemoryNeed, cpu_seconds, oom_kills
from moondream_station.core.worker.verification import Verification, WorkerPlan, read_verification
from moondream_station.core.worker.worker_protocol import STREAM_WINDOW

_WORKER_MAIN: Final = Path(__file__).with_name("worker_main.py")
Args: TypeAlias = Mapping[str, Any]
_LONG_CHARACTERS: Final = 1 << 14
_LOOK_SECONDS: Final = 5.0
"""How often a worker that loads its model is looked at for signs of life."""
_GIVEN_BY_BACKENDS: Final[tuple[type[StationError], ...]] = (WeightsUnreachable, NoSpace)
"""The errors whose code a backend may give as the cause of what it raises."""
_GOODBYE_SECONDS: Final = 0.5
"""How long an idle worker may take to end by itself: a cancelled activation ends within two seconds."""


class Worker:
    """A running worker. Made by `open_worker`."""

    def __init__(self, link: Link, process: WorkerProcess, *, threads: int) -> None:
        self.threads = threads
        self._link = link
        self._process = process
        self._is_idle = True
        self.has_answered = False
        """Whether a call was answered yet: backends of Moondream Station 0.1 may load in the first."""
        self.signs_of_life: Callable[[], Hashable] = lambda: None
        """Changes while work is done elsewhere, as the size of a download folder does. Runs in a thread."""
        self.stall_seconds = 600.0
        """How long it may show none, no output and no CPU time, where nothing else limits it."""

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    @property
    def last_lines(self) -> tuple[str, ...]:
        """What it wrote last, to stdout and stderr."""
        return self._process.last_lines()

    @property
    def failure(self) -> WorkerFailed | None:
        """How it failed, None while it is well."""
        return self._link.failure

    @property
    def was_killed(self) -> bool:
        """Whether it failed because memory ran out, or because somebody ended it."""
        return self._link.was_killed

    async def verify(
        self, plan: WorkerPlan, *, timeout_seconds: float = 300.0, progress: Progress = UNHEARD
    ) -> Verification:
        """Let torch compute, and hold its report against the plan. Without torch only the worker answers."""
        request = self._link.request("verify", {"op": "verify", "build": plan.build})
        self._is_idle = False
        try:
            while (frame := await request.next_frame(timeout_seconds))["kind"] == "progress":
                progress(frame["done"], frame["total"], frame["unit"])
        except BackendError as error:
            log = "\n".join(self.last_lines)
            raise WorkerFailed(f"The worker could not verify: {error.message}", log=log) from error
        self._is_idle = True
        try:
            return read_verification(plan, frame.get("value", {}))
        except ValueError as error:
            raise self._link.fail(f"broke its protocol: {error}") from error

    async def fetch(
        self, code: BackendCode, args: Args, *, device: str | None = None, progress: Progress = UNHEARD
    ) -> tuple[MemoryNeed | None, Mapping[str, Any]]:
        """Let `fetch_backend` bring what `init_backend` will load; arguments and errors as for `init`.

        It may say what memory that needs, and give args with which the same is loaded again.
        """
        value = await self._let_load("fetch", code, args, device, progress)
        needed, free, found = (value.get(name) for name in ("needed_bytes", "free_bytes", "args"))
        found = found if isinstance(found, dict) else {}
        if not isinstance(needed, int):
            return None, found
        free = free if isinstance(free, int) else None
        return MemoryNeed(needed_bytes=needed, free_on_device_bytes=free), found

    async def init(
        self, code: BackendCode, args: Args, *, device: str | None = None, progress: Progress = UNHEARD
    ) -> frozenset[str]:
        """Load the backend's module and call its `init_backend`, for as long as that shows signs of life.

        Gives the functions that the manifest lists and the backend does not have. `device` is what
        verification computed on. What the backend raises is a `WorkerFailed`, or what it says:
        `WeightsUnreachable` or `NoSpace`.
        """
        value = await self._let_load("init", code, args, device, progress)
        return frozenset(value.get("absent", ()))

    def begin(
        self, function: str, kwargs: Mapping[str, Any], *, on_end: Callable[[], None] | None = None
    ) -> Request:
        """Send a call without waiting for its answer. `on_end` is not called where this raises."""
        # Lone surrogates are legal in JSON's strings and in Python's, and must survive.
        texts = {
            name: value.encode("utf-8", "surrogatepass")
            for name, value in kwargs.items()
            if isinstance(value, str) and len(value) >= _LONG_CHARACTERS
        }
        short = {name: value for name, value in kwargs.items() if name not in texts}
        call = {"op": "call", "function": function, "kwargs": short}
        flow = {"stream": bool(kwargs.get("stream")), "window": STREAM_WINDOW}
        return self._link.request(function, call | flow, texts=texts, on_end=on_end)

    async def wait_failed(self) -> WorkerFailed:
        """Wait until the worker fails; never returns for one that is ended on purpose."""
        await self._link.failed.wait()
        return self._link.fail("is gone")  # the first failure stands

    async def frame_while_alive(self, request: Request, progress: Progress) -> Frame:
        """The next frame but progress, however long it takes while the worker shows signs of life."""
        seen: Hashable = None
        seen_at = anyio.current_time()

        def tell(done: int, total: int | None, unit: str) -> None:
            nonlocal seen_at
            seen_at = anyio.current_time()
            progress(done, total, unit)

        while True:
            with anyio.move_on_after(min(_LOOK_SECONDS, self.stall_seconds / 4)):
                return await request.past_progress(tell)
            if (now := await self.signs()) != seen:
                seen, seen_at = now, anyio.current_time()
            elif anyio.current_time() - seen_at >= self.stall_seconds:
                raise WorkerTimeout(
                    f"`{request.subject}` gave no sign of life for {self.stall_seconds:g} s: no output, no"
                    " CPU time, nothing downloaded.",
                    hint="`moondream-station logs` shows its last output.",
                    log="\n".join(self.last_lines),
                )

    async def signs(self) -> Hashable:
        """Something that stays equal as long as the worker does nothing."""
        return await anyio.to_thread.run_sync(
            lambda: (cpu_seconds(self.pid), self.last_lines, self.signs_of_life())
        )

    def condemn(self, reason: str) -> None:
        """Declare a worker failed ("did not come back from `caption`"), and end its process."""
        self._link.fail(reason)
        self._process.kill()

    def say_goodbye(self) -> float:
        """Tell the worker to end; gives the seconds to wait for that, 0 where it is gone or too busy."""
        if self.failure is not None or not self._is_idle:
            return 0.0
        self._link.tell({"op": "shutdown"})
        return _GOODBYE_SECONDS

    async def _let_load(
        self, op: str, code: BackendCode, args: Args, device: str | None, progress: Progress
    ) -> dict[str, Any]:
        request = self._link.request(
            f"{op}_backend of {code.id}",
            {
                "op": op,
                "folder": str(code.folder),
                "module": code.entry_module,
                "functions": list(code.functions),
                "args": dict(args),
                "device": device,
            },
        )
        self._is_idle = False
        frame = await self.frame_while_alive(request, progress)
        self._is_idle = True
        if frame["kind"] == "error":
            log = "\n".join(self.last_lines)
            for kind in _GIVEN_BY_BACKENDS:
                if frame.get("cause") == kind.code:
                    raise kind(frame["message"], hint=frame.get("hint"), log=log)
            raise WorkerFailed(
                f"The backend {code.id} could not be initialised: {frame.get('type')}: {frame['message']}",
                hint="`moondream-station logs` shows its output.",
                log=log,
            )
        return dict(frame.get("value", {}))


async def answer(
    request: Request,
    timeout_seconds: float | None,
    *,
    chunk_seconds: float | None = None,
    get: Callable[[], Awaitable[Frame]] | None = None,
) -> dict[str, Any] | CallStream:
    """Wait, with `get`, for the answer of a call that was begun; after a timeout the worker stays usable."""
    frame = await request.next_frame(timeout_seconds, get)
    if frame["kind"] == "stream":
        return CallStream(request, frame, timeout_seconds=chunk_seconds)
    return dict(frame.get("value", {}))


@asynccontextmanager
async def open_worker(
    python: Path,
    *,
    env: Mapping[str, str],
    cwd: Path,
    log_path: Path,
    threads: int = 1,
    hello_seconds: float = 60.0,
) -> AsyncIterator[Worker]:
    """Start a worker in an environment, and end it with all that it started when the block is left.

    `cwd` is the backend's folder, for backends that open files beside them.
    """
    greeting = secrets.token_hex(16)
    argv = [str(python), "-P", str(_WORKER_MAIN), str(threads), greeting]
    async with open_worker_process(argv, env=env, cwd=cwd, log_path=log_path) as process:
        link = Link(process, oom_kills, greeting=greeting.encode())
        with as_raised():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(link.read)
                tasks.start_soon(link.write)
                tasks.start_soon(link.watch)
                try:
                    await link.greet(hello_seconds)
                    worker = Worker(link, process, threads=threads)
                    try:
                        yield worker
                    finally:
                        link.end()
                        with anyio.move_on_after(worker.say_goodbye(), shield=True):
                            await process.wait()
                finally:
                    link.writing.cancel()
                    tasks.cancel_scope.cancel()
