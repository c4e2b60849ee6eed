"""Workers as real processes, with backends that behave and backends that don't."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from moondream_station.core.facts.errors import (
    ArgumentInvalid,
    BackendError,
    NoSpace,
    StationError,
    UnknownFunction,
    WeightsUnreachable,
    WorkerFailed,
    WorkerTimeout,
)
from moondream_station.core.processes.child_process import child_environment
from moondream_station.core.processes.worker_process import open_worker_process
from moondream_station.core.worker.link import CallStream, Link, Request
from moondream_station.core.worker.loading import MemoryNeed
from moondream_station.core.worker.verification import WorkerPlan
from moondream_station.core.worker.worker import Worker, answer, open_worker
from support.backends import ECHO, HOSTILE, SIBLING, SIBLING_FILES, STREAMING, call, write_backend

pytestmark = pytest.mark.anyio

CARELESS = '''
"""Checks next to nothing, as many backends."""
import base64

def caption(image_url=None, length="short", stream=False, **kwargs):
    if length not in {"short", "long"}:
        raise ValueError("length must be short or long")
    return {"caption": len(base64.b64decode(image_url.partition(",")[2] or image_url))}

def query(image_url=None, question=None):
    return {"answer": question.strip()}

def clumsy(image_url, length):
    return {"number": int(length)}

def unready(image_url, length):
    raise ValueError("the model is not loaded")

def lost(image_url, length):
    return {}["weights"]

def lost_without_image(length, image_url=None):
    return {}["weights"]
'''


@asynccontextmanager
async def started(tmp_path: Path, *, threads: int = 1) -> AsyncIterator[Worker]:
    """A worker that has said hello."""
    async with open_worker(
        Path(sys.executable),
        env=child_environment(os.environ),
        cwd=tmp_path,
        log_path=tmp_path / "worker.log",
        threads=threads,
    ) as worker:
        yield worker


@asynccontextmanager
async def serving(
    tmp_path: Path,
    source: str,
    *,
    files: dict[str, str] | None = None,
    args: dict[str, Any] | None = None,
    threads: int = 1,
) -> AsyncIterator[Worker]:
    """A worker with a backend, ready for calls."""
    code = write_backend(tmp_path / "backend", source, files=files)
    async with started(tmp_path, threads=threads) as worker:
        await worker.init(code, args or {}, device="cpu")
        yield worker


async def test_answers_calls_with_what_the_backend_returns(tmp_path: Path) -> None:
    """Arguments and answers cross the pipe as they are, also with lone surrogates and line ends in them."""
    async with serving(tmp_path, ECHO, args={"model_id": "m"}) as worker:
        kwargs = {"text": "a\nb\x00 \ud800 ü", "number": 1.5, "nested": {"list": [None, True]}}
        assert await call(worker, "echo", kwargs) == {"kwargs": kwargs, "args": {"model_id": "m"}}


async def test_long_texts_arrive_as_they_are(tmp_path: Path) -> None:
    """They go behind the call, not as JSON, which took most of the time of a call with an image."""
    source = "def size(**kwargs):\n    return {name: len(value) for name, value in kwargs.items()}\n"
    async with serving(tmp_path, source) as worker:
        kwargs = {"image_url": '"' * 20_000_000, "question": "\ud800" * 20_000, "length": "short"}
        # 80 MB as JSON, which is more than a frame may have.
        assert await call(worker, "size", {**kwargs, "other": '"' * 20_000_000}) == {
            "image_url": 20_000_000,
            "question": 20_000,
            "length": 5,
            "other": 20_000_000,
        }


async def test_verifies_without_torch_that_the_worker_lives(tmp_path: Path) -> None:
    """A backend without torch has an empty report and nothing that differs from the plan."""
    async with started(tmp_path) as worker:
        verification = await worker.verify(WorkerPlan(build=None))
        assert verification.is_ok
        assert verification.report.torch is None


async def test_a_missing_torch_is_a_mismatch_with_pythons_own_words(tmp_path: Path) -> None:
    """Where torch can't be imported, verification says so instead of failing."""
    async with started(tmp_path) as worker:
        verification = await worker.verify(WorkerPlan(build="cpu", torch="2.13.0"))
        assert not verification.is_ok
        assert [item.field for item in verification.mismatches] == ["torch", "build", "device", "compute_ok"]
        assert verification.detail is not None
        assert "No module named 'torch'" in verification.detail


