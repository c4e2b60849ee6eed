"""What only POSIX has, or Linux: a test that comes to it elsewhere is skipped, but collected there, too."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import psutil
import pytest

SIGKILL: Final[signal.Signals] = getattr(signal, "SIGKILL", signal.SIGTERM)
"""Ends a process at once; on Windows every signal does."""


def signals(*names: str) -> list[signal.Signals]:
    """Those of the signals that this system has."""
    return [signal.Signals[name] for name in names if name in signal.Signals.__members__]


def is_root() -> bool:
    """Whether this user is root, whom permissions hold back from nothing."""
    return sys.platform != "win32" and os.geteuid() == 0


def make_fifo(path: Path) -> None:
    """Make a FIFO, which nobody writes to yet."""
    if sys.platform == "win32":
        pytest.skip("Windows has no FIFOs in folders")
    else:
        os.mkfifo(path)


def open_unix_socket() -> socket.socket:
    """Make a socket that is to have a name in a folder."""
    if sys.platform == "win32":
        pytest.skip("Windows has no sockets in folders")
    else:
        return socket.socket(socket.AF_UNIX)


def bytes_in(pipe: BinaryIO) -> int:
    """How many bytes wait in a pipe to be read."""
    if sys.platform == "win32":
        pytest.skip("Windows does not tell how full a pipe is")
    else:
        import fcntl  # noqa: PLC0415  not on Windows
        import termios  # noqa: PLC0415

        answer: bytes = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
        return int.from_bytes(answer, sys.byteorder)


def small_pipe() -> tuple[int, int]:
    """Both ends of a pipe that holds one page, where pipes can be made smaller."""
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415  not on Windows

        read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
        return read, write
    else:  # noqa: RET505  the type checker follows it
        pytest.skip("pipes have a size of their own here")


def descriptors_of(process: psutil.Process) -> int:
    """How many descriptors, on Windows handles, a process holds."""
    count: int = getattr(process, "num_handles" if sys.platform == "win32" else "num_fds")()
    return count


@contextmanager
def few_descriptors(soft_limit: int) -> Iterator[None]:
    """This process may open no descriptor from that number on, while the block runs."""
    if sys.platform == "win32":
        pytest.skip("Windows has no such limit")
    else:
        import resource  # noqa: PLC0415  not on Windows

        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


def account() -> tuple[str, Path]:
    """Name and home folder of this user, as the system has them on record."""
    if sys.platform == "win32":
        pytest.skip("Windows keeps users elsewhere")
    else:
        import pwd  # noqa: PLC0415  not on Windows

        entry = pwd.getpwuid(os.getuid())
        return entry.pw_name, Path(entry.pw_dir)
