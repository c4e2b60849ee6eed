"""The inference queue in front of real workers: order, limits, swapping and restarts."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from moondream_station.core.facts.errors import (
    BackendError,
    NoActiveModel,
    StationError,
    UnknownFunction,
    WorkerBusy,
    WorkerFailed,
    WorkerLoading,
    WorkerTimeout,
)
from moondream_station.core.processes.child_process import child_environment
from moondream_station.core.serving.line import Line
from moondream_station.core.serving.queue import InferencePool, Service
from moondream_station.core.worker.link import CallStream
from moondream_station.core.worker.worker import Worker, open_worker
from support.backends import ECHO, HOSTILE, STREAMING, write_backend
from support.posix import SIGKILL

pytestmark = pytest.mark.anyio

LAZY = '''
"""Loads its model in its first call, as backends of 0.1 do."""
import time

loads = []
is_loaded = False

def lazy(failures, seconds, **kwargs):
    global is_loaded
    if not is_loaded:
        loads.append(None)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
        if len(loads) <= failures:
            return {"error": "the line was cut"}
        is_loaded = True
    return {"loads": len(loads)}
'''
BACKEND = ECHO + STREAMING + HOSTILE + LAZY


class Workshop:
    """Makes workers, each held open by a task of its own."""

    def __init__(self, tasks: TaskGroup, tmp_path: Path) -> None:
        self._tasks = tasks
        self._tmp_path = tmp_path
        self.made: list[Worker] = []

    async def worker(self, *, threads: int = 1) -> Worker:
        """A worker that is ready."""
        ready = anyio.Event()
        self._tasks.start_soon(self._hold, threads, ready)
        await ready.wait()
        return self.made[-1]

    async def _hold(self, threads: int, ready: anyio.Event) -> None:
        code = write_backend(self._tmp_path / "backend", BACKEND)
        async with open_worker(
            Path(sys.executable),
            env=child_environment(os.environ),
            cwd=self._tmp_path,
            log_path=self._tmp_path / "worker.log",
            threads=threads,
        ) as worker:
            await worker.init(code, {})
            self.made.append(worker)
            ready.set()
            await anyio.sleep_forever()


@asynccontextmanager
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    """A workshop whose workers end with it."""
    async with anyio.create_task_group() as tasks:
        yield Workshop(tasks, tmp_path)
        tasks.cancel_scope.cancel()


async def refuse() -> Worker:
    """A restart that fails."""
    await checkpoint()
    raise WorkerFailed("no worker today")


async def ask(pool: InferencePool, function: str, **kwargs: Any) -> Any:
    """One answer."""
    async with pool.call(function, kwargs) as answer:
        return answer


async def read(pool: InferencePool, function: str) -> None:
    """A streamed answer, to its end."""
    async with pool.call(function, {"stream": True}) as stream:
        assert isinstance(stream, CallStream)
        async for _ in stream:
            pass


async def until(pool: InferencePool, condition: Callable[[], bool]) -> None:
    """Wait until the pool is as wanted."""
    with anyio.fail_after(30):
        await checkpoint()
        while not condition():
            await pool._line.changed.wait()


@asynccontextmanager
async def running(pool: InferencePool) -> AsyncIterator[None]:
    """The pool's own work, beside the test's."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.run)
        yield
        tasks.cancel_scope.cancel()


async def test_calls_go_to_the_worker_and_are_counted(tmp_path: Path) -> None:
    """Statistics have the keys of 0.1."""
    pool = InferencePool(max_queue_size=7, default_timeout_seconds=12)
    async with workshop(tmp_path) as shop:
        pool.serve(await shop.worker(threads=2), Service("m", refuse))
        assert await ask(pool, "bare") == {"result": "no dict"}
        with pytest.raises(UnknownFunction):
            await ask(pool, "absent")
        with pytest.raises(BackendError):
            await ask(pool, "refuse")
        assert pool.stats() == {
            "workers": 2,
            "queue_size": 0,
            "max_queue_size": 7,
            "processing": 0,
            "timeouts": 0,
            "default_timeout": 12,
            "model": "m",
            "status": "running",
            "requests_processed": 3,
        }


