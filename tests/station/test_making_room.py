"""What the active model goes through while another one is fetched and loaded in its place."""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import pytest

from moondream_station.core.bus.bus import Subscription
from moondream_station.core.facts.errors import StationError, WorkerReplaced
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    Stage,
    StageProgressed,
    StopReason,
    WorkerStopped,
)
from moondream_station.core.station import Station
from moondream_station.http.messages import error_response
from support.machines import cpu_only
from support.stations import HERE, Premises, caption, course_of, failed, switched

pytestmark = pytest.mark.anyio

CPU = cpu_only(HERE)

FETCHING = """
import os, time

def fetch_backend(needed, gate=None, progress=None):
    progress(0, 10)
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    if needed is None:
        error = RuntimeError("nobody has the weights")
        error.cause = "weights-unreachable"
        raise error
    return needed

def init_backend(**args):
    pass

def caption(**kwargs):
    return {"caption": "fetched"}
"""
SILENT = FETCHING.replace("fetch_backend", "unused")
BUSY = """
import os, time

def init_backend(**args):
    pass

def slow(gate, stream=False, **kwargs):
    open(gate + ".begun", "w").close()
    def chunks():
        yield "first"
        wait()
        yield "done"
    def wait():
        while not os.path.exists(gate):
            time.sleep(0.01)
    if stream:
        return {"caption": chunks()}
    wait()
    return {"caption": "done"}
"""
PETABYTE = 10**15


async def first_stopped(events: Subscription) -> str:
    """Whose worker ended first, since the subscription began."""
    with anyio.fail_after(20):
        async for event in events:
            if isinstance(event.fact, WorkerStopped):
                return event.fact.model
    raise AssertionError("the subscription ended")


@pytest.fixture
async def active(premises: Premises) -> Premises:
    """Premises whose active model is `shapes`."""
    premises.add_model("shapes", requirements="")
    async with premises.station(CPU) as station:
        await switched(station, "shapes")
    return premises


async def reasons(premises: Premises, *, needed: int, source: str = FETCHING) -> list[StopReason]:
    """Why the worker of `shapes` ended, when a model that needs so much memory was switched to."""
    premises.add_model("fetched", requirements="", source=source, args={"needed": needed})
    async with premises.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        await station.start_active()
        assert await caption(station) == "a small caption"
        station.request_switch("fetched")
        stops: list[WorkerStopped] = []
        has_succeeded = False
        with anyio.fail_after(30):
            while not (stops and has_succeeded):
                fact = (await anext(events)).fact
                if isinstance(fact, WorkerStopped):
                    stops.append(fact)
                has_succeeded |= isinstance(fact, ActivationSucceeded)
        assert await caption(station) == "fetched"
    assert {stop.model for stop in stops} == {"shapes"}
    return [stop.reason for stop in stops]


async def test_where_memory_suffices_both_are_there(active: Premises) -> None:
    """The old one answers until the new one does."""
    assert await reasons(active, needed=0) == [StopReason.REPLACED]


async def test_where_memory_does_not_suffice_the_old_one_makes_room(active: Premises) -> None:
    """Before the new one loads."""
    assert await reasons(active, needed=PETABYTE) == [StopReason.MEMORY]


async def test_a_small_one_makes_no_room_for_one_that_says_nothing(active: Premises) -> None:
    """Ending it would free next to nothing, as measured, so it stays until the new one answers."""
    assert await reasons(active, needed=0, source=SILENT) == [StopReason.REPLACED]


async def _in_flight(station: Station, answers: list[object], arguments: dict[str, object]) -> None:
    """Call `slow` and keep what came of it: the answer, each chunk, or the error."""
    try:
        async with station.call("slow", arguments, timeout_seconds=60) as answer:
            if isinstance(answer, Mapping):
                answers.append(answer)
                return
            answers.extend([chunk async for chunk in answer])
    except StationError as error:
        answers.append(error)


