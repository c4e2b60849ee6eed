"""Programs that the station runs, and what is left of them: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from moondream_station.core.facts.errors import ProgramMissing
from moondream_station.core.processes.child_process import CompletedProcess, child_environment, run
from support.posix import SIGKILL, descriptors_of
from support.processes import left_in_the_end, marked, nothing_left, tree

pytestmark = pytest.mark.anyio

ENV = child_environment(os.environ)
FAMILY = ("child", "stubborn", "group", "daemon")
STATION = """
import os, sys
import anyio
from moondream_station.core.processes.child_process import child_environment
from moondream_station.core.processes.child_process import run

async def station():
    say = lambda line: print(line, flush=True)
    await run(sys.argv[2:], env=child_environment(os.environ), on_stderr_line=say)

anyio.run(station, backend=sys.argv[1])
"""
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise holds on Linux alone")


@pytest.fixture
def marker() -> Iterator[str]:
    """What every process of the test carries in its command line; none may be left."""
    with nothing_left() as marker:
        yield marker


@asynccontextmanager
async def running(argv: list[str]) -> AsyncIterator[list[CompletedProcess]]:
    """A program that has said it is ready; its end is in the list once the context is over."""
    results: list[CompletedProcess] = []
    ready = anyio.Event()

    async def run_it() -> None:
        results.append(await run(argv, env=ENV, on_stderr_line=lambda _line: ready.set()))

    async with anyio.create_task_group() as programs:
        programs.start_soon(run_it)
        await ready.wait()
        yield results


async def shell(
    script: str, *, cwd: Path | None = None, output_limit_bytes: int = 1 << 20
) -> CompletedProcess:
    """Run a line of shell."""
    return await run(["/bin/sh", "-c", script], env=ENV, cwd=cwd, output_limit_bytes=output_limit_bytes)


async def test_a_program_is_told_with_all_it_wrote() -> None:
    """What comes back names the program, how it ended and what it wrote."""
    result = await shell("echo out; echo err >&2; exit 3")
    assert result.argv == ("/bin/sh", "-c", "echo out; echo err >&2; exit 3")
    assert (result.returncode, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert not result.timed_out
    assert not result.truncated
    assert result.seconds > 0


async def test_a_program_gets_its_folder_and_variables_and_no_input(tmp_path: Path) -> None:
    """The working folder and the variables are the given ones; stdin is at its end."""
    result = await run(
        ["/bin/sh", "-c", "cat; pwd; env"], env={"ONLY": "this ünd\nthat", "LC_ALL": "C"}, cwd=tmp_path
    )
    folder, _, variables = result.stdout.decode().partition("\n")
    assert Path(folder) == tmp_path
    assert "ONLY=this ünd\nthat\n" in variables
    assert "HOME=" not in variables


@pytest.mark.parametrize("number", [signal.SIGTERM, SIGKILL, signal.SIGSEGV])
async def test_a_signal_is_a_negative_return_code(number: signal.Signals) -> None:
    """A program that signal n ended has return code -n."""
    assert (await shell(f"kill -{number} $$")).returncode == -number


async def test_ten_megabytes_on_both_pipes_pass_and_a_megabyte_is_kept() -> None:
    """Output far beyond a pipe's room blocks nobody; what is over the limit is dropped and said to be."""
    code = "import sys; [(sys.stdout.write('o' * 65536), sys.stderr.write('e' * 65536)) for _ in range(160)]"
    result = await run([sys.executable, "-S", "-c", code], env=ENV)
    assert result.returncode == 0
    assert result.stdout == b"o" * (1 << 20)
    assert result.stderr == b"e" * (1 << 20)
    assert result.truncated


async def test_output_of_exactly_the_limit_is_whole() -> None:
    """The limit itself is not over the limit."""
    result = await shell("printf 12345; printf 1234 >&2", output_limit_bytes=5)
    assert (result.stdout, result.stderr, result.truncated) == (b"12345", b"1234", False)


async def test_a_time_limit_ends_the_program_and_keeps_what_it_wrote(marker: str) -> None:
    """A program that takes too long is ended with its family; what was read by then comes back."""
    result = await run(tree(marker, *FAMILY, "ready", "wait"), env=ENV, timeout_seconds=2)
    assert result.timed_out
    assert result.returncode == -signal.SIGTERM
    assert result.stderr == b"ready\n"
    assert marked(marker) == []


async def test_stderr_comes_line_by_line() -> None:
    """Lines come decoded as far as they can be, beyond what is kept, and the last one also unfinished."""
    lines: list[str] = []
    script = r"printf 'one\r\n\377two\n\nthree' >&2"
    result = await run(["/bin/sh", "-c", script], env=ENV, on_stderr_line=lines.append, output_limit_bytes=3)
    assert lines == ["one", "\ufffdtwo", "", "three"]
    assert result.stderr == b"one"