async def test_nothing_is_served_before_a_worker_and_after_it_is_given_up(tmp_path: Path) -> None:
    """Both are told apart from loading and from failure."""
    pool = InferencePool()
    with pytest.raises(NoActiveModel):
        await ask(pool, "bare")
    assert pool.stats()["status"] == "stopped"
    async with workshop(tmp_path) as shop:
        pool.serve(await shop.worker(), Service("m", refuse))
        pool.give_up("m", WorkerFailed("no weights"))
        with pytest.raises(WorkerFailed, match="no weights"):
            await ask(pool, "bare")


async def test_requests_wait_in_the_order_they_came_and_too_many_are_rejected(tmp_path: Path) -> None:
    """One is worked on, two wait, the fourth is turned away at once."""
    pool = InferencePool(max_queue_size=2)
    order: list[int] = []
    gate = tmp_path / "gate"

    async def call(number: int) -> None:
        await ask(pool, "gate", path=str(gate))
        order.append(number)

    def came() -> int:
        return len(pool._line) + pool._line.seated.total()

    async with workshop(tmp_path) as shop:
        pool.serve(await shop.worker(), Service("m", refuse))
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(call, number)
                await until(pool, partial(lambda expected: came() == expected, number + 1))
            with pytest.raises(WorkerBusy, match="2 requests are waiting already"):
                await ask(pool, "bare")
            assert pool.stats()["queue_size"] == 2
            assert pool.stats()["processing"] == 1
            gate.touch()
    assert order == [0, 1, 2]


async def test_the_time_limit_counts_waiting_and_working(tmp_path: Path) -> None:
    """A late answer keeps its seat until the worker is done, then the next one gets it."""
    pool = InferencePool(default_timeout_seconds=0.1)
    async with workshop(tmp_path) as shop:
        pool.serve(await shop.worker(), Service("m", refuse))
        await ask(pool, "bare")
        with pytest.raises(WorkerTimeout, match="did not answer `gate`"):
            await ask(pool, "gate", path=str(tmp_path / "gate"))
        assert pool.stats()["processing"] == 1
        with pytest.raises(WorkerTimeout, match=r"did not get its turn within 0\.1 s"):
            await ask(pool, "bare")
        (tmp_path / "gate").touch()
        async with pool.call("bare", {}, timeout_seconds=20) as answer:
            assert answer == {"result": "no dict"}
        assert pool.stats()["timeouts"] == 2


async def test_the_first_call_may_take_as_long_as_the_worker_lives(tmp_path: Path) -> None:
    """A backend of 0.1 may load its model in it. The limit is doing nothing, or the request's own."""
    pool = InferencePool(default_timeout_seconds=0.05)
    async with workshop(tmp_path) as shop:
        pool.serve(await shop.worker(), Service("m", refuse))
        assert await ask(pool, "slow", seconds=0.3) == {"slept": 0.3}
        worker = await shop.worker()
        worker.stall_seconds = 1
        pool.serve(worker, Service("m", refuse))
        with pytest.raises(WorkerTimeout, match="no sign of life for 1 s"):
            await ask(pool, "slow", seconds=3600)
        pool.serve(await shop.worker(), Service("m", refuse))
        with pytest.raises(WorkerTimeout, match=r"within 0\.1 s"):
            async with pool.call("slow", {"seconds": 3600}, timeout_seconds=0.1):
                pass


async def test_a_model_that_could_not_be_loaded_is_loaded_in_the_next_call(tmp_path: Path) -> None:
    """Backends of 0.1 answer with what went wrong, and begin again: that call has no limit either."""
    pool = InferencePool(default_timeout_seconds=0.2, stuck_seconds=0.1)
    async with workshop(tmp_path) as shop, running(pool):
        pool.serve(await shop.worker(), Service("m", refuse))
        assert await ask(pool, "lazy", failures=1, seconds=0.5) == {"error": "the line was cut"}
        assert await ask(pool, "lazy", failures=1, seconds=0.5) == {"loads": 2}
        with pytest.raises(WorkerTimeout):
            await ask(pool, "slow", seconds=0.5)


