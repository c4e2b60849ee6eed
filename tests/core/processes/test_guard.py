"""The guard, run as the script it is."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from moondream_station.core.processes import child_process
from support.posix import SIGKILL, signals
from support.processes import left_in_the_end, marked, nothing_left, tree

GUARD = Path(child_process.__file__).with_name("guard.py")
FAMILY = ("child", "stubborn", "group", "daemon")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise holds on Linux alone")


@pytest.fixture
def marker() -> Iterator[str]:
    """What every process of the test carries in its command line; none may be left."""
    with nothing_left() as marker:
        yield marker


class Guard(subprocess.Popen[bytes]):
    """The guard of a program; the test holds its lifeline as the station would."""

    def __init__(self, *argv: str, options: tuple[str, ...] = ()) -> None:
        self.lifeline, theirs = socket.socketpair()
        with theirs:
            super().__init__(
                [sys.executable, "-S", "-E", "-P", *options, str(GUARD), str(theirs.fileno()), *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )


@contextmanager
def guarded(*argv: str, options: tuple[str, ...] = ()) -> Iterator[Guard]:
    """The guard of a program, killed in the end."""
    with Guard(*argv, options=options) as guard, guard.lifeline:
        try:
            yield guard
        finally:
            guard.kill()


def wait_until_ready(guard: Guard) -> None:
    """Return when the program has said that its family stands."""
    assert guard.stderr is not None
    assert guard.stderr.readline() == b"ready\n"


@pytest.mark.parametrize("code", [0, 1, 2, 126, 127, 128, 255])
def test_the_guard_ends_with_the_programs_exit_code(marker: str, code: int) -> None:
    """Every exit code is the program's own, also those that shells use for their own purposes."""
    with guarded(*tree(marker, f"exit={code}")) as guard:
        assert guard.wait() == code


@pytest.mark.parametrize("number", ["TERM", "KILL", "SEGV", "PIPE", "INT", "ABRT", "USR1"])
def test_the_guard_ends_by_the_programs_signal(marker: str, number: str) -> None:
    """A program that a signal ended is told by the same signal; Python's own handlers do not show."""
    value = signal.Signals[f"SIG{number}"]
    with guarded("/bin/sh", "-c", f"kill -{number} $$", marker) as guard:
        assert guard.wait() == -value


def test_the_programs_streams_are_its_own() -> None:
    """The program writes straight to the station, and reads what it was given: here an end of file."""
    with guarded("/bin/sh", "-c", "cat; echo out; echo err >&2") as guard:
        assert guard.stdout is not None
        assert guard.stderr is not None
        assert guard.stdout.read() == b"out\n"
        assert guard.stderr.read() == b"err\n"


@linux_only
def test_the_program_inherits_nothing_else() -> None:
    """No descriptor but the three, no signal that is blocked or ignored."""
    with guarded("/bin/sh", "-c", "ls /proc/$$/fd") as guard:
        assert guard.stdout is not None
        assert guard.stdout.read().split() == [b"0", b"1", b"2"]
    with guarded("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status") as guard:
        assert guard.stdout is not None
        _, blocked, _, ignored = guard.stdout.read().split()
        above = 1 << 31  # the C library's own signals, which it may ignore
        assert (int(blocked, 16), int(ignored, 16) % above) == (0, 0)


def test_the_programs_id_is_told(marker: str) -> None:
    """The station gets to know the process that it asked for, not just its guard."""
    with guarded(*tree(marker, "ready", "wait")) as guard:
        wait_until_ready(guard)
        told = int(guard.lifeline.recv(64))
        assert told != guard.pid
        assert told in [process.pid for process in marked(marker)]


def test_a_program_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    """The caller can tell a failed start from a program's own 127."""
    with guarded(str(tmp_path / "absent")) as guard:
        assert guard.lifeline.recv(64) == b"No such file or directory\n"
        assert guard.wait() == 127


def test_where_no_further_process_is_allowed_that_is_told_too() -> None:
    """A limit on processes is a failed start as well, not a fault of the guard's."""
    limited = f"""
import errno, os, runpy, sys
def fork():
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
os.fork = fork
sys.argv = ["guard", "1", "/bin/true"]
runpy.run_path({str(GUARD)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (127, b"Resource temporarily unavailable\n")


def test_the_end_of_the_lifeline_ends_the_family(marker: str) -> None:
    """When the station is gone, so are the program and its children, wherever they have got to."""
    with guarded(*tree(marker, *FAMILY, "ready", "wait")) as guard:
        wait_until_ready(guard)
        assert len(marked(marker)) == 2 + len(FAMILY)
        guard.lifeline.close()
        assert guard.wait() == -signal.SIGTERM
        assert marked(marker) == []


@pytest.mark.parametrize("number", signals("SIGTERM", "SIGINT", "SIGHUP"))
def test_a_signal_to_the_guard_ends_the_family(marker: str, number: signal.Signals) -> None:
    """Whoever ends the guard politely ends everything behind it."""
    with guarded(*tree(marker, *FAMILY, "ready", "wait")) as guard:
        wait_until_ready(guard)
        guard.send_signal(number)
        assert guard.wait() == -signal.SIGTERM
        assert marked(marker) == []


def test_a_deaf_program_is_killed(marker: str) -> None:
    """A program that ignores SIGTERM is ended all the same, and the caller is told how."""
    with guarded(*tree(marker, "deaf", "ready", "wait")) as guard:
        wait_until_ready(guard)
        guard.terminate()
        assert guard.wait() == -SIGKILL
        assert marked(marker) == []


@pytest.mark.parametrize("left", ["child", "stubborn", "group", "daemon"])
def test_what_the_program_leaves_behind_ends_with_it(marker: str, left: str) -> None:
    """A program that ends well does not leave children running, and its exit code stays its own."""
    with guarded(*tree(marker, left, "exit=3")) as guard:
        assert guard.wait() == 3
        assert marked(marker) == []


@linux_only
def test_killing_the_guard_kills_the_program(marker: str) -> None:
    """Even a guard that gets no chance takes the program along."""
    with guarded(*tree(marker, "deaf", "ready", "wait")) as guard:
        wait_until_ready(guard)
        guard.kill()
        guard.wait()
        assert left_in_the_end(marker) == []


def test_the_program_leads_its_own_group_in_the_guards_session(marker: str) -> None:
    """The station can find what a killed guard has left, by the session."""
    with guarded(*tree(marker, "ready", "wait")) as guard:
        wait_until_ready(guard)
        program = next(found for found in marked(marker) if found.pid != guard.pid)
        assert process_group_and_session(program) == (program.pid, guard.pid)


def process_group_and_session(found: psutil.Process) -> tuple[int, int]:
    """What ps calls pgid and sid."""
    shown = subprocess.run(
        ["/bin/ps", "-o", "pgid=,sid=", "-p", str(found.pid)], capture_output=True, check=True, text=True
    )
    group, session = shown.stdout.split()
    return int(group), int(session)


def test_the_guard_imports_little() -> None:
    """Every program pays for the guard's start, so that no costly module may slip into it."""
    with guarded("/bin/sh", "-c", "exit 0", options=("-X", "importtime")) as guard:
        assert guard.stderr is not None
        lines = guard.stderr.read().decode().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "select" in imported
    costly = {
        "asyncio",
        "contextlib",
        "enum",
        "inspect",
        "json",
        "logging",
        "pathlib",
        "subprocess",
        "typing",
    }
    assert not costly & imported
