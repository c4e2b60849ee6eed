"""A backend's worker as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from moondream_station.core.facts.errors import ProgramMissing
from moondream_station.core.processes.child_process import child_environment
from moondream_station.core.processes.worker_process import open_worker_process
from support.posix import SIGKILL
from support.processes import left_in_the_end, marked, nothing_left, tree

pytestmark = pytest.mark.anyio

ENV = child_environment(os.environ)
ECHO = """
import sys
print("hello", file=sys.stderr, flush=True)
for line in sys.stdin.buffer:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
print("goodbye", file=sys.stderr)
"""
STATION = """
import os, sys
from pathlib import Path
import anyio
from moondream_station.core.processes.child_process import child_environment
from moondream_station.core.processes.worker_process import open_worker_process

async def station(argv, log):
    env = child_environment(os.environ)
    async with open_worker_process(argv, env=env, cwd=Path.cwd(), log_path=Path(log)) as worker:
        await worker.stdin.send(b"ready\\n")
        print(await worker.stdout.receive(), flush=True)
        await worker.wait()

anyio.run(station, sys.argv[3:], sys.argv[2], backend=sys.argv[1])
"""


@pytest.fixture
def marker() -> Iterator[str]:
    """What every process of the test carries in its command line; none may be left."""
    with nothing_left() as marker:
        yield marker


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    """Where the worker's stderr goes."""
    return tmp_path / "logs" / "worker.log"


def python(code: str, *argv: str) -> list[str]:
    """The argument list of a worker."""
    return [sys.executable, "-S", "-c", code, *argv]


async def test_a_worker_answers_and_leaves_at_the_end_of_its_input(
    marker: str, tmp_path: Path, log_path: Path
) -> None:
    """The end of the context is the end of its stdin, and a worker that listens leaves by itself."""
    async with open_worker_process(python(ECHO, marker), env=ENV, cwd=tmp_path, log_path=log_path) as worker:
        await worker.stdin.send(b"question\n")
        assert await worker.stdout.receive() == b"question\n"
        program = next(process for process in marked(marker) if process.pid == worker.pid)
        assert [process.pid for process in marked(marker) if process != program] == [program.ppid()]
    assert worker.returncode == 0
    assert worker.last_lines() == ("hello", "goodbye")
    assert await anyio.Path(log_path).read_text() == "hello\ngoodbye\n"


async def test_a_crash_is_told_with_its_last_words(tmp_path: Path, log_path: Path) -> None:
    """Waiting gives the exit code, and by then the traceback has been read."""
    crash = python("raise SystemError('no such device')")
    async with open_worker_process(crash, env=ENV, cwd=tmp_path, log_path=log_path) as worker:
        assert await worker.wait() == 1
        assert worker.last_lines()[-1] == "SystemError: no such device"
        with pytest.raises(anyio.EndOfStream):
            await worker.stdout.receive()
    assert worker.returncode == 1


async def test_a_signal_is_a_negative_return_code(marker: str, tmp_path: Path, log_path: Path) -> None:
    """A worker that was killed, by the system say, is told by the signal's number."""
    async with open_worker_process(python(ECHO, marker), env=ENV, cwd=tmp_path, log_path=log_path) as worker:
        os.kill(worker.pid, SIGKILL)
        assert await worker.wait() == -SIGKILL


@pytest.mark.parametrize(
    ("words", "returncode"),
    [
        (("answer", "wait"), -signal.SIGTERM),
        (("deaf", "answer", "wait"), -SIGKILL),
        (("answer", "exit=3"), 3),
    ],
)
async def test_whatever_a_worker_does_nothing_is_left(
    marker: str, tmp_path: Path, log_path: Path, words: tuple[str, ...], returncode: int
) -> None:
    """A worker that does not listen gets SIGTERM, then SIGKILL; its children never outlive it."""
    argv = tree(marker, "child", "stubborn", "group", "daemon", *words)
    async with open_worker_process(argv, env=ENV, cwd=tmp_path, log_path=log_path) as worker:
        assert await worker.stdout.receive() == b"ready\n"
    assert worker.returncode == returncode
    assert left_in_the_end(marker) == []


async def test_a_condemned_worker_goes_with_all_that_it_started(
    marker: str, tmp_path: Path, log_path: Path
) -> None:
    """Also what moved to a session of its own and does not listen."""
    argv = tree(marker, "child", "stubborn", "group", "daemon", "deaf", "answer", "wait")
    async with open_worker_process(argv, env=ENV, cwd=tmp_path, log_path=log_path) as worker:
        await worker.stdout.receive()
        worker.kill()
        assert await worker.wait() == -SIGKILL
        assert marked(marker) == []