async def test_what_a_line_reader_raises_ends_the_program_and_comes_out_as_it_is(marker: str) -> None:
    """A fault in the caller's own code is the caller's, and still leaves nothing behind."""

    def refuse(line: str) -> None:
        raise LookupError(line)

    with pytest.raises(LookupError, match="ready"):
        await run(tree(marker, *FAMILY, "ready", "wait"), env=ENV, on_stderr_line=refuse)
    assert marked(marker) == []


async def test_cancelling_leaves_nothing(marker: str) -> None:
    """A cancelled run ends the program and its whole family before it returns."""
    async with anyio.create_task_group() as group, running(tree(marker, *FAMILY, "ready", "wait")) as results:
        assert len(marked(marker)) == 2 + len(FAMILY)
        group.cancel_scope.cancel()
    assert marked(marker) == []
    assert results == []


async def test_cancelling_before_anything_was_read_leaves_nothing(marker: str) -> None:
    """A cancellation that comes at once, or while the guard starts, is no gap."""
    for delay in (0, 0.001, 0.01, 0.03, 0.05):
        with anyio.move_on_after(delay):
            await run(tree(marker, "child", "wait"), env=ENV)
        assert marked(marker) == []


async def test_a_callers_deadline_reaches_the_caller(marker: str) -> None:
    """A cancellation is re-raised, so that the caller's own deadline works."""
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.3):
            await run(tree(marker, "wait"), env=ENV)
    assert marked(marker) == []


@pytest.mark.parametrize("left", ["child", "stubborn", "daemon"])
async def test_a_grandchild_that_holds_the_pipe_holds_nobody_up(marker: str, left: str) -> None:
    """The end of the program is the end; what it left behind is ended, and its exit code stands."""
    result = await run(tree(marker, left, "ready", "exit=5"), env=ENV)
    assert (result.returncode, result.stderr) == (5, b"ready\n")
    assert marked(marker) == []


@linux_only
async def test_a_killed_guard_leaves_nothing(marker: str) -> None:
    """Where the guard itself is killed, the station ends what is left in its session."""
    async with running(tree(marker, "deaf", "child", "stubborn", "group", "ready", "wait")) as results:
        find_guard(marker).kill()
    assert results[0].returncode == -SIGKILL
    assert left_in_the_end(marker) == []


async def test_a_stopped_guard_does_not_hold_a_cancellation_up(marker: str) -> None:
    """A guard that does not answer is ended with what it guards."""
    argv = tree(marker, "child", "group", "daemon", "ready", "wait")
    async with anyio.create_task_group() as group, running(argv):
        find_guard(marker).suspend()
        group.cancel_scope.cancel()
    assert left_in_the_end(marker) == []


def find_guard(marker: str) -> psutil.Process:
    """The guard of the one program with the marker."""
    return next(found for found in marked(marker) if any("guard.py" in word for word in found.cmdline()))


@pytest.mark.parametrize("family", [("child", "group", "stubborn"), ("daemon",)])
def test_nothing_outlives_a_killed_station(marker: str, family: tuple[str, ...], anyio_backend: str) -> None:
    """SIGKILL of the station ends every program with its children and its daemons."""
    command = [sys.executable, "-c", STATION, anyio_backend, *tree(marker, *family, "ready", "wait")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as station:
        assert station.stdout is not None
        assert station.stdout.readline() == b"ready\n"
        assert len(marked(marker)) == 3 + len(family)
        station.kill()
    assert left_in_the_end(marker) == []


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program", "./relative"])
async def test_a_missing_program_is_named(name: str) -> None:
    """A program that is not installed is its own kind of failure, and says which."""
    with pytest.raises(ProgramMissing, match=name):
        await run([name], env=ENV)


async def test_a_file_that_is_no_program_is_missing_too(tmp_path: Path) -> None:
    """Not executable, without its interpreter, or nothing the system can run: all are missing programs."""
    for content, mode in ((b"#!/bin/sh\n", 0o644), (b"#!/no/such/interpreter\n", 0o755), (b"\0\0\0", 0o755)):
        program = tmp_path / "program"
        program.write_bytes(content)
        program.chmod(mode)
        lines: list[str] = []
        with pytest.raises(ProgramMissing, match=str(program)):
            await run([str(program)], env=ENV, on_stderr_line=lines.append)
        assert lines == []


async def test_a_line_comes_while_the_program_runs(marker: str) -> None:
    """A line is handed on when it is written, not when the program ends."""
    async with running(tree(marker, "ready", "wait")) as results:
        assert results == []
        find_guard(marker).terminate()
    assert results[0].returncode == -signal.SIGTERM


async def test_a_programs_own_127_is_an_exit_code() -> None:
    """What shells say where a program is missing is the shell's exit code, not the station's verdict."""
    assert (await shell("exit 127")).returncode == 127


async def test_a_missing_folder_is_not_a_missing_program(tmp_path: Path) -> None:
    """The error names the folder."""
    with pytest.raises(FileNotFoundError, match="absent"):
        await shell("true", cwd=tmp_path / "absent")


async def test_many_at_once_leak_no_descriptor() -> None:
    """Every pipe is closed in the end."""
    await shell("true")
    before = descriptors_of(psutil.Process())
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(shell, "echo out")
    assert descriptors_of(psutil.Process()) == before