@pytest.mark.parametrize("needed", [0, PETABYTE], ids=["beside", "in its place"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_call_in_flight_is_finished_or_ended_at_once(
    active: Premises, *, needed: int, stream: bool
) -> None:
    """The old worker finishes it where both fit; else its caller is told at once to send it again."""
    active.add_model("busy", requirements="", source=BUSY)
    active.add_model("fetched", requirements="", source=FETCHING, args={"needed": needed})
    answers: list[object] = []
    async with active.station(CPU, serves=True) as station:
        await switched(station, "busy")
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                gate = active.folder / "busy"
                tasks.start_soon(_in_flight, station, answers, {"gate": str(gate), "stream": stream})
                while not gate.with_suffix(".begun").exists():  # noqa: ASYNC110  the worker makes it
                    await anyio.sleep(0.01)
                await switched(station, "fetched")
                if needed == 0:
                    gate.touch()
    end = answers[-1]
    if needed == 0:
        assert end == ("done" if stream else {"caption": "done"})
    else:
        assert isinstance(end, WorkerReplaced)
        answer = error_response("/v1/slow", end)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize("fails", [True, False])
async def test_whoever_made_room_is_told_of_after_the_end(active: Premises, *, fails: bool) -> None:
    """Its `WorkerStopped` follows the terminal fact, and belongs to no activation."""
    source = FETCHING.replace("    pass", '    raise RuntimeError("broken")') if fails else FETCHING
    active.add_model("fetched", requirements="", source=source, args={"needed": PETABYTE})
    async with active.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        await station.start_active()
        station.request_switch("fetched")
        has_ended = False
        with anyio.fail_after(30):
            async for event in events:
                has_ended |= event.is_terminal
                if isinstance(event.fact, WorkerStopped) and event.fact.model == "shapes":
                    assert (event.activation, event.fact.reason) == (None, StopReason.MEMORY)
                    break
        assert has_ended
        assert await caption(station) == ("a small caption" if fails else "fetched")


@pytest.mark.parametrize("fails", [True, False])
async def test_a_worker_that_made_room_is_not_shown_as_ready(active: Premises, *, fails: bool) -> None:
    """Although the fact that it stopped comes after the activation's end; then what serves is shown."""
    waits = "    while not os.path.exists(args['gate']):\n        time.sleep(0.01)\n"
    source = FETCHING.replace("    pass\n", waits + ('    raise RuntimeError("broken")\n' if fails else ""))
    gate = active.folder / "loaded"
    args = {"needed": PETABYTE, "gate": str(gate)}
    active.add_model("fetched", requirements="", source=source.replace("while gate", "while None"), args=args)

    def shown(station: Station) -> tuple[str, str]:
        now = station.status()["active"]
        return now["model"], now["worker"]

    async with active.station(CPU, serves=True) as station:
        await station.start_active()
        assert shown(station) == ("shapes", "ready")
        async with course_of(station, "fetched") as course:
            with anyio.fail_after(20):
                while shown(station) != ("shapes", "stopped"):  # noqa: ASYNC110  no fact tells it yet
                    await anyio.sleep(0.01)
            gate.touch()
            await course.end(ActivationFailed if fails else ActivationSucceeded)
        await caption(station)
        assert shown(station) == ("shapes" if fails else "fetched", "ready")


async def test_the_old_model_answers_while_weights_are_fetched(active: Premises) -> None:
    """Also where it must make room in the end; cancelled meanwhile, nothing has happened to it."""
    args = {"needed": PETABYTE, "gate": str(active.folder / "gate")}
    active.add_model("fetched", requirements="", source=FETCHING, args=args)
    async with active.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        await station.start_active()
        async with course_of(station, "fetched") as course:
            await course.until(StageProgressed, stage=Stage.VERIFY, unit="bytes")
            assert await caption(station) == "a small caption"
            station.request_cancel()
            await course.end(ActivationCancelled)
        assert await caption(station) == "a small caption"
        assert await first_stopped(events) == "fetched"


async def test_weights_that_can_not_be_had_interrupt_nothing(active: Premises) -> None:
    """The worker that served goes on; it is not even started anew."""
    active.add_model("fetched", requirements="", source=FETCHING, args={"needed": None})
    async with active.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        await station.start_active()
        course = await failed(station, "fetched")
        assert course.only(ActivationFailed).error.code == "weights-unreachable"
        assert await caption(station) == "a small caption"
        assert await first_stopped(events) == "fetched"