async def test_what_a_crashed_worker_leaves_ends_with_it(marker: str, tmp_path: Path, log_path: Path) -> None:
    """The next worker does not meet what the one before has started."""
    argv = tree(marker, "child", "daemon", "exit=3")
    async with open_worker_process(argv, env=ENV, cwd=tmp_path, log_path=log_path) as worker:
        assert await worker.wait() == 3
        assert marked(marker) == []


async def test_an_error_comes_out_as_it_was_raised(marker: str, tmp_path: Path, log_path: Path) -> None:
    """The caller's own error is not wrapped, and the worker is ended all the same."""
    with pytest.raises(LookupError, match="mine"):
        async with open_worker_process(python(ECHO, marker), env=ENV, cwd=tmp_path, log_path=log_path):
            raise LookupError("mine")
    assert marked(marker) == []


async def test_a_cancelled_worker_is_ended_and_heard_to_the_end(
    marker: str, tmp_path: Path, log_path: Path
) -> None:
    """A cancellation ends it like everything else, and its last words are still read."""
    workers = []
    with anyio.CancelScope() as scope:
        async with open_worker_process(
            python(ECHO, marker), env=ENV, cwd=tmp_path, log_path=log_path
        ) as worker:
            workers.append(worker)
            await worker.stdin.send(b"question\n")
            await worker.stdout.receive()
            scope.cancel()
            await worker.wait()
    assert scope.cancelled_caught
    assert workers[0].last_lines() == ("hello", "goodbye")
    assert marked(marker) == []


async def test_ten_megabytes_of_complaints_block_nobody(tmp_path: Path, log_path: Path) -> None:
    """Its stderr is drained from the start, and what is kept of it is bounded."""
    noisy = python("import sys; [print('x' * 1000, file=sys.stderr) for _ in range(10_000)]; print('done')")
    async with open_worker_process(noisy, env=ENV, cwd=tmp_path, log_path=log_path) as worker:
        assert await worker.stdout.receive() == b"done\n"
        assert await worker.wait() == 0
    assert len(worker.last_lines()) == 200
    assert sum(file.stat().st_size for file in log_path.parent.iterdir()) <= 8 * 1024 * 1024


async def test_a_worker_leads_its_own_group_in_another_session(tmp_path: Path, log_path: Path) -> None:
    """Ctrl-C in the station's terminal does not reach it."""
    code = f"import os; print(os.getpid() == os.getpgid(0) and os.getsid(0) != os.getsid({os.getpid()}))"
    async with open_worker_process(python(code), env=ENV, cwd=tmp_path, log_path=log_path) as worker:
        assert await worker.stdout.receive() == b"True\n"


async def test_a_missing_python_is_named_and_a_missing_folder_is_something_else(
    tmp_path: Path, log_path: Path
) -> None:
    """What can't be started is told from where it should have been started."""
    with pytest.raises(ProgramMissing, match="absent"):
        async with open_worker_process([str(tmp_path / "absent")], env=ENV, cwd=tmp_path, log_path=log_path):
            raise AssertionError("it can't have started")
    broken = tmp_path / "broken"
    broken.write_bytes(b"#!/no/such/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(ProgramMissing, match="broken"):
        async with open_worker_process([str(broken)], env=ENV, cwd=tmp_path, log_path=log_path):
            raise AssertionError("it can't have started")
    with pytest.raises(FileNotFoundError, match="absent"):
        async with open_worker_process(python(ECHO), env=ENV, cwd=tmp_path / "absent", log_path=log_path):
            raise AssertionError("it can't have started")


@pytest.mark.parametrize("family", [(), ("deaf", "child", "stubborn", "group", "daemon")])
@pytest.mark.parametrize("number", [SIGKILL, signal.SIGTERM])
def test_nothing_of_a_worker_outlives_a_killed_station(
    marker: str,
    tmp_path: Path,
    log_path: Path,
    anyio_backend: str,
    family: tuple[str, ...],
    number: signal.Signals,
) -> None:
    """Its guard sees the end of the station, whatever else the station had open."""
    argv = tree(marker, *family, "answer", "wait") if family else python(ECHO, marker)
    command = [sys.executable, "-c", STATION, anyio_backend, str(log_path), *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as station:
        assert station.stdout is not None
        assert b"ready" in station.stdout.readline()
        station.send_signal(number)
    assert left_in_the_end(marker) == []