async def test_others_wait_for_the_first_answer_too(tmp_path: Path) -> None:
    """It may take longer than any of their limits, but for one that a request says itself."""
    pool = InferencePool(default_timeout_seconds=0.2)
    answers: list[Any] = []

    async def load() -> None:
        answers.append(await ask(pool, "lazy", failures=0, seconds=1.5))

    async with workshop(tmp_path) as shop, anyio.create_task_group() as tasks:
        pool.serve(await shop.worker(), Service("m", refuse))
        tasks.start_soon(load)
        await until(pool, lambda: pool._line.seated.total() == 1)
        with pytest.raises(WorkerTimeout, match=r"did not get its turn within 0\.1 s"):
            async with pool.call("bare", {}, timeout_seconds=0.1):
                pass
        assert await ask(pool, "bare") == {"result": "no dict"}
        assert answers == [{"loads": 1}]


async def test_who_loads_for_a_caller_that_has_left_is_not_stuck(tmp_path: Path) -> None:
    """As long as it shows signs of life; the next call is answered."""
    pool = InferencePool(default_timeout_seconds=20, stuck_seconds=1)
    async with workshop(tmp_path) as shop, running(pool):
        pool.serve(await shop.worker(), Service("m", refuse))
        with pytest.raises(WorkerTimeout):
            async with pool.call("lazy", {"failures": 0, "seconds": 3.5}, timeout_seconds=0.1):
                pass
        assert await ask(pool, "lazy", failures=0, seconds=0) == {"loads": 1}
        assert len(shop.made) == 1


async def test_what_is_worked_on_is_shown(tmp_path: Path) -> None:
    """With how far it is: a stream by what was sent of it."""
    pool = InferencePool()
    async with workshop(tmp_path) as shop:
        worker = await shop.worker()
        pool.serve(worker, Service("m", refuse))
        assert pool.calls() == []
        async with pool.call("count", {"stream": True}) as stream:
            assert isinstance(stream, CallStream)
            assert await anext(stream) == 0
            (shown,) = pool.calls()
            assert (shown["function"], shown["unit"]) == ("count", "tokens")
            assert shown["done"] >= 1
        await pool.drained(worker)
        assert pool.calls() == []


async def test_a_slow_worker_has_more_time(tmp_path: Path) -> None:
    """Where nothing else is said; `stats` tells the limit that holds."""
    pool = InferencePool(default_timeout_seconds=0.05)
    async with workshop(tmp_path) as shop:
        pool.serve(await shop.worker(), Service("m", refuse, timeout_seconds=30))
        assert pool.stats()["default_timeout"] == 30
        await ask(pool, "bare")
        assert await ask(pool, "slow", seconds=0.3) == {"slept": 0.3}
        pool.serve(await shop.worker(), Service("m", refuse))
        assert pool.stats()["default_timeout"] == 0.05


async def test_requests_wait_for_a_worker_that_loads(tmp_path: Path) -> None:
    """Their own time begins when it is ready; after a while they are turned away."""
    pool = InferencePool(default_timeout_seconds=5, loading_seconds=0.1)
    pool.expect("m")
    with pytest.raises(WorkerLoading, match=r"is still loading after 0\.1 s\.$"):
        await ask(pool, "bare")
    patient = InferencePool(default_timeout_seconds=5)
    patient.expect("m")
    answers: list[Any] = []

    async def call() -> None:
        answers.append(await ask(patient, "bare"))

    async with workshop(tmp_path) as shop, anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await until(patient, lambda: len(patient._line) == 1)
        patient.serve(await shop.worker(), Service("m", refuse))
    assert answers == [{"result": "no dict"}]


async def test_a_cancelled_request_leaves_the_queue(tmp_path: Path) -> None:
    """Whoever no longer waits takes nobody's turn."""
    pool = InferencePool(max_queue_size=1)
    async with workshop(tmp_path) as shop:
        pool.serve(await shop.worker(), Service("m", refuse))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(ask, pool, "gate", path=str(tmp_path / "gate")))
            await until(pool, lambda: pool._line.seated.total() == 1)
            with anyio.move_on_after(0.05):
                await ask(pool, "bare")
            assert len(pool._line) == 0
            (tmp_path / "gate").touch()
            assert await ask(pool, "bare") == {"result": "no dict"}


