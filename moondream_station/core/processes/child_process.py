"""Children of the station, each behind a guard, which ends it and all that it started when the station goes.

`run` is for programs that answer and end; `open_worker_process`, for those that stay, is beside it. Nothing
else in the station starts a process. Whichever way a caller leaves, nothing of the program is left then.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import anyio
import anyio.to_thread
import psutil
from anyio.abc import ByteReceiveStream, Process

from moondream_station.core.facts.errors import ProgramMissing
from moondream_station.core.home.task_groups import as_raised

END_SECONDS = 1.5
"""How long ending a child may take in all: a cancelled activation ends within two seconds."""
PIPE_SECONDS = 0.25
"""How long output is read on after a child has ended, where something out of reach still holds the pipe."""
_GUARD_SECONDS = 1.2
"""How long a guard may take to end its program; by itself it takes one second at most."""
_LINE_LIMIT_BYTES = 8 * 1024
_KILLED = -9
_GUARD = Path(__file__).with_name("guard_windows.py" if sys.platform == "win32" else "guard.py")
# On Windows, where a child without the station's console does not get its Ctrl-C either.
_CREATION_FLAGS = getattr(subprocess, "CREATE_NO_WINDOW", 0)

_NAMES = frozenset(
    {
        # who and where
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TMP", "TEMP", "TZ", "LD_LIBRARY_PATH"),
        # locale
        *("LANG", "LANGUAGE"),
        # proxies; programs read either spelling
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        # certificates
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        # where model weights are kept, beside HF_*; the older name of HF_TOKEN
        *("XDG_CACHE_HOME", "TORCH_HOME", "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE"),
        *("HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"),
        # which device, beside *_VISIBLE_DEVICES, and how much of it
        *("CUDA_DEVICE_ORDER", "ZE_AFFINITY_MASK"),
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS"),
        # what a model that compiles itself is compiled with, beside TRITON_* and TORCHINDUCTOR_*
        *("CC", "CXX", "CUDA_HOME"),
    }
)
# AMD's override is for every GPU, or for one: HSA_OVERRIDE_GFX_VERSION_1.
_PREFIXES = ("LC_", "HF_", "PYTORCH_", "TORCHINDUCTOR_", "TRITON_", "HSA_OVERRIDE_GFX_VERSION")
_SUFFIX = "_VISIBLE_DEVICES"

_WINDOWS_NAMES = frozenset(
    {
        # without these programs don't start, or don't find their folders
        *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "OS"),
        *("USERPROFILE", "HOMEDRIVE", "HOMEPATH", "USERNAME", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA"),
        *("ALLUSERSPROFILE", "PROGRAMFILES", "PROGRAMFILES(X86)", "PROGRAMW6432", "COMMONPROGRAMFILES"),
        *("NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE", "PROCESSOR_ARCHITEW6432", "PROCESSOR_IDENTIFIER"),
    }
)


def child_environment(environ: Mapping[str, str], **extra: str) -> dict[str, str]:
    """Which of the station's own variables a child process gets to see.

    An allow-list: a secret of another program, or a variable that turns a Python into another one
    (PYTHONPATH, PYTHONHOME, PYTHONDONTWRITEBYTECODE, VIRTUAL_ENV), does not travel by accident.
    """
    passed_on = {
        name: value
        for name, value in environ.items()
        if name in _NAMES
        or name.startswith(_PREFIXES)
        or name.endswith(_SUFFIX)
        # Windows does not tell upper case from lower.
        or name.upper() in _WINDOWS_NAMES
    }
    return passed_on | extra


class Child:
    """A program behind its guard."""

    def __init__(self, guard: Process, lifeline: socket.socket) -> None:
        assert guard.stdout is not None  # noqa: S101  `open_child` made it
        assert guard.stderr is not None  # noqa: S101  likewise
        self.guard, self.stdout, self.stderr = guard, guard.stdout, guard.stderr
        self.pid = guard.pid
        """The program's process id; on Windows its guard's."""
        self.wait = guard.wait
        """Waits until it and all that it started have ended; gives its exit code."""
        self._lifeline = lifeline

    @property
    def returncode(self) -> int | None:
        """Its exit code, -n where signal n ended it, None while anything of it may be there."""
        return self.guard.returncode

    def hang_up(self) -> None:
        """Let the guard end it: SIGTERM, half a second later SIGKILL, to it and all that it started."""
        self._lifeline.close()
        if sys.platform == "win32" and self.returncode is None:
            self.guard.kill()  # its job ends with it

    async def end(self) -> None:
        """End it and all that it started; where its guard can't, or was killed itself, without that."""
        self.hang_up()
        with anyio.move_on_after(_GUARD_SECONDS):
            await self.wait()
        if self.returncode is None or self.returncode < 0:
            # In a thread, because it looks at all processes of the computer.
            kill = partial(_kill_family, self.guard.pid, reaped=self.returncode is not None)
            await anyio.to_thread.run_sync(kill, abandon_on_cancel=True)
        await self.wait()


