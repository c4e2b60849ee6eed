"""A backend's worker as a process: pipes, end and last words."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import anyio

from moondream_station.core.home.storage import open_file
from moondream_station.core.home.task_groups import as_raised
from moondream_station.core.processes.child_process import (
    END_SECONDS,
    PIPE_SECONDS,
    Child,
    Lines,
    open_child,
    read_to_end,
)

_LEAVE_SECONDS = 0.75
"""How long a worker may take to leave by itself after the end of its stdin."""
_LAST_LINES = 200


class OutputLog:
    """Lines that go to a file of bounded size; the last ones are kept in memory too.

    At its bound the file moves aside, to its name with ".1" behind, and a new one begins. A file that can't
    be written ends the writing, with a line that says why, and nothing else: the child must be able to go on.
    """

    def __init__(self, path: Path, limit_bytes: int = 4 * 1024 * 1024) -> None:
        self._path = path
        self._limit = limit_bytes
        self._file: BinaryIO | None = None
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_file(path, "ab", buffering=0)
        except OSError as error:
            self._give_up(error)

    def last_lines(self) -> tuple[str, ...]:
        """The last 200 lines, oldest first."""
        return tuple(self._last)

    def write(self, line: str) -> None:
        """Take one line, without its end."""
        self._last.append(line)
        if self._file is None:
            return
        record = line.encode(errors="replace") + b"\n"
        try:
            if self._file.tell() + len(record) > self._limit:
                self._file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = open_file(self._path, "ab", buffering=0)
            self._file.write(record)
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file; what is written later is kept in memory alone."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _give_up(self, error: OSError) -> None:
        self._last.append(f"[{self._path} can't be written: {error.strerror}]")
        self.close()


class WorkerProcess:
    """A worker that `open_worker_process` has started."""

    def __init__(self, child: Child, log: OutputLog) -> None:
        assert child.guard.stdin is not None  # noqa: S101  `open_worker_process` made it
        self.pid = child.pid
        """Its process id; on Windows its guard's, until it has told its own."""
        self.stdin = child.guard.stdin
        """Its requests. The end of this stream asks it to leave."""
        self.stdout = child.stdout
        """Its answers."""
        self.last_lines = log.last_lines
        """The last 200 lines it wrote to stderr, oldest first."""
        self.kill = child.hang_up
        """Make it and all that it started end, within half a second where it does not listen."""
        self._child = child
        self._log = log
        self._stderr_ended = anyio.Event()
        self._reading = anyio.CancelScope(shield=True)  # a cancelled worker's last words count too

    @property
    def returncode(self) -> int | None:
        """Its exit code, -n where signal n ended it, None while it runs."""
        return self._child.returncode

    async def wait(self) -> int:
        """Wait until it has ended, by itself or not, and its last lines are read; return its exit code."""
        returncode = await self._child.wait()
        with anyio.move_on_after(PIPE_SECONDS):
            await self._stderr_ended.wait()
        return returncode

    async def read_stderr(self) -> None:
        """Take stderr to the log until it ends; a cancellation does not keep it from that."""
        lines = Lines(self._log.write)
        with self._reading:
            await read_to_end(self._child.stderr, lines.feed)
        lines.finish()
        self._stderr_ended.set()

    async def end(self) -> None:
        """Ask it to leave, and then end it and whatever it left behind."""
        self._reading.deadline = anyio.current_time() + END_SECONDS
        await self.stdin.aclose()
        with anyio.move_on_after(_LEAVE_SECONDS):
            await self._child.wait()
        await self._child.end()
        await self.wait()


@asynccontextmanager
async def open_worker_process(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log_path: Path
) -> AsyncIterator[WorkerProcess]:
    """Start a backend's worker as `open_child` does; at the end of the context nothing of it is left.

    Then its stdin ends; 0.75 seconds later its guard ends it and all that it started. A crash raises nothing
    here: `wait` returns, and the streams end. Its stderr goes to `log_path`, line by line: up to 4 MiB, and
    the 4 MiB before that in its name with ".1" behind.
    """
    async with open_child(argv, env=env, cwd=cwd, stdin=subprocess.PIPE) as child:
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