async def test_streams_hold_their_seat_until_they_end_or_are_left(tmp_path: Path) -> None:
    """A block that is left in the middle frees the worker."""
    pool = InferencePool()
    async with workshop(tmp_path) as shop:
        worker = await shop.worker()
        pool.serve(worker, Service("m", refuse))
        async with pool.call("count", {"stream": True, "to": 3}) as stream:
            assert isinstance(stream, CallStream)
            assert [chunk async for chunk in stream] == [0, 1, 2]
        async with pool.call("count", {"stream": True}) as stream:
            assert isinstance(stream, CallStream)
            assert await anext(stream) == 0
            assert pool.stats()["processing"] == 1
        await pool.drained(worker)
        assert pool.stats()["processing"] == 0


async def test_a_swap_lets_what_runs_finish_on_the_old_worker(tmp_path: Path) -> None:
    """New calls go to the new one at once; `drained` says when the old one is free."""
    pool = InferencePool()
    async with workshop(tmp_path) as shop, anyio.create_task_group() as tasks:
        old, new = await shop.worker(), await shop.worker()
        pool.serve(old, Service("old", refuse))
        slow: list[Any] = []

        async def call() -> None:
            slow.append(await ask(pool, "gate", path=str(tmp_path / "gate")))

        tasks.start_soon(call)
        await until(pool, lambda: pool._line.seated.total() == 1)
        pool.serve(new, Service("new", refuse))
        assert await ask(pool, "pid") == {"pid": new.pid}
        assert slow == []
        (tmp_path / "gate").touch()
        await pool.drained(old)
        assert pool.stats()["processing"] == 0
    assert slow == [{"opened": True}]


async def test_a_crash_fails_what_runs_and_the_next_worker_serves_on(tmp_path: Path) -> None:
    """Who was in flight learns why; who comes meanwhile waits for the restart."""
    pool = InferencePool()
    async with workshop(tmp_path) as shop, running(pool):
        pool.serve(await shop.worker(), Service("m", shop.worker))
        with pytest.raises(WorkerFailed, match="ended with exit code 7"):
            await ask(pool, "leave")
        assert await ask(pool, "pid") == {"pid": shop.made[1].pid}
        assert pool._line.workers == [shop.made[1]]
        assert pool._failure is None


async def test_a_call_that_a_dead_worker_never_began_goes_to_the_next(tmp_path: Path) -> None:
    """It can't have done anything there, and whoever asked learns nothing of it."""
    pool = InferencePool()
    answers: list[Any] = []

    async def ask_pid() -> None:
        answers.append(await ask(pool, "pid"))

    async with workshop(tmp_path) as shop, running(pool):
        pool.serve(await shop.worker(), Service("m", shop.worker))
        psutil.Process(shop.made[0].pid).suspend()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask_pid)
            await until(pool, lambda: pool.stats()["processing"] == 1)
            os.kill(shop.made[0].pid, SIGKILL)
        assert answers == [{"pid": shop.made[1].pid}]
        assert pool.stats()["requests_processed"] == 1


async def test_who_waits_for_a_restart_in_vain_is_told_why_there_was_one(tmp_path: Path) -> None:
    """The worker's own words, beside that its model is loading again."""
    pool = InferencePool(loading_seconds=0.1, back_off_seconds=(3600,))
    async with workshop(tmp_path) as shop, running(pool):
        pool.serve(await shop.worker(), Service("m", refuse))
        shop.made[0].condemn("is to fail")
        await until(pool, lambda: not pool._line.workers)
        with pytest.raises(WorkerLoading, match=r"Before that, its worker failed: .* is to fail"):
            await ask(pool, "bare")