async def test_wraps_an_answer_that_is_no_dictionary(tmp_path: Path) -> None:
    """As 0.1 did: anything but a dictionary arrives as `result`."""
    async with serving(tmp_path, ECHO) as worker:
        assert await call(worker, "bare", {}) == {"result": "no dict"}


async def test_streams_the_first_iterator_of_the_answer(tmp_path: Path) -> None:
    """With `stream` the chunks come one by one, under the key they stood under."""
    async with serving(tmp_path, ECHO) as worker:
        stream = await call(worker, "caption", {"stream": True})
        assert isinstance(stream, CallStream)
        assert stream.key == "caption"
        assert [chunk async for chunk in stream] == ["a ", "small ", "caption"]
        assert await call(worker, "caption", {"stream": False}) == {"caption": "a small caption"}


@pytest.mark.parametrize("rest", ["{'text': 'thought', 'grounding': []}", "object()"])
async def test_a_stream_tells_what_the_answer_holds_beside_it(tmp_path: Path, rest: str) -> None:
    """As the model's reasoning; what is no JSON is left out, and the stream arrives all the same."""
    source = f"def query(stream=False):\n    return {{'reasoning': {rest}, 'answer': iter(['a ', 'cat'])}}\n"
    async with serving(tmp_path, source) as worker:
        stream = await call(worker, "query", {"stream": True})
        assert isinstance(stream, CallStream)
        thought = {"text": "thought", "grounding": []}
        assert stream.rest == ({} if rest == "object()" else {"reasoning": thought})
        assert stream.key == "answer"
        assert [chunk async for chunk in stream] == ["a ", "cat"]


async def test_a_function_may_tell_how_far_it_is(tmp_path: Path) -> None:
    """Where it names `progress`, until its answer or its stream begins; a quick answer tells nothing."""
    source = (
        "import time\n"
        "def query(question, progress, stream=False):\n"
        "    def words():\n"
        "        for word in ('a ', 'cat'):\n"
        "            progress(7)\n"
        "            yield word\n"
        "    for number in range(3):\n"
        "        progress(number)\n"
        "        time.sleep(0.3 if question == 'slow' else 0)\n"
        "    return {'answer': words() if stream else 'a cat'}\n"
    )
    told: list[tuple[int, int | None, str]] = []

    async def ask(question: str, *, stream: bool) -> tuple[Request, Any]:
        told.clear()
        request = worker.begin("query", {"question": question, "stream": stream, "progress": "no"})
        get = partial(request.past_progress, lambda *step: told.append(step))
        return request, await answer(request, 20, get=get)

    async with serving(tmp_path, source) as worker:
        request, whole = await ask("slow", stream=False)
        assert whole == {"answer": "a cat"}
        assert told == [(1, None, "tokens"), (2, None, "tokens")]
        shown = request.shown()
        assert shown.pop("seconds") > 0.5
        assert shown == {"function": "query", "done": 2, "total": None, "unit": "tokens"}
        request, stream = await ask("slow", stream=True)
        assert told == [(1, None, "tokens"), (2, None, "tokens")]
        assert request.shown()["done"] in {0, 1, 2}
        assert [chunk async for chunk in stream] == ["a ", "cat"]
        assert request.shown()["done"] == 2
        await ask("quick", stream=False)
        assert told == []


async def test_progress_that_nobody_reads_is_no_offence(tmp_path: Path) -> None:
    """A caller has left, and the function goes on telling how far it is."""
    source = (
        "def long(progress):\n    for _ in range(1000):\n        progress(1, 1)\ndef fine():\n    return {}\n"
    )
    async with serving(tmp_path, source) as worker:
        worker.begin("long", {})
        assert await call(worker, "fine", {}) == {}


async def test_a_stream_longer_than_its_window_arrives_whole(tmp_path: Path) -> None:
    """The station asks for more as it uses chunks up."""
    async with serving(tmp_path, STREAMING) as worker:
        stream = await call(worker, "count", {"stream": True, "to": 2000})
        assert isinstance(stream, CallStream)
        assert [chunk async for chunk in stream] == list(range(2000))


