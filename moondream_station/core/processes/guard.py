"""Stand between the station and one program: when the station goes, the program and all it started go too.

Started as a script by `child_process.open_child`, never imported by it: `python -S -E -P guard.py LIFELINE
PROGRAM ARGUMENT…`, with the standard library alone and little of that, because every program pays for this
start: subprocess and contextlib alone would add a third to it. LIFELINE is the number of an inherited
descriptor, a socket whose other end only the station holds. The guard writes one line to it: the program's
process id, or why it can't be started (then it ends with exit code 127). Its end of file means that the
station is gone, however it died, or wants the program ended. stdin, stdout and stderr are the program's own.

The program runs in a process group of its own inside the guard's session. When it ends, when the lifeline
ends, or when the guard gets SIGTERM, SIGINT or SIGHUP, whatever is left of the program is ended: SIGTERM,
half a second, SIGKILL. Then the guard ends as the program did, with its exit code or by its signal.

What "whatever is left" reaches:

- Linux: every descendant, also one in a session of its own whose parents are gone (a daemon), because the
  guard is the subreaper of them all (prctl(2), PR_SET_CHILD_SUBREAPER). If the guard itself is killed by
  SIGKILL, the kernel kills the program (PR_SET_PDEATHSIG; not a setuid one), and the station, while it lives,
  what else is left in the guard's session. What a grandchild can survive is a SIGKILL of the guard that comes
  together with the station's own, or that finds the grandchild in another session.
- macOS and others: the program's group. A daemon that has left it is out of reach. If the guard itself is
  killed by SIGKILL, the station, while it lives, ends the guard's session.
- Windows: guard_windows.py.
"""

import os
import select
import sys
import time

try:
    import _ctypes  # `ctypes` itself takes four times as long: 2 ms of 12
except ImportError:  # a Python built without libffi: the guard then does what it does on other systems
    _ctypes = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs more than the rest of the guard
    import signal
    from collections.abc import Callable
    from typing import NoReturn
else:
    import _signal as signal  # without the enums of `signal`, a third of the start: 5 ms of 16

assert sys.platform != "win32"  # noqa: S101  tells the type checker what this file is for

_TERM_SECONDS = 0.5
_KILL_SECONDS = 0.5
_CHECK_SECONDS = 0.02  # outside Linux nobody tells when a grandchild has ended
_NOT_STARTED = 127
_STDIN = 0

_HEEDED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""What a program would go on ignoring."""

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


class ProgramGroup:
    """The program and everything that came from it."""

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self.status: int | None = None
        """The program's wait status, None until it has ended."""

    def reap(self) -> bool:
        """Collect what has ended, and say whether anything is left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self.leader:
                    self.status = status
        except ChildProcessError:  # on Linux that is all: the subreaper has inherited every orphan
            pass
        try:
            os.killpg(self.leader, 0)
        except (ProcessLookupError, PermissionError):  # macOS: EPERM when only zombies are left
            return False
        return True

    def end(self, wait: "Callable[[float], object]") -> None:
        """Ask everything that is left to end, then make it; `wait` may return before its seconds are over."""
        for number, seconds in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            deadline = time.monotonic() + seconds
            asked = False
            while self.reap():
                if time.monotonic() >= deadline:
                    break
                if not asked or number == signal.SIGKILL:  # again: it may have forked meanwhile
                    self._send(number)
                    asked = True
                wait(_CHECK_SECONDS)
            else:
                return

    def _send(self, number: int) -> None:
        _try_to(os.killpg, self.leader, number)
        for pid in _descendants_outside(self.leader):
            _try_to(os.kill, pid, number)


def _try_to(kill: "Callable[[int, int], None]", target: int, number: int) -> None:
    try:  # noqa: SIM105  contextlib costs too much here
        kill(target, number)
    except (ProcessLookupError, PermissionError):
        pass


def _descendants_outside(group: int) -> list[int]:
    """The guard's descendants that have left the group; empty without Linux's /proc."""
    families: dict[int, tuple[int, int]] = {}
    try:
        entries = os.listdir("/proc")
    except OSError:
        entries = []
    for entry in filter(str.isdigit, entries):
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                stat = file.read()
        except OSError:
            continue
        # proc_pid_stat(5): the name in brackets may hold anything; state, parent, group follow
        _, parent, members = stat[stat.rindex(b")") + 1 :].split(maxsplit=3)[:3]
        families[int(entry)] = int(parent), int(members)
    known: set[int] = set()
    added = {os.getpid()}
    while added:
        known |= added
        added = {pid for pid, (parent, _) in families.items() if parent in known} - known
    return [pid for pid in known - {os.getpid()} if families[pid][1] != group]


def _prctl(option: int, value: int) -> None:
    """Linux's prctl(2); elsewhere nothing."""
    if sys.platform == "linux" and _ctypes is not None:
        prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]  # the program itself
        _ctypes.call_function(prctl, (option, value, 0, 0, 0))


