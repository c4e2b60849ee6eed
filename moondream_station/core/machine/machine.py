"""How a computer is asked: to run a program, read a file, list a folder; and this one."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

import anyio.lowlevel
import anyio.to_thread

from moondream_station.core.facts.errors import ProgramMissing
from moondream_station.core.processes.child_process import child_environment, resolve_program, run

T = TypeVar("T")

RECORDED_VARIABLES: Final = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "ZE_AFFINITY_MASK",
)
"""The environment variables that decide which GPUs a program sees, or as what: by KFD node, too."""
_OF_ONE_NODE: Final = re.compile(r"HSA_OVERRIDE_GFX_VERSION_[0-9]{1,4}", re.ASCII)

OUTPUT_LIMIT_BYTES: Final = 1 << 20
"""Longer answers are cut off here."""

_USUAL_PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    # WSL mounts the Windows driver's tools here; a service's PATH often lacks it (uv#14647 among others).
    "nvidia-smi": ("/usr/lib/wsl/lib", r"C:\Windows\System32", r"C:\Program Files\NVIDIA Corporation\NVSMI"),
    "rocm_agent_enumerator": ("/opt/rocm/bin",),
    "sysctl": ("/usr/sbin", "/sbin"),
    "sw_vers": ("/usr/bin",),
    "powershell": (r"C:\Windows\System32\WindowsPowerShell\v1.0",),
}
"""Where a program usually is, for when it is not on PATH."""

_32_BITS: Final = 1 << 32
_NARROW: Final[Mapping[str, str]] = {"x86_64": "i686", "aarch64": "armv7l", "ARM64": "arm"}
"""What a Python of 32 bits is for, where `platform.machine()` names the CPU: no wheel for that one fits."""

_CANNOT_START: Final = 126
"""The shell's exit status for a program that exists and can't be started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformFacts:
    """What Python's `platform` knows of the machine, and the Python that environments are made from."""

    system: str
    machine: str
    python: str
    release: str = ""
    version: str = ""
    mac_ver: str = ""
    libc: tuple[str, str] = ("", "")
    in_rosetta: bool | None = None  # off macOS, or where unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What a program answered: `argv` as asked, with its name and never its path.

    Output is cut at `OUTPUT_LIMIT_BYTES`, undecodable bytes replaced. A signal's exit status is negative.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    timed_out: bool = False


class Unreadable(Exception):
    """A path exists and can't be read; `reason` says why, in words ("permission denied")."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Machine(Protocol):
    """A computer that can be asked."""

    @property
    def facts(self) -> PlatformFacts:
        """What Python knows of it."""

    @property
    def variables(self) -> Mapping[str, str]:
        """Those of `RECORDED_VARIABLES` that are set."""

    @property
    def is_local(self) -> bool:
        """Whether it is this computer, so that its answers may be kept for later."""

    async def run(self, *argv: str) -> CommandResult | None:
        """Run a program, given by its name, to its end; None where it is not installed."""

    async def read(self, path: str) -> str | None:
        """Read a text file; None where it does not exist, Unreadable where it can't be read."""

    async def list(self, path: str) -> tuple[str, ...] | None:
        """List a folder, sorted; None where it does not exist, Unreadable where it can't be listed."""


class LocalMachine:
    """This computer; environments are made from the running Python, or from the version given."""

    is_local: Final = True

    def __init__(self, environ: Mapping[str, str], *, python: str | None = None) -> None:
        self._environ = environ
        # The version of a free-threaded Python leaves its "t" out.
        t = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
        self.facts = _platform_facts(python or f"{platform.python_version()}{t}")
        names = (*RECORDED_VARIABLES, *sorted(filter(_OF_ONE_NODE.fullmatch, environ)))
        self.variables = {name: environ[name] for name in names if name in environ}

    def resolve(self, program: str) -> Path | None:
        """Where a program is: on PATH, else in its usual places, never in the current folder."""
        places = (self._environ.get("PATH", ""), *_USUAL_PLACES.get(program, ()))
        # Another system's places are no absolute paths here, so that they are skipped.
        path = os.pathsep.join(place for place in places if place)
        return resolve_program(program, {**self._environ, "PATH": path})

    async def run(self, *argv: str) -> CommandResult | None:
        """Run a program to its end; its group is ended when this call is cancelled."""
        await anyio.lowlevel.checkpoint()
        program = self.resolve(argv[0])
        if program is None:
            return None
        try:
            done = await run(
                [str(program), *argv[1:]],
                env=child_environment(self._environ, LC_ALL="C"),
                output_limit_bytes=OUTPUT_LIMIT_BYTES,
            )
        except ProgramMissing as error:
            return CommandResult(argv=argv, returncode=_CANNOT_START, stderr=error.message)
        return CommandResult(
            argv=argv,
            returncode=done.returncode,
            stdout=done.stdout.decode("utf-8", "replace"),
            stderr=done.stderr.decode("utf-8", "replace"),
            seconds=done.seconds,
            timed_out=done.timed_out,
        )

    async def read(self, path: str) -> str | None:
        """Read a text file, at most `OUTPUT_LIMIT_BYTES` of it."""
        return await _look(path, _read_text)

    async def list(self, path: str) -> tuple[str, ...] | None:
        """List a folder, sorted."""
        return await _look(path, _list_names)


async def _look(path: str, how: Callable[[str], T]) -> T | None:
    try:
        # A broken driver can hold a read of its files in /proc or /sys for ever; the probe's deadline must
        # get past it, so the thread is left behind then.
        return await anyio.to_thread.run_sync(how, path, abandon_on_cancel=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unreadable(path, (error.strerror or type(error).__name__).lower()) from error


def _read_text(path: str) -> str:
    with Path(path).open("rb") as file:
        return file.read(OUTPUT_LIMIT_BYTES).decode("utf-8", "replace")


def _list_names(path: str) -> tuple[str, ...]:
    with os.scandir(path) as entries:
        return tuple(sorted(entry.name for entry in entries))


def _platform_facts(python: str) -> PlatformFacts:
    return PlatformFacts(
        system=platform.system(),
        release=platform.release(),
        version=platform.version(),
        machine=platform.machine() if sys.maxsize > _32_BITS else _NARROW.get(platform.machine(), "x86"),
        mac_ver=platform.mac_ver()[0],
        libc=platform.libc_ver(),
        python=python,
        in_rosetta=_is_translated(),
    )


def _is_translated() -> bool | None:
    """Whether Rosetta translates this process, as Apple's documentation says to ask."""
    if platform.system() != "Darwin":
        return None
    value = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    libc = ctypes.CDLL(None)
    failed = libc.sysctlbyname(b"sysctl.proc_translated", ctypes.byref(value), ctypes.byref(size), None, 0)
    return False if failed else value.value == 1  # unknown on an Intel Mac