async def test_a_stream_given_up_is_closed_and_the_worker_goes_on(tmp_path: Path) -> None:
    """Whoever closes an endless stream frees the worker, and the backend's generator is closed."""
    async with serving(tmp_path, STREAMING) as worker:
        request = worker.begin("count", {"stream": True})
        stream = await answer(request, 20)
        assert isinstance(stream, CallStream)
        assert await anext(stream) == 0
        request.abandon()
        assert await call(worker, "was_closed", {}) == {"closed": 1}
        assert request.is_ended


@pytest.mark.parametrize(("function", "words"), [("breaking", "the third rail"), ("strange", "JSON")])
async def test_an_error_in_the_middle_of_a_stream_arrives(tmp_path: Path, function: str, words: str) -> None:
    """What was streamed before arrives, then the error."""
    async with serving(tmp_path, STREAMING) as worker:
        stream = await call(worker, function, {"stream": True})
        assert isinstance(stream, CallStream)
        assert await anext(stream) == 1
        with pytest.raises(BackendError, match=words):
            await anext(stream)
        assert await call(worker, "was_closed", {}) == {"closed": 0}


async def test_what_a_backend_raises_is_its_callers_answer(tmp_path: Path) -> None:
    """The exception's text arrives, its traceback is in the log, and the worker goes on."""
    async with serving(tmp_path, ECHO) as worker:
        with pytest.raises(BackendError, match="image_url is missing: give one"):
            await call(worker, "refuse", {})
        assert await call(worker, "bare", {}) == {"result": "no dict"}
        assert any("ValueError" in line for line in worker.last_lines)


@pytest.mark.parametrize(("given", "name"), [({}, "lines"), ({"lines": 1, "colour": "red"}, "colour")])
async def test_arguments_that_do_not_fit_are_the_callers_mistake(
    tmp_path: Path, given: dict[str, object], name: str
) -> None:
    """Missing or unknown: the error names the argument, and has a code of its own."""
    source = "def init_backend():\n    pass\n\ndef strict(lines):\n    return {'lines': lines}\n"
    async with serving(tmp_path, source) as worker:
        with pytest.raises(ArgumentInvalid, match=name) as caught:
            await call(worker, "strict", given)
        assert caught.value.argument == name
        assert await call(worker, "strict", {"lines": 1}) == {"lines": 1}


@pytest.mark.parametrize(
    ("function", "given", "words"),
    [
        ("caption", {}, "image_url is missing"),
        ("caption", {"image_url": 5}, "image_url must be text, not int"),
        ("caption", {"image_url": "a", "length": "epic"}, "length must be short or long"),
        ("caption", {"image_url": "abc"}, "image_url can't be read as an image: Incorrect padding"),
        ("query", {"image_url": "QQ==", "question": ["?"]}, "question must be text, not list"),
    ],
)
async def test_an_argument_that_a_backend_trips_over_is_the_callers_mistake(
    tmp_path: Path, function: str, given: dict[str, object], words: str
) -> None:
    """Clients repeat a 500; what can't become right gets the argument's name instead of Python's words."""
    async with serving(tmp_path, CARELESS) as worker:
        with pytest.raises(ArgumentInvalid, match=re.escape(words)) as caught:
            await call(worker, function, given)
        assert str(caught.value.argument) in words


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("clumsy", "invalid literal for int"),
        ("unready", "the model is not loaded"),
        ("lost", "'weights'"),
        ("lost_without_image", "'weights'"),
    ],
)
async def test_what_no_argument_causes_is_the_backends_failure(
    tmp_path: Path, function: str, words: str
) -> None:
    """The same kinds of exceptions, with arguments that are as they should be, or that may be left out."""
    given = {"length": "short"} | ({} if "without" in function else {"image_url": "QQ=="})
    async with serving(tmp_path, CARELESS) as worker:
        with pytest.raises(BackendError, match=words):
            await call(worker, function, given)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("exit", r"the backend called sys.exit\('tired'\)"),
        ("odd", "Odd"),
        ("not_json", "JSON"),
        ("infinite", "JSON"),
        ("unasked_generator", "JSON"),
        ("huge", "at most 67108864"),
    ],
)
async def test_survives_what_a_backend_must_not_do(tmp_path: Path, function: str, words: str) -> None:
    """Odd exceptions and odd answers are errors of that one call."""
    async with serving(tmp_path, HOSTILE) as worker:
        with pytest.raises(BackendError, match=words):
            await call(worker, function, {})
        assert await call(worker, "read_stdin", {}) == {"read": ""}