async def test_a_worker_that_fails_in_a_row_is_given_up(tmp_path: Path) -> None:
    """After as many restarts as there are pauses, requests are told the last reason."""
    pool = InferencePool(back_off_seconds=(0.0, 0.01))
    tries: list[int] = []

    async def restart() -> Worker:
        tries.append(1)
        return await refuse()

    async with workshop(tmp_path) as shop, running(pool):
        worker = await shop.worker()
        pool.serve(worker, Service("m", restart))
        worker.condemn("is to fail")
        await until(pool, lambda: pool._failure is not None and not pool._restarting)
        with pytest.raises(WorkerFailed, match="no worker today"):
            await ask(pool, "bare")
        assert len(tries) == 2
        pool.serve(await shop.worker(), Service("m", restart))
        assert await ask(pool, "bare") == {"result": "no dict"}


async def test_a_worker_that_has_answered_is_replaced_as_often_as_it_takes(tmp_path: Path) -> None:
    """Failures in a row are those without an answer in between."""
    pool = InferencePool(back_off_seconds=(0.0,))
    async with workshop(tmp_path) as shop, running(pool):
        pool.serve(await shop.worker(), Service("m", shop.worker))
        for count in range(1, 4):
            assert (await ask(pool, "pid"))["pid"] == shop.made[-1].pid
            os.kill(shop.made[-1].pid, SIGKILL)
            await until(pool, lambda: not pool._line.workers)
            assert (await ask(pool, "pid"))["pid"] == shop.made[count].pid


async def test_another_model_ends_the_restart_of_the_former(tmp_path: Path) -> None:
    """A restart that is under way is cancelled, and takes nothing over."""
    pool = InferencePool()
    started, cancelled = anyio.Event(), anyio.Event()

    async def restart() -> Worker:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    async with workshop(tmp_path) as shop, running(pool):
        old, new = await shop.worker(), await shop.worker()
        pool.serve(old, Service("old", restart))
        old.condemn("is to fail")
        await started.wait()
        pool.serve(new, Service("new", refuse))
        await cancelled.wait()
        assert pool._line.workers == [new]
        assert await ask(pool, "pid") == {"pid": new.pid}


async def test_a_restart_that_fails_late_says_nothing_of_the_next_model(tmp_path: Path) -> None:
    """Requests for the next model wait until it is loaded."""
    pool = InferencePool()
    started, failing = anyio.Event(), anyio.Event()

    async def restart() -> Worker:
        started.set()
        with anyio.CancelScope(shield=True):  # as while a worker that failed to load is stopped
            await failing.wait()
        raise WorkerFailed("the former model")

    async with workshop(tmp_path) as shop, running(pool):
        old = await shop.worker()
        pool.serve(old, Service("old", restart))
        old.condemn("is to fail")
        await started.wait()
        pool.expect("new")
        failing.set()
        await anyio.wait_all_tasks_blocked()
        assert pool.failure is None


async def test_a_call_that_never_comes_back_costs_its_worker(tmp_path: Path) -> None:
    """The worker is replaced, because every seat of it would be lost for good."""
    pool = InferencePool(default_timeout_seconds=0.05, stuck_seconds=0.1)
    async with workshop(tmp_path) as shop, running(pool):
        pool.serve(await shop.worker(), Service("m", shop.worker))
        await ask(pool, "bare")
        with pytest.raises(WorkerTimeout):
            await ask(pool, "slow", seconds=3600)
        await until(pool, lambda: pool._line.workers == shop.made[1:])
        assert "did not come back from `slow`" in str(shop.made[0].failure)
        async with pool.call("pid", {}, timeout_seconds=20) as answer:
            assert answer == {"pid": shop.made[1].pid}


