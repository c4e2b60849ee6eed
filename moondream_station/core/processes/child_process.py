"""What a guarded program and a worker have in common as children of the station."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.lowlevel
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

from moondream_station.core.facts.errors import ProgramMissing
from moondream_station.core.processes.programs import resolve_program

END_SECONDS = 1.5
"""How long ending a child may take in all: a cancelled activation ends within two seconds."""
PIPE_SECONDS = 0.25
"""How long output is read on after a child has ended, where something out of reach still holds the pipe."""

if sys.platform == "win32":  # a child without the station's console does not get its Ctrl-C either
    _CREATION_FLAGS = subprocess.CREATE_NO_WINDOW
else:
    _CREATION_FLAGS = 0


@dataclass(frozen=True, slots=True)
class Child:
    """A child process with its three pipes; its id is that of its session too."""

    process: Process
    stdin: ByteSendStream
    stdout: ByteReceiveStream
    stderr: ByteReceiveStream

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, -n where signal n ended it, None while it runs."""
        return self.process.returncode

    async def wait(self) -> int:
        """Wait until it has ended and return its exit code."""
        return await self.process.wait()

    async def aclose(self) -> None:
        """Close the pipes of a child that has ended; one that SIGKILL did not end is left to the kernel."""
        if self.returncode is not None:
            await self.process.aclose()
        else:
            await anyio.lowlevel.checkpoint()


async def open_child(command: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> Child:
    """Start a program in a session of its own, with a pipe for each of its streams.

    Raises:
        OSError: The program or `cwd` can't be used; `filename` names which.
    """
    with anyio.CancelScope(shield=True):  # a start that is cancelled half-way would leave what nobody ends
        process = await anyio.open_process(
            list(command), env=dict(env), cwd=cwd, start_new_session=True, creationflags=_CREATION_FLAGS
        )
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise AssertionError("anyio opens all three pipes by default")
    return Child(process, process.stdin, process.stdout, process.stderr)


async def read_to_end(stream: ByteReceiveStream, feed: Callable[[bytes], None]) -> None:
    """Hand on what is read until the stream ends."""
    async for chunk in stream:
        feed(chunk)


def locate(argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """The argument list with the program's absolute path.

    Raises:
        ProgramMissing: It is not there.
    """
    program = resolve_program(argv[0], env)
    if program is None:
        raise missing(argv[0], "it is not installed, or not executable")
    return [str(program), *argv[1:]]


def missing(name: str, why: str) -> ProgramMissing:
    """The error for a program that can't be started."""
    return ProgramMissing(
        f"{name} can't be started: {why}", hint=f"Install {name}, or put its folder on PATH."
    )


@contextmanager
def as_raised() -> Iterator[None]:
    """Let the one thing that went wrong in a task group reach the caller as it was raised."""
    single: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        single = group.exceptions[0]
    if single is not None:
        raise single
