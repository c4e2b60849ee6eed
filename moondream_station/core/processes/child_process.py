"""What a guarded program and a worker have in common as children of the station."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.lowlevel
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

from moondream_station.core.facts.errors import ProgramMissing

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
    """The argument list with the program's absolute path."""
    program = resolve_program(argv[0], env)
    if program is None:
        raise missing(argv[0], "it is not installed or not executable")
    return [str(program), *argv[1:]]


def missing(name: str, why: str) -> ProgramMissing:
    """The error for a program that can't be started."""
    return ProgramMissing(
        f"{name} can't be started: {why}", hint=f"Install {name}, or put its folder on PATH."
    )


def resolve_program(name: str, environ: Mapping[str, str]) -> Path | None:
    """Find a program, given by a bare name or an absolute path, but never in the current folder.

    Relative and empty entries of PATH are passed over: what they name depends on where the station happens to
    stand. Links are kept, because a virtual environment's Python is one. On Windows only .exe and .com are
    found: the arguments of a batch file can't be quoted safely.
    """
    path = Path(name)
    if path.is_absolute():
        return path if _is_executable(path) else None
    if not name or path.name != name:
        return None
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        if os.path.isabs(folder):  # noqa: PTH117  an empty entry is Path("."), and this says so plainly
            for candidate in _spellings(Path(folder) / name):
                if _is_executable(candidate):
                    return candidate
    return None


def _spellings(path: Path) -> list[Path]:
    if sys.platform == "win32" and path.suffix.lower() not in {".exe", ".com"}:
        return [path.with_name(path.name + suffix) for suffix in (".com", ".exe")]
    return [path]


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