def _signals_to_pipe() -> int:
    """Let every signal that matters arrive as its number on a pipe, and return the pipe's read end."""
    receive, send = os.pipe()
    os.set_blocking(receive, False)
    os.set_blocking(send, False)
    signal.set_wakeup_fd(send, warn_on_full_buffer=False)
    for number in _HEEDED:
        signal.signal(number, lambda _number, _frame: None)
    return receive


def _start(argv: list[str], lifeline: int) -> int:
    """Start the program as the leader of its own group; returns its process id."""
    guard = os.getpid()
    hear, tell = os.pipe()  # closed by a start that succeeds
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)  # the guard's handlers are not for the program
    try:
        leader = os.fork()
    except OSError as error:  # no further process is allowed
        _not_started(lifeline, error.strerror)
    if leader == 0:
        _become(argv, guard, tell)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)
    os.close(tell)
    if why := os.read(hear, 64):
        _not_started(lifeline, os.strerror(int(why)))
    os.close(hear)
    os.dup2(os.open(os.devnull, os.O_RDWR), _STDIN)  # what is sent to a program that is gone is refused
    _tell(lifeline, str(leader))
    return leader


def _not_started(lifeline: int, why: str | None) -> "NoReturn":
    _tell(lifeline, why)
    os._exit(_NOT_STARTED)


def _tell(lifeline: int, text: object) -> None:
    try:  # noqa: SIM105  contextlib costs too much here
        os.write(lifeline, f"{text}\n".encode())
    except OSError:  # the station is gone
        pass


def _become(argv: list[str], guard: int, tell: int) -> "NoReturn":
    """Turn this process, which was forked for it, into the program; an error's number goes to `tell`."""
    try:
        os.setpgid(0, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it went before the kernel was told
            os._exit(_NOT_STARTED)
        for number in (*_HEEDED, *_IGNORED_BY_PYTHON):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)
        os.execvp(argv[0], argv)  # noqa: S606  the guard is there for nothing else
    except OSError as error:
        os.write(tell, str(error.errno).encode())
    finally:
        os._exit(_NOT_STARTED)


def _wait_for_end(group: ProgramGroup, lifeline: int, signals: int) -> None:
    """Return when the program has ended, or when it shall."""
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(signals, select.POLLIN)
    while group.status is None:
        for descriptor, _ in poll.poll():
            if descriptor == lifeline and _at_end(lifeline):
                return
            if descriptor == signals:
                if set(os.read(signals, 1024)) - {signal.SIGCHLD}:
                    return
                group.reap()


def _at_end(descriptor: int) -> bool:
    try:
        return not os.read(descriptor, 1024)
    except OSError:  # it was reset
        return True


def _end_like(status: int | None) -> "NoReturn":
    """End as the program did, without a second core dump."""
    code = -signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    _prctl(_PR_SET_DUMPABLE, 0)
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
    os.kill(os.getpid(), -code)
    os._exit(128 - code)


def main(argv: list[str]) -> "NoReturn":
    """Guard one program until it, or the station, is gone."""
    lifeline = int(argv[0])
    os.set_inheritable(lifeline, False)
    signals = _signals_to_pipe()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    group = ProgramGroup(_start(argv[1:], lifeline))
    _wait_for_end(group, lifeline, signals)
    changes = select.poll()
    changes.register(signals, select.POLLIN)

    def wait(seconds: float) -> None:
        if changes.poll(seconds * 1000):
            os.read(signals, 1024)

    group.end(wait)
    _end_like(group.status)


if __name__ == "__main__":
    main(sys.argv[1:])