@asynccontextmanager
async def open_child(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None, stdin: int = subprocess.DEVNULL
) -> AsyncIterator[Child]:
    """Start a program behind a guard, in a session of its own; after the context nothing of it is left.

    Raises:
        ProgramMissing: The program is not installed or can't be started.
        OSError: `cwd` is not a folder, or the system is out of processes or descriptors.
    """
    path = resolve_program(argv[0], env)
    if path is None:
        raise _missing(argv[0], "it is not installed or not executable")
    is_windows = sys.platform == "win32"  # where a guard watches its parent process
    ours, theirs = socket.socketpair()
    guarded = [sys.executable, "-S", "-E", "-P", str(_GUARD), *([] if is_windows else [str(theirs.fileno())])]
    with ours:
        # Shielded: a start cancelled half-way would leave what nobody ends.
        with theirs, anyio.CancelScope(shield=True):
            guard = await anyio.open_process(
                [*guarded, str(path), *argv[1:]],
                stdin=stdin,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                creationflags=_CREATION_FLAGS,
                pass_fds=() if is_windows else (theirs.fileno(),),
            )
            child = Child(guard, ours)
        try:
            if sys.platform != "win32":
                await anyio.wait_readable(ours)  # the guard tells the program's process id once it runs
                told = ours.recv(1024).decode().strip()
                if not told.isdigit():
                    raise _missing(argv[0], told or "its guard was killed")
                child.pid = int(told)
            yield child
        finally:
            with anyio.move_on_after(END_SECONDS, shield=True):
                await child.end()
                await child.guard.aclose()


def keep_beginning(kept: bytearray, limit_bytes: int, chunk: bytes) -> None:
    """Keep the beginning of a stream; one byte beyond the limit shows that there was more."""
    kept += chunk[: max(limit_bytes + 1 - len(kept), 0)]


class Lines:
    """A stream cut into lines of text without their ends; bytes that are not UTF-8 become U+FFFD.

    The rest of a line that is longer than the limit is dropped.
    """

    def __init__(self, on_line: Callable[[str], object], limit_bytes: int = _LINE_LIMIT_BYTES) -> None:
        self._on_line = on_line
        self._limit = limit_bytes
        self._line = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take what was read next."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._add(end)
            self._hand_on()
        self._add(rest)

    def finish(self) -> None:
        """Take the last line where the stream did not end it."""
        if self._line:
            self._hand_on()

    def _add(self, piece: bytes) -> None:
        self._line += piece[: max(self._limit - len(self._line), 0)]

    def _hand_on(self) -> None:
        line = self._line.decode(errors="replace").removesuffix("\r")
        self._line.clear()
        self._on_line(line)


async def read_to_end(stream: ByteReceiveStream, *feeds: Callable[[bytes], None]) -> None:
    """Hand on what is read until the stream ends."""
    async for chunk in stream:
        for feed in feeds:
            feed(chunk)


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
    are the most. What it raises ends the program and is raised; else raises what `open_child` does.
    """
    started = perf_counter()
    stdout, stderr = bytearray(), bytearray()
    keep_stdout, keep_stderr = (
        partial(keep_beginning, kept, output_limit_bytes) for kept in (stdout, stderr)
    )
    lines = Lines(on_stderr_line)
    async with open_child(argv, env=env, cwd=cwd) as child:
        with as_raised():
            async with anyio.create_task_group() as readers:
                readers.start_soon(read_to_end, child.stdout, keep_stdout)
                readers.start_soon(read_to_end, child.stderr, keep_stderr, lines.feed)
                with anyio.move_on_after(math.inf if timeout_seconds is None else timeout_seconds) as scope:
                    await child.wait()
                with anyio.move_on_after(END_SECONDS, shield=True):
                    await child.end()
                readers.cancel_scope.deadline = anyio.current_time() + PIPE_SECONDS
        lines.finish()
    return CompletedProcess(
        argv=tuple(argv),
        returncode=_KILLED if child.returncode is None else child.returncode,
        stdout=bytes(stdout[:output_limit_bytes]),
        stderr=bytes(stderr[:output_limit_bytes]),
        seconds=perf_counter() - started,
        timed_out=scope.cancelled_caught,
        truncated=max(len(stdout), len(stderr)) > output_limit_bytes,
    )


def _kill_family(guard: int, *, reaped: bool) -> None:
    """Send SIGKILL to what came from a guard: its descendants, while it lives, and its session."""
    if reaped and psutil.pid_exists(guard):  # the kernel gives no id away that still names a session
        return
    seen = {guard}
    while family := _family(guard) - seen:  # what was forked meanwhile is found the next time
        seen |= family
        for pid in family:
            _kill(pid)
    if not reaped:
        _kill(guard)


def _family(guard: int) -> set[int]:
    family: set[int] = set()
    with suppress(psutil.NoSuchProcess):
        family = {process.pid for process in psutil.Process(guard).children(recursive=True)}
    if sys.platform != "win32":
        for pid in psutil.pids():
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) == guard:
                    family.add(pid)
    return family


def _kill(pid: int) -> None:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        psutil.Process(pid).kill()


def _missing(name: str, why: str) -> ProgramMissing:
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
    is_short = sys.platform == "win32" and path.suffix.lower() not in {".exe", ".com"}
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        if os.path.isabs(folder):  # noqa: PTH117  an empty entry is Path("."), and this says so plainly
            for suffix in (".com", ".exe") if is_short else ("",):
                candidate = Path(folder) / f"{name}{suffix}"
                if _is_executable(candidate):
                    return candidate
    return None


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