async def test_survives_output_on_stdout(tmp_path: Path) -> None:
    """What a backend prints goes to the log, never between the frames, however much it is."""
    async with serving(tmp_path, HOSTILE) as worker:
        assert await call(worker, "shout", {"lines": 5000}) == {"shouted": 5000}
        assert await call(worker, "close_stdout", {}) == {"closed": True}
        with pytest.raises(BackendError):
            await call(worker, "exit", {})
        assert worker.failure is None


async def test_a_function_the_manifest_does_not_list_is_unknown(tmp_path: Path) -> None:
    """Neither `init_backend` nor an imported module can be called from outside."""
    code = write_backend(tmp_path / "backend", ECHO, functions=("echo", "absent"))
    async with started(tmp_path) as worker:
        await worker.init(code, {})
        for function in ("init_backend", "os", "absent", "caption"):
            with pytest.raises(UnknownFunction):
                await call(worker, function, {})


async def test_calls_before_the_backend_is_loaded_are_unknown(tmp_path: Path) -> None:
    """A worker that was only started has no functions."""
    async with started(tmp_path) as worker:
        with pytest.raises(UnknownFunction):
            await call(worker, "echo", {})


async def test_imports_siblings_and_passes_the_device(tmp_path: Path) -> None:
    """The worker's own files can't shadow the backend's; `device` goes to an `init_backend` that names it."""
    async with serving(tmp_path, SIBLING, files=SIBLING_FILES) as worker:
        answer = await call(worker, "greet", {"name": "moon"})
        assert answer == {"greeting": "hello moon", "device": "cpu", "own": True}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def init_backend(**_):\n    raise OSError('no weights')", "OSError: no weights"),
        ("def init_backend(**_):\n    raise SystemExit(3)", "sys.exit"),
        ("def init_backend():\n    pass", "unexpected keyword argument"),
    ],
)
async def test_a_backend_that_can_not_be_initialised_says_why(
    tmp_path: Path, source: str, words: str
) -> None:
    """Whatever goes wrong while it loads is in the message, with the output in the log."""
    with pytest.raises(WorkerFailed, match=words):
        async with serving(tmp_path, source, args={"unknown": 1}):
            pass


async def test_a_backend_that_shows_no_sign_of_life_is_given_up(tmp_path: Path) -> None:
    """Loading has no time limit, only a limit on doing nothing."""
    source = "import time\ndef init_backend():\n    time.sleep(3600)"
    code = write_backend(tmp_path / "backend", source)
    async with started(tmp_path) as worker:
        worker.stall_seconds = 0.4
        with pytest.raises(WorkerTimeout, match=r"no sign of life for 0\.4 s"):
            await worker.init(code, {})


@pytest.mark.parametrize(
    "doing",
    ["print(number, flush=True); time.sleep(0.05)", "[None for _ in range(4_000_000)]"],
    ids=["output", "processor"],
)
async def test_a_backend_that_loads_long_but_lives_is_waited_for(tmp_path: Path, doing: str) -> None:
    """Output and CPU time each count as signs of life."""
    source = f"import time\ndef init_backend():\n    for number in range(30):\n        {doing}"
    code = write_backend(tmp_path / "backend", source)
    async with started(tmp_path) as worker:
        worker.stall_seconds = 1.0
        await worker.init(code, {})


async def test_growth_seen_from_outside_is_a_sign_of_life(tmp_path: Path) -> None:
    """A backend that waits for its download is alive as long as the download grows."""
    source = "import time\ndef init_backend():\n    time.sleep(1.2)"
    code = write_backend(tmp_path / "backend", source)
    looks = iter(range(1000))
    async with started(tmp_path) as worker:
        worker.stall_seconds = 0.5
        worker.signs_of_life = lambda: next(looks)
        await worker.init(code, {})


