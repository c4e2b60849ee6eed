"""This computer."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import sysconfig
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import anyio.lowlevel
import anyio.to_thread

from moondream_station.core.facts.errors import ProgramMissing
from moondream_station.core.machine.protocol import (
    OUTPUT_LIMIT_BYTES,
    RECORDED_VARIABLES,
    CommandResult,
    PlatformFacts,
    Unreadable,
)
from moondream_station.core.processes.child_environment import child_environment
from moondream_station.core.processes.child_process import resolve_program, run

T = TypeVar("T")

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


class LocalMachine:
    """This computer; environments are made from the running Python, or from the version given."""

    is_local: Final = True

    def __init__(self, environ: Mapping[str, str], *, python: str | None = None) -> None:
        self._environ = environ
        self.facts = _platform_facts(python or _own_python())
        self.variables = {name: environ[name] for name in RECORDED_VARIABLES if name in environ}

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
        return await _in_thread(partial(_look, path, _read_text))

    async def list(self, path: str) -> tuple[str, ...] | None:
        """List a folder, sorted."""
        return await _in_thread(partial(_look, path, _list_names))


async def _in_thread(look: Callable[[], T]) -> T:
    # A broken driver can hold a read of its files in /proc or /sys for ever; the probe's deadline must
    # get past it, so the thread is left behind then.
    return await anyio.to_thread.run_sync(look, abandon_on_cancel=True)


def _look(path: str, how: Callable[[str], T]) -> T | None:
    try:
        return how(path)
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


def _own_python() -> str:
    """The version of the running Python, with the "t" of a free-threaded one, which it leaves out."""
    return platform.python_version() + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else "")


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