@pytest.mark.parametrize("kwargs", [{"file": b"bytes"}, {"number": float("nan")}])
async def test_arguments_that_can_not_be_sent_take_no_seat(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    """The request fails, the seat is free again."""
    pool = InferencePool()
    async with workshop(tmp_path) as shop:
        pool.serve(await shop.worker(), Service("m", refuse))
        with pytest.raises(StationError, match="can't be sent"):
            await ask(pool, "echo", **kwargs)
        assert pool.stats()["processing"] == 0


async def test_clients_take_turns_and_each_keeps_its_order(tmp_path: Path) -> None:
    """Who comes last, with one request, waits for one of the crowd's and not for all of them."""
    pool = InferencePool(max_queue_size=20)
    order: list[str] = []

    async def call(client: str, number: int) -> None:
        async with pool.call("gate", {"path": str(tmp_path / "gate")}, client=client):
            order.append(f"{client}{number}")

    async with workshop(tmp_path) as shop:
        pool.serve(await shop.worker(), Service("m", refuse))
        async with anyio.create_task_group() as tasks:
            for client, number in [*(("a", number) for number in range(6)), ("b", 0), ("b", 1), ("c", 0)]:
                tasks.start_soon(call, client, number)
                await anyio.wait_all_tasks_blocked()
            (tmp_path / "gate").touch()
    assert order == ["a0", "a1", "b0", "c0", "a2", "b1", "a3", "a4", "a5"]


async def test_a_full_queue_has_room_for_who_has_least_of_it(tmp_path: Path) -> None:
    """It never holds more than it may: who has most of it loses the last place, who has as many gets none."""
    pool = InferencePool(max_queue_size=3)
    answered: list[str] = []
    refused: list[str] = []

    async def call(client: str, number: int) -> None:
        try:
            async with pool.call("gate", {"path": str(tmp_path / "gate")}, client=client):
                answered.append(f"{client}{number}")
        except WorkerBusy:
            refused.append(f"{client}{number}")

    async with workshop(tmp_path) as shop:
        pool.serve(await shop.worker(), Service("m", refuse))
        async with anyio.create_task_group() as tasks:
            for name in ("a0", "a1", "a2", "a3", "a4", "b0", "b1", "b2", "c0"):
                tasks.start_soon(call, name[0], int(name[1]))
                await anyio.wait_all_tasks_blocked()
                assert pool.stats()["queue_size"] <= 3
            assert refused == ["a4", "a3", "b1", "b2", "a2"]
            (tmp_path / "gate").touch()
    assert answered == ["a0", "a1", "b0", "c0"]


async def test_who_lost_a_place_while_the_model_loads_is_told_at_once(tmp_path: Path) -> None:
    """It does not wait for the worker first."""
    pool = InferencePool(max_queue_size=2)
    pool.expect("m")
    async with anyio.create_task_group() as tasks:

        async def lose() -> None:
            with pytest.raises(WorkerBusy):
                await ask(pool, "bare")
            tasks.cancel_scope.cancel()

        async def another() -> None:
            async with pool.call("bare", {}, client="another"):
                raise AssertionError

        for each in (partial(ask, pool, "bare"), lose, another):
            tasks.start_soon(each)
            await anyio.wait_all_tasks_blocked()


async def test_calls_spread_over_workers_and_one_may_crash(tmp_path: Path) -> None:
    """The others serve on; the one that crashed comes back."""
    pool = InferencePool()
    gate = tmp_path / "gate"
    async with workshop(tmp_path) as shop, running(pool), anyio.create_task_group() as tasks:
        first, second = await shop.worker(), await shop.worker()
        pool.serve(first, Service("m", shop.worker))
        await anyio.wait_all_tasks_blocked()
        pool.add(second)
        assert pool.stats()["workers"] == 2
        tasks.start_soon(partial(ask, pool, "gate", path=str(gate)))
        await until(pool, lambda: pool.stats()["processing"] == 1)
        assert await ask(pool, "pid") == {"pid": second.pid}
        second.condemn("is to fail")
        await until(pool, lambda: second not in pool._line.workers)
        assert pool._failure is None or pool._line.workers
        await until(pool, lambda: pool.stats()["workers"] == 2)
        assert await ask(pool, "pid") == {"pid": shop.made[2].pid}
        gate.touch()


async def test_nobody_asks_and_then_somebody_does(tmp_path: Path) -> None:
    """Idleness is reported once no call runs; a sleeping service is woken once, by however many."""
    pool = InferencePool(max_queue_size=100)
    idle, woken = anyio.Event(), 0
    answers: list[Any] = []

    def wake() -> None:
        nonlocal woken
        woken += 1

    async def call() -> None:
        answers.append(await ask(pool, "pid"))

    async with workshop(tmp_path) as shop, running(pool), anyio.create_task_group() as tasks:
        worker = await shop.worker()
        pool.serve(worker, Service("m", shop.worker, idle_seconds=0.2, on_idle=idle.set))
        assert await ask(pool, "pid") == {"pid": worker.pid}
        with anyio.fail_after(30):
            await idle.wait()
        pool.sleep("m", wake)
        assert pool.is_asleep
        assert pool.stats()["workers"] == 0
        for _ in range(50):
            tasks.start_soon(call)
        await until(pool, lambda: pool.stats()["queue_size"] == 50)
        assert woken == 1
        another = await shop.worker()
        pool.serve(another, Service("m", shop.worker))
    assert answers == [{"pid": another.pid}] * 50


async def test_a_call_that_runs_is_no_idleness(tmp_path: Path) -> None:
    """However long it takes: the time counts from its end."""
    pool = InferencePool()
    gate, idle = tmp_path / "gate", anyio.Event()
    async with workshop(tmp_path) as shop, running(pool), anyio.create_task_group() as tasks:
        pool.serve(await shop.worker(), Service("m", refuse, idle_seconds=0.05, on_idle=idle.set))
        tasks.start_soon(partial(ask, pool, "gate", path=str(gate)))
        await until(pool, lambda: pool.stats()["processing"] == 1)
        with anyio.move_on_after(0.3):
            await idle.wait()
        assert not idle.is_set()
        gate.touch()
        with anyio.fail_after(10):
            await idle.wait()


async def test_what_became_of_requests_is_counted(tmp_path: Path) -> None:
    """By function and outcome, with tokens and durations; a name that no backend has is not kept."""
    pool = InferencePool()
    with pytest.raises(NoActiveModel):
        await ask(pool, "whatever")
    async with workshop(tmp_path) as shop:
        pool.serve(await shop.worker(), Service("m", refuse))
        await ask(pool, "caption")
        async with pool.call("count", {"stream": True, "to": 5}) as stream:
            assert isinstance(stream, CallStream)
            assert [chunk async for chunk in stream] == [0, 1, 2, 3, 4]
        for function in ("nothing", "breaking", "refuse"):
            with pytest.raises((BackendError, UnknownFunction)):
                await read(pool, function)
        with pytest.raises(WorkerTimeout):
            async with pool.call("slow", {"seconds": 0.5}, timeout_seconds=0.05):
                pass
        stats = pool.tally.stats(pool.stats(), limited=None)
    counted = {shown.function: shown for shown in stats.functions}
    assert {
        name: [key for key, times in shown.requests.items() if times] for name, shown in counted.items()
    } == {
        "breaking": ["error"],
        "caption": ["ok"],
        "count": ["ok"],
        "refuse": ["error"],
        "slow": ["timeout"],
        "unknown": ["rejected"],
    }
    assert counted["unknown"].requests["rejected"] == 2
    assert [counted[name].tokens for name in ("caption", "count", "breaking")] == [3, 5, 1]
    assert counted["caption"].seconds.count == 1
    assert counted["slow"].seconds.count == 0
    assert stats.timeouts == 1
    assert stats.waiting.count == 6


async def test_who_lost_a_place_gets_no_seat_that_is_free_by_now(tmp_path: Path) -> None:
    """Also where all others have left since."""
    line = Line()
    own, last, other = line.join("one"), line.join("one"), line.join("another")
    line.limit(other, 2)
    line.leave(own)
    line.leave(other)
    async with workshop(tmp_path) as shop:
        line.workers = [await shop.worker()]
        assert line.take_seat(last) is None


async def test_a_free_seat_wakes_only_who_is_first() -> None:
    """Everybody else would look in vain; another worker is worth a look for all."""
    line = Line()
    tickets = [line.join() for _ in range(3)]
    woken: list[int] = []

    async def wait(number: int) -> None:
        await line.wait_for_turn(tickets[number])
        woken.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(wait, number)
        await anyio.wait_all_tasks_blocked()
        line.change()
        await anyio.wait_all_tasks_blocked()
        assert woken == [0]
        line.leave(tickets[0])
        await anyio.wait_all_tasks_blocked()
        assert woken == [0, 1]
        line.change(is_for_all=True)
    assert woken == [0, 1, 2]
