"""Signals to a child that leads its own session, and to all that came from it.

On Windows, which knows no sessions of that kind, the same is done to the child's tree as psutil sees it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import psutil

if sys.platform == "win32":

    def terminate_group(leader: int, *, reaped: bool) -> None:
        """End the child's tree: Windows has no milder way that a program without a window would notice."""
        kill_session(leader, reaped=reaped)

    def kill_session(leader: int, *, reaped: bool) -> None:
        """End the child's tree. Nothing is left to find once the child itself has ended."""
        if reaped:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            child = psutil.Process(leader)
            for process in (*child.children(recursive=True), child):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    process.kill()

else:

    def terminate_group(leader: int, *, reaped: bool) -> None:
        """Send SIGTERM to the child's group; once the child was `reaped`, its id may be another's."""
        if not (reaped and psutil.pid_exists(leader)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(leader, signal.SIGTERM)

    def kill_session(leader: int, *, reaped: bool) -> None:
        """Send SIGKILL to everything in the child's session, whichever group it is in."""
        if reaped and psutil.pid_exists(leader):  # the kernel gives no id away that still names a session
            return
        seen: set[int] = set()
        while members := _session_members(leader) - seen:  # what was forked meanwhile is found the next time
            seen |= members
            for pid in members:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def _session_members(leader: int) -> set[int]:
        members = set()
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) == leader:
                    members.add(pid)
        return members
