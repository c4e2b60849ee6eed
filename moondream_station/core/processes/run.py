"""Run programs that answer and end; `open_worker_process`, for those that stay, is beside it.

Whichever way the caller leaves (return, exception, cancellation), nothing of the program is left then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import anyio

from moondream_station.core.home.task_groups import as_raised
from moondream_station.core.processes.child_process import (
    END_SECONDS,
    PIPE_SECONDS,
    open_child,
    read_to_end,
)
from moondream_station.core.processes.process_output import CappedOutput, Lines

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


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    timeout_seconds: float | None = None,
    output_limit_bytes: int = 1 << 20,
    on_stderr_line: Callable[[str], object] = lambda _: None,
) -> CompletedProcess:
    """Run a program to its end, with /dev/null as its stdin, and leave nothing of it behind.

    Whatever it started is ended with it, also when it ends well. Being cancelled takes 1.5 seconds at most.

    Where `env` sets no locale, Python's locale coercion (PEP 538) in the guard adds LC_CTYPE. Of stdout, and
    of stderr, `output_limit_bytes` are kept; the rest is read and dropped. `on_stderr_line` gets every line,
    also beyond the limit, as it comes and without its end; undecodable bytes are replaced, and 8 KiB a line
    are the most. What it raises ends the program and is raised.

    Raises:
        ProgramMissing: The program is not installed or can't be started.
        OSError: `cwd` is not a folder, or the system is out of processes or descriptors.
    """
    stdout, stderr, lines = CappedOutput(output_limit_bytes), CappedOutput(output_limit_bytes), Lines()

    def feed_errors(chunk: bytes) -> None:
        stderr.feed(chunk)
        for line in lines.feed(chunk):
            on_stderr_line(line)

    started = perf_counter()
    async with open_child(argv, env=env, cwd=cwd) as child:
        with as_raised():
            async with anyio.create_task_group() as readers:
                readers.start_soon(read_to_end, child.stdout, stdout.feed)
                readers.start_soon(read_to_end, child.stderr, feed_errors)
                with anyio.move_on_after(math.inf if timeout_seconds is None else timeout_seconds) as scope:
                    await child.wait()
                with anyio.move_on_after(END_SECONDS, shield=True):
                    await child.end()
                readers.cancel_scope.deadline = anyio.current_time() + PIPE_SECONDS
        for line in lines.finish():
            on_stderr_line(line)
    return CompletedProcess(
        argv=tuple(argv),
        returncode=_KILLED if child.returncode is None else child.returncode,
        stdout=stdout.content,
        stderr=stderr.content,
        seconds=perf_counter() - started,
        timed_out=scope.cancelled_caught,
        truncated=stdout.truncated or stderr.truncated,
    )