async def test_a_call_that_takes_too_long_times_out_and_leaves_the_worker_usable(tmp_path: Path) -> None:
    """The late answer is dropped, the next call gets its own."""
    async with serving(tmp_path, ECHO) as worker:
        with pytest.raises(WorkerTimeout, match=r"`slow` within 0\.05 s"):
            await call(worker, "slow", {"seconds": 0.3}, timeout_seconds=0.05)
        assert await call(worker, "bare", {}, timeout_seconds=10) == {"result": "no dict"}


async def test_a_cancelled_call_leaves_the_worker_usable(tmp_path: Path) -> None:
    """Cancelling whoever waits cancels nothing else."""
    ended = anyio.Event()
    async with serving(tmp_path, ECHO) as worker:
        request = worker.begin("slow", {"seconds": 0.3}, on_end=ended.set)
        with anyio.move_on_after(0.01):
            await request.next_frame(None)
        await ended.wait()
        assert await call(worker, "bare", {}) == {"result": "no dict"}


async def test_calls_run_side_by_side_up_to_the_number_of_threads(tmp_path: Path) -> None:
    """With two threads a short call overtakes a long one."""
    order = []
    async with serving(tmp_path, ECHO, threads=2) as worker, anyio.create_task_group() as tasks:

        async def call_and_note(seconds: float) -> None:
            await call(worker, "slow", {"seconds": seconds})
            order.append(seconds)

        tasks.start_soon(call_and_note, 0.5)
        tasks.start_soon(call_and_note, 0.01)
    assert order == [0.01, 0.5]


@pytest.mark.parametrize(
    ("function", "words"), [("segfault", "was ended by SIGSEGV"), ("leave", "ended with exit code 7")]
)
async def test_a_crash_reaches_everyone_who_waits(tmp_path: Path, function: str, words: str) -> None:
    """Calls in flight, later calls and whoever watches learn how the worker ended, with its last lines."""
    errors: list[StationError] = []
    async with serving(tmp_path, HOSTILE, threads=2) as worker:

        async def call_and_note(name: str) -> None:
            with pytest.raises(WorkerFailed) as caught:
                await call(worker, name, {})
            errors.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_and_note, function)
            errors.append(await worker.wait_failed())
        await call_and_note("read_stdin")
    assert len(errors) == 3
    assert all(words in error.message for error in errors)
    if function == "segfault":
        assert errors[0].log is not None
        assert "about to fall" in errors[0].log


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (3, 4, "was ended by SIGKILL because memory ran out"),
        (3, 3, "was ended by SIGKILL; the kernel reports no out-of-memory kill"),
        (None, None, "was ended by SIGKILL."),
    ],
)
async def test_memory_is_blamed_where_the_kernel_says_so(
    tmp_path: Path, before: int | None, after: int | None, words: str
) -> None:
    """And nothing is guessed where it says nothing."""
    counts = iter([before, after])
    argv = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    async with open_worker_process(argv, env={}, cwd=tmp_path, log_path=tmp_path / "log") as process:
        link = Link(process, lambda: next(counts))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(link.read)
            await link.watch()
        assert words in str(link.failure)


async def test_rubbish_between_the_frames_is_a_failure(tmp_path: Path) -> None:
    """A backend that finds the worker's own pipe and writes to it breaks the protocol, visibly."""
    async with serving(tmp_path, HOSTILE) as worker:
        with pytest.raises(WorkerFailed, match="broke its protocol"):
            await call(worker, "rubbish", {})


async def test_arguments_that_are_no_json_are_refused_before_they_are_sent(tmp_path: Path) -> None:
    """The worker never sees them, and goes on."""
    async with serving(tmp_path, ECHO) as worker:
        with pytest.raises(BackendError, match="can't be sent"):
            await call(worker, "echo", {"file": b"bytes"})
        assert await call(worker, "bare", {}) == {"result": "no dict"}


