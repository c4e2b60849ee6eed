"""A backend's worker as a process: pipes, end and last words.

It needs no guard: it leaves by itself at the end of its stdin, which only the station holds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

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
from moondream_station.core.processes.process_group import kill_session, terminate_group
from moondream_station.core.processes.process_output import Lines, OutputLog

_LEAVE_SECONDS = 0.75
"""How long a worker may take to leave by itself after the end of its stdin."""
_TERM_SECONDS = 0.5
"""How long a worker may take to end after SIGTERM."""


class WorkerProcess:
    """A worker that `open_worker_process` has started."""

    def __init__(self, child: Child, log: OutputLog) -> None:
        self.pid = child.pid
        """Its process id, which is its group's and its session's too."""
        self.stdin = child.stdin
        """Its requests. The end of this stream asks it to leave."""
        self.stdout = child.stdout
        """Its answers."""
        self._child = child
        self._log = log
        self._stderr_ended = anyio.Event()
        self._reading = anyio.CancelScope(shield=True)  # a cancelled worker's last words count too

    @property
    def returncode(self) -> int | None:
        """Its exit code, -n where signal n ended it, None while it runs."""
        return self._child.returncode

    def last_lines(self) -> tuple[str, ...]:
        """The last 200 lines it wrote to stderr, oldest first."""
        return self._log.last_lines

    async def wait(self) -> int:
        """Wait until it has ended, by itself or not, and its last lines are read; return its exit code."""
        returncode = await self._child.wait()
        with anyio.move_on_after(PIPE_SECONDS):
            await self._stderr_ended.wait()
        return returncode

    def terminate(self) -> None:
        """Ask it and its group to end (SIGTERM)."""
        terminate_group(self.pid, reaped=self.returncode is not None)

    def kill(self) -> None:
        """Make it, and everything in its session, end (SIGKILL)."""
        kill_session(self.pid, reaped=self.returncode is not None)

    async def read_stderr(self) -> None:
        """Take stderr to the log until it ends; a cancellation does not keep it from that."""
        lines = Lines()

        def log(chunk: bytes) -> None:
            for line in lines.feed(chunk):
                self._log.write(line)

        with self._reading:
            await read_to_end(self._child.stderr, log)
        for line in lines.finish():
            self._log.write(line)
        self._stderr_ended.set()

    async def end(self) -> None:
        """Ask it to leave, ask it to end, make it end, and then whatever it left behind."""
        self._reading.deadline = anyio.current_time() + END_SECONDS
        await self.stdin.aclose()
        with anyio.move_on_after(_LEAVE_SECONDS):
            await self._child.wait()
        if self.returncode is None:
            self.terminate()
            with anyio.move_on_after(_TERM_SECONDS):
                await self._child.wait()
        # In a thread, because it looks at all processes of the computer.
        kill = partial(kill_session, self.pid, reaped=self.returncode is not None)
        await anyio.to_thread.run_sync(kill, abandon_on_cancel=True)
        await self.wait()


@asynccontextmanager
async def open_worker_process(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log_path: Path
) -> AsyncIterator[WorkerProcess]:
    """Start a backend's worker in a session of its own; at the end of the context nothing of it is left.

    Then its stdin ends; 0.75 seconds later its group gets SIGTERM; half a second later its session gets
    SIGKILL, also where the worker has left by itself: its own children may be there still. A crash raises
    nothing here: `wait` returns, and the streams end.
    Its stderr goes to `log_path`, line by line: up to 4 MiB, and the 4 MiB before that in its name with ".1"
    behind.

    Raises:
        ProgramMissing: The program is not there or can't be started.
        OSError: `cwd` is not a folder, or the system is out of processes or descriptors.
    """
    child = await _open(locate(argv, env), env, cwd)
    try:
        log = OutputLog(log_path)
        worker = WorkerProcess(child, log)
        try:
            with as_raised():
                async with anyio.create_task_group() as readers:
                    readers.start_soon(worker.read_stderr)
                    try:
                        yield worker
                    finally:
                        with anyio.move_on_after(END_SECONDS, shield=True):
                            await worker.end()
        finally:
            log.close()
    finally:
        with anyio.move_on_after(PIPE_SECONDS, shield=True):
            await child.aclose()


async def _open(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> Child:
    try:
        return await open_child(command, env, cwd)
    except OSError as error:
        if error.filename == command[0]:
            raise missing(command[0], error.strerror or str(error)) from error
        raise
