"""Run programs that answer and end; `open_worker_process`, for those that stay, is beside it.

Nothing else in the station starts a child process. A program runs behind guard.py, which ends it and
all that it started when the station goes, however that dies. Whichever way the caller leaves (return,
exception, cancellation), nothing of the program is left when it does.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import anyio
import anyio.to_thread

from moondream_station.core.home.task_groups import as_raised
from moondream_station.core.processes.child_process import (
    END_SECONDS,
    PIPE_SECONDS,
    Child,
    locate,
    missing,
    open_child,
    read_to_end,
)
from moondream_station.core.processes.process_group import kill_session
from moondream_station.core.processes.process_output import CappedOutput, Lines

_GUARD = Path(__file__).with_name("guard_windows.py" if sys.platform == "win32" else "guard.py")
_GUARD_SECONDS = 1.2
"""How long a guard may take to end its program; by itself it takes one second at most."""
_KILLED = -9


@dataclass(frozen=True, slots=True)
class CompletedProcess:
    """A program that has ended, with the beginning of its output and errors, up to the limit."""

    argv: tuple[str, ...]
    returncode: int
    """-n where signal n ended it."""
    stdout: bytes
    stderr: bytes
    seconds: float
    """With its start."""
    timed_out: bool
    """Whether it was ended because its time was over; the output is what it had written by then."""
    truncated: bool
    """Whether stdout or stderr went over the limit."""


class _GuardedErrors:
    """stderr of a guarded program: kept, handed on line by line, and searched for the guard's own one."""

    def __init__(self, token: str, limit_bytes: int, on_line: Callable[[str], None] | None) -> None:
        self.kept = CappedOutput(limit_bytes)
        self.failed_start: str | None = None
        self._token = token
        self._lines = Lines()
        self._on_line = on_line

    def feed(self, chunk: bytes) -> None:
        self.kept.feed(chunk)
        self._hand_on(self._lines.feed(chunk))

    def finish(self) -> None:
        self._hand_on(self._lines.finish())

    def _hand_on(self, lines: Iterator[str]) -> None:
        for line in lines:
            if line.startswith(self._token):
                self.failed_start = line.removeprefix(self._token).strip()
            elif self._on_line is not None:
                self._on_line(line)


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    timeout_seconds: float | None = None,
    output_limit_bytes: int = 1 << 20,
    on_stderr_line: Callable[[str], None] | None = None,
) -> CompletedProcess:
    """Run a program to its end, with /dev/null as its stdin, and leave nothing of it behind.

    Whatever it started is ended with it, also when it ends well. Being cancelled takes 1.5 seconds at most.

    Args:
        argv: The program, as an absolute path or a name to look up in env's PATH, and its arguments.
        env: All of its variables; usually made by `child_environment`. Where these set no locale, Python's
            locale coercion (PEP 538) in the guard adds LC_CTYPE.
        cwd: Its working folder, the station's own by default.
        timeout_seconds: How long it may take, None for as long as it likes.
        output_limit_bytes: How much of stdout, and of stderr, is kept. The rest is read and dropped.
        on_stderr_line: Called with every line of stderr (also beyond the limit) as it comes, without its end;
            undecodable bytes replaced, 8 KiB a line at most. What it raises ends the program and is raised.

    Raises:
        ProgramMissing: The program is not installed or can't be started.
        OSError: `cwd` is not a folder, or the system is out of processes or descriptors.
    """
    program = locate(argv, env)
    token = os.urandom(16).hex()
    stdout = CappedOutput(output_limit_bytes)
    stderr = _GuardedErrors(token, output_limit_bytes, on_stderr_line)
    command = [sys.executable, "-S", "-E", "-P", str(_GUARD), token, *program]
    started = perf_counter()
    async with _guarded(command, env, cwd) as guard:
        with as_raised():
            async with anyio.create_task_group() as readers:
                readers.start_soon(read_to_end, guard.stdout, stdout.feed)
                readers.start_soon(read_to_end, guard.stderr, stderr.feed)
                timed_out = await _finish(guard, timeout_seconds)
                readers.cancel_scope.deadline = anyio.current_time() + PIPE_SECONDS
        stderr.finish()
    if stderr.failed_start is not None:
        raise missing(argv[0], stderr.failed_start)
    return CompletedProcess(
        argv=tuple(argv),
        returncode=_KILLED if guard.returncode is None else guard.returncode,
        stdout=stdout.content,
        stderr=stderr.kept.content,
        seconds=perf_counter() - started,
        timed_out=timed_out,
        truncated=stdout.truncated or stderr.kept.truncated,
    )


@asynccontextmanager
async def _guarded(command: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> AsyncIterator[Child]:
    guard = await open_child(command, env, cwd)
    try:
        yield guard
    finally:
        with anyio.move_on_after(END_SECONDS, shield=True):
            await _end_guard(guard)
            await guard.aclose()


async def _finish(guard: Child, timeout_seconds: float | None) -> bool:
    """Wait for the program; end it when its time is over, and say whether it was."""
    with anyio.move_on_after(math.inf if timeout_seconds is None else timeout_seconds) as scope:
        await guard.wait()
    with anyio.move_on_after(END_SECONDS, shield=True):
        await _end_guard(guard)
    return scope.cancelled_caught


async def _end_guard(guard: Child) -> None:
    """Let the guard end its program; where it can't, or was killed itself, end what is left of both."""
    await guard.stdin.aclose()
    with anyio.move_on_after(_GUARD_SECONDS):
        await guard.wait()
    if guard.returncode is None or guard.returncode < 0:
        # In a thread, because it looks at all processes of the computer.
        kill = partial(kill_session, guard.pid, reaped=guard.returncode is not None)
        await anyio.to_thread.run_sync(kill, abandon_on_cancel=True)
    await guard.wait()