async def test_a_worker_that_never_says_hello_times_out(tmp_path: Path) -> None:
    """An interpreter that hangs is given up after its deadline."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 3600\n")
    script.chmod(0o755)
    with pytest.raises(WorkerTimeout, match=r"did not start within 0\.2 s"):
        async with open_worker(
            script,
            env=child_environment(os.environ),
            cwd=tmp_path,
            log_path=tmp_path / "log",
            hello_seconds=0.2,
        ):
            pass


async def test_an_interpreter_that_prints_at_its_start_says_hello_all_the_same(tmp_path: Path) -> None:
    """A `.pth` file or a sitecustomize may print, and what is in the buffer then comes later."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nprint('Hello from the site', flush=True)\nprint('and later')\n"
    )
    env = {**child_environment(os.environ), "PYTHONPATH": str(tmp_path)}
    async with open_worker(Path(sys.executable), env=env, cwd=tmp_path, log_path=tmp_path / "log") as worker:
        assert (await worker.verify(WorkerPlan(build=None))).is_ok


async def test_an_interpreter_that_dies_at_once_is_a_failure_with_its_words(tmp_path: Path) -> None:
    """What it wrote to stderr is in the message."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'libpython is missing' >&2\nexit 127\n")
    script.chmod(0o755)
    with pytest.raises(WorkerFailed, match=r"exit code 127.*libpython is missing"):
        async with open_worker(
            script, env=child_environment(os.environ), cwd=tmp_path, log_path=tmp_path / "log"
        ):
            pass


async def test_nothing_is_left_behind_the_block(tmp_path: Path) -> None:
    """The worker, its guard and what the backend started end with the block, also when it raises."""
    left: list[psutil.Process] = []

    async def fail_while_serving() -> None:
        async with serving(tmp_path, HOSTILE) as worker:
            await call(worker, "child", {})
            left.append(psutil.Process(psutil.Process(worker.pid).ppid()))
            left.extend(left[0].children(recursive=True))
            raise LookupError

    with pytest.raises(LookupError):
        await fail_while_serving()
    assert len(left) == 3
    assert not await survivors(left)


@pytest.mark.parametrize("function", ["hold_the_lock", "child"])
async def test_nothing_survives_the_stations_death(tmp_path: Path, function: str) -> None:
    """A worker ends with a station that was killed, also while a backend's C code keeps it from noticing."""
    write_backend(tmp_path / "backend", HOSTILE)
    command = [sys.executable, "-c", STATION, str(tmp_path), function]
    tests = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    async with await anyio.open_process(command, env=env, stderr=None) as station:
        assert station.stdout is not None
        pids = [int(pid) for pid in (await station.stdout.receive()).split()]
        processes = [psutil.Process(pid) for pid in pids]
        station.kill()
        await station.wait()
        assert not await survivors(processes)


async def survivors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there after a killed process has had time to go."""
    _, alive = await anyio.to_thread.run_sync(lambda: psutil.wait_procs(processes, timeout=10))
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


STATION = """
import os, sys
from pathlib import Path
import anyio, psutil
from moondream_station.core.worker.worker import open_worker
from support.backends import HOSTILE, write_backend

