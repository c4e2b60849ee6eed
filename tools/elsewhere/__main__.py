"""Collects the tests as where there is no POSIX: `python -m tools.elsewhere [PYTEST'S ARGUMENTS]`.

On Windows, a name that only POSIX has spoils a whole file of tests if it is used while the file is imported.
Here those names are taken away first: modules from what the project imports, the rest from everyone.
"""

from __future__ import annotations

import asyncio  # noqa: F401  asks for some of what is taken away while it is imported, as psutil and trio do
import builtins
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil  # noqa: F401
import pytest

with suppress(ImportError):  # what runs on asyncio alone has no trio
    import trio  # noqa: F401

_ROOT = Path(__file__).parents[2]
_OURS = tuple(str(_ROOT / folder) + os.sep for folder in ("moondream_station", "tests", "tools"))
_MODULES = {"fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
_OF_OS = """
    O_DIRECTORY O_NOFOLLOW O_NONBLOCK chown chroot fork forkpty getegid geteuid getgid getgroups getpgid
    getpgrp getpriority getsid getuid initgroups killpg lchown mkfifo mknod nice openpty pathconf
    sched_getaffinity sched_setaffinity setegid seteuid setgid setgroups setpgid setresgid setresuid setsid
    setuid statvfs sync sysconf tcgetpgrp tcsetpgrp ttyname uname wait3 wait4 waitid
"""
_OF_SIGNAL = """
    ITIMER_REAL SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGTTIN SIGTTOU
    SIGUSR1 SIGUSR2 SIGWINCH alarm pause pthread_kill pthread_sigmask setitimer siginterrupt sigpending
    sigtimedwait sigwait sigwaitinfo
"""

_import = builtins.__import__


def _import_elsewhere(
    name: str, variables: Mapping[str, object] | None = None, *rest: Any, **more: Any
) -> ModuleType:
    if name in _MODULES and str((variables or {}).get("__file__", "")).startswith(_OURS):
        raise ModuleNotFoundError(f"No module named {name!r}, as on Windows", name=name)
    return _import(name, variables, *rest, **more)


def main(arguments: list[str]) -> int:
    """Collect; gives pytest's exit code."""
    for module, names in ((os, _OF_OS), (signal, _OF_SIGNAL)):
        for name in names.split():
            if hasattr(module, name):  # not every system has all of them
                delattr(module, name)
    vars(builtins)["__import__"] = _import_elsewhere
    return pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