async def main():
    folder, function = Path(sys.argv[1]), sys.argv[2]
    async with open_worker(
        Path(sys.executable), env=dict(os.environ), cwd=folder, log_path=folder / "log"
    ) as worker:
        await worker.init(write_backend(folder / "backend", HOSTILE), {})
        request = worker.begin(function, {})
        if function == "child":
            await request.next_frame(None)
        while function == "hold_the_lock" and "holding" not in worker.last_lines:
            await anyio.sleep(0.01)
        pids = [worker.pid, *(child.pid for child in psutil.Process(worker.pid).children(recursive=True))]
        print(*pids, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_how_far_loading_is_reaches_the_station(tmp_path: Path) -> None:
    """`progress` goes to an `init_backend` that names it; what comes too often is left out, never the end."""
    source = (
        "def init_backend(progress):\n"
        "    for number in range(1001):\n"
        "        progress(number, 1000, 'bytes')\n"
        "    init_backend.progress = progress\n"
        "def later(**kwargs):\n"
        "    init_backend.progress(1, 2)\n"
        "    return {}\n"
    )
    code = write_backend(tmp_path / "backend", source)
    told: list[tuple[int, int | None, str]] = []
    async with started(tmp_path) as worker:
        await worker.init(code, {}, progress=lambda *step: told.append(step))
        assert await call(worker, "later", {}) == {}
    assert told[0] == (0, 1000, "bytes")
    assert told[-1] == (1000, 1000, "bytes")
    assert len(told) < 20


async def test_progress_is_a_sign_of_life(tmp_path: Path) -> None:
    """Who says how far it is does not stall, though it neither computes nor prints."""
    source = (
        "import time\n"
        "def init_backend(progress):\n"
        "    for number in range(4):\n"
        "        time.sleep(0.3)\n"
        "        progress(number)\n"
    )
    code = write_backend(tmp_path / "backend", source)
    async with started(tmp_path) as worker:
        worker.stall_seconds = 0.6
        await worker.init(code, {})


@pytest.mark.parametrize(
    ("cause", "kind"),
    [("weights-unreachable", WeightsUnreachable), ("no-space", NoSpace), ("usage", WorkerFailed)],
)
async def test_a_backend_may_say_the_cause_and_the_remedy(
    tmp_path: Path, cause: str, kind: type[StationError]
) -> None:
    """Only causes that loading a model can have; anything else is its worker's failure."""
    source = (
        "class Gone(Exception):\n"
        f"    cause, hint = {cause!r}, 'Plug it in.'\n"
        "def init_backend():\n"
        "    raise Gone('the disk with the weights is away')\n"
    )
    code = write_backend(tmp_path / "backend", source)
    async with started(tmp_path) as worker:
        with pytest.raises(kind, match="the disk with the weights is away") as caught:
            await worker.init(code, {})
    assert type(caught.value) is kind
    assert (caught.value.hint == "Plug it in.") is (kind is not WorkerFailed)


async def test_an_exception_with_odd_attributes_is_an_ordinary_failure(tmp_path: Path) -> None:
    """What a backend's class has under those names may be anything, or raise."""
    source = (
        "class Odd(Exception):\n"
        "    cause = 7\n"
        "    @property\n"
        "    def hint(self):\n"
        "        raise RuntimeError\n"
        "def init_backend():\n"
        "    raise Odd('odd')\n"
    )
    with pytest.raises(WorkerFailed, match="Odd: odd"):
        async with serving(tmp_path, source):
            pass


FETCHING = """
brought = []

def fetch_backend(model_id, progress):
    progress(0, 5)
    brought.append(model_id)
    progress(5, 5)
    return 7

def init_backend(**args):
    brought.append(args)

def whole(**kwargs):
    return {"brought": brought}
"""


async def test_a_backend_may_fetch_before_it_loads(tmp_path: Path) -> None:
    """It gets of the arguments those that it names, says what memory it needs, and is imported once."""
    code = write_backend(tmp_path / "backend", FETCHING)
    told: list[tuple[int, int | None, str]] = []
    async with started(tmp_path) as worker:
        args = {"model_id": "m", "dtype": "x"}
        need, found = await worker.fetch(code, args, device="cpu", progress=lambda *step: told.append(step))
        assert found == {}
        assert need == MemoryNeed(needed_bytes=7, free_on_device_bytes=None)
        await worker.init(code, args, device="cpu")
        assert await call(worker, "whole", {}) == {"brought": ["m", args]}
    assert told == [(0, 5, "bytes"), (5, 5, "bytes")]


@pytest.mark.parametrize("answer", ["None", "'much'", "-1", "True", "1.5"])
async def test_what_is_no_number_of_bytes_is_no_need(tmp_path: Path, answer: str) -> None:
    """Then nothing is known of the memory."""
    code = write_backend(tmp_path / "backend", f"def fetch_backend():\n    return {answer}\n")
    async with started(tmp_path) as worker:
        assert await worker.fetch(code, {}) == (None, {})


async def test_a_backend_may_say_what_it_found(tmp_path: Path) -> None:
    """Arguments that load the same again, beside the memory that it takes."""
    source = "def fetch_backend():\n    return {'memory_bytes': 7, 'args': {'commit': 'abc'}}\n"
    code = write_backend(tmp_path / "backend", source)
    async with started(tmp_path) as worker:
        need, found = await worker.fetch(code, {})
    assert need is not None
    assert (need.needed_bytes, found) == (7, {"commit": "abc"})


@pytest.mark.parametrize("rest", ["", "def broken(:\n"])
async def test_a_backend_that_fetches_nothing_is_not_imported_for_it(tmp_path: Path, rest: str) -> None:
    """It may load its model as soon as it is; what is wrong with it shows when it is loaded."""
    marker = tmp_path / "imported"
    code = write_backend(tmp_path / "backend", f"open({str(marker)!r}, 'w')\n{rest}")
    async with started(tmp_path) as worker:
        assert await worker.fetch(code, {}) == (None, {})
        assert not marker.exists()


async def test_what_can_not_be_fetched_has_its_cause(tmp_path: Path) -> None:
    """As where `init_backend` raises."""
    source = (
        "class Gone(Exception):\n"
        "    cause = 'weights-unreachable'\n"
        "def fetch_backend():\n"
        "    raise Gone('nobody answers')\n"
    )
    code = write_backend(tmp_path / "backend", source)
    async with started(tmp_path) as worker:
        with pytest.raises(WeightsUnreachable, match="nobody answers"):
            await worker.fetch(code, {})


async def test_fetching_without_a_sign_of_life_is_given_up(tmp_path: Path) -> None:
    """The clock is the one of loading."""
    source = "import time\ndef fetch_backend():\n    time.sleep(3600)\n"
    code = write_backend(tmp_path / "backend", source)
    async with started(tmp_path) as worker:
        worker.stall_seconds = 0.4
        with pytest.raises(WorkerTimeout, match="fetch_backend"):
            await worker.fetch(code, {})


async def test_a_function_may_ask_whether_its_caller_has_left(tmp_path: Path) -> None:
    """One that computes for long ends as soon as it asks; whoever sends the argument does not replace it."""
    source = (
        "import time\n"
        "left = []\n"
        "def long(cancelled, progress, **kwargs):\n"
        "    progress(1, 1)\n"
        "    while not cancelled():\n"
        "        time.sleep(0.01)\n"
        "    left.append(True)\n"
        "def seen(**kwargs):\n"
        "    return {'left': left}\n"
    )
    async with serving(tmp_path, source) as worker:
        request = worker.begin("long", {"cancelled": "no"})
        assert (await request.get())["kind"] == "progress"  # it runs
        request.abandon()
        with anyio.fail_after(20):
            assert await call(worker, "seen", {}) == {"left": [True]}


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("CUDA error: device-side assert triggered", True),
        ("HIP error: an illegal memory access was encountered", True),
        ("CUDA error: out of memory", False),
        ("CUDA out of memory. Tried to allocate 20.00 MiB", False),
    ],
)
@pytest.mark.parametrize("raises", [True, False])
async def test_a_worker_whose_device_broke_ends(
    tmp_path: Path, text: str, *, ends: bool, raises: bool
) -> None:
    """Every later call would fail too; memory that ran out comes back. Backends of 0.1 raise nothing."""
    failing = f"raise RuntimeError({text!r})" if raises else f"return {{'error': {text!r}}}"
    source = f"def fail(**kwargs):\n    {failing}\ndef fine(**kwargs):\n    return {{}}\n"
    async with serving(tmp_path, source) as worker:
        if raises:
            with pytest.raises(BackendError, match=r"memory|assert"):
                await call(worker, "fail", {})
        else:
            assert await call(worker, "fail", {}) == {"error": text}
        if ends:
            with anyio.fail_after(20):
                assert "exit code 70" in (await worker.wait_failed()).message
        else:
            assert await call(worker, "fine", {}) == {}


async def test_a_worker_whose_owner_is_cancelled_may_say_goodbye(tmp_path: Path) -> None:
    """It is told to end, and ends by itself: what its backend registered for that has run."""
    source = f"import atexit, pathlib\natexit.register(pathlib.Path({str(tmp_path / 'bye')!r}).touch)\n"
    with anyio.CancelScope() as scope:
        async with serving(tmp_path, source):
            scope.cancel()
            await anyio.sleep_forever()
    assert (tmp_path / "bye").exists()
