"""What loading a model takes: CPU time, memory of the computer, container and GPU, and weights on disk."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from moondream_station.core.home.storage import in_words

_FACTOR: Final = 2
"""Weights are there twice for a moment, as they are read and as they are used."""
_RESERVE_BYTES: Final = 1 << 30
"""What computing takes, and what must stay for everything else."""
_CGROUPS: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")
_BLOCK_BYTES: Final = 512
"""The unit of `st_blocks` (POSIX leaves it open; Linux and macOS agree)."""


def _total(pid: int, measure: Callable[[psutil.Process], float]) -> float:
    """A measure of a process and its children; what is gone meanwhile counts as nothing."""
    total = 0.0
    with suppress(psutil.Error):
        leader = psutil.Process(pid)
        for process in (leader, *leader.children(recursive=True)):
            total += measure(process)
    return total


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process and its children have used. Blocks: it looks at all processes."""
    return _total(pid, lambda process: sum(process.cpu_times()[:2]))


def held_bytes(pid: int) -> int:
    """The memory that a process and its children hold, in bytes; 0 once it is gone. Blocks."""
    return int(_total(pid, lambda process: process.memory_info().rss))


def is_small(held: int) -> bool:
    """Whether so many bytes make little difference to whoever needs memory, since much more is free."""
    return held <= min(_RESERVE_BYTES, available_bytes() // 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """The memory that a model's weights take, and the GPU's free memory (None where that is unknown)."""

    needed_bytes: int
    free_on_device_bytes: int | None

    def is_met(self) -> bool:
        """Whether there is enough, with a margin: of the computer's memory, and of the GPU's own."""
        return self.shortage() is None

    def shortage(self) -> str | None:
        """What there is not enough of, and how much that is, as in "needs …"; None where there is enough."""
        required = _FACTOR * self.needed_bytes + _RESERVE_BYTES
        for free, what in ((available_bytes(), "memory"), (self.free_on_device_bytes, "GPU memory")):
            if free is not None and free < required:
                return f"{in_words(required)} of {what}, and {in_words(free)} are free"
        return None


def available_bytes() -> int:
    """How much memory this process can still get, in bytes: the computer's, or its container's where less."""
    return min((psutil.virtual_memory().available, *left_in_groups(_CGROUPS, _MEMBERSHIP)))


def total_bytes() -> int:
    """How much memory there is in all, in bytes: the computer's, or its container's where less."""
    limits = (limit for limit, _ in _limited_groups(_CGROUPS, _MEMBERSHIP))
    return min((psutil.virtual_memory().total, *limits))


def left_in_groups(root: Path, membership: Path) -> Iterator[int]:
    """How many bytes the limit of each control group around this process leaves."""
    return (max(0, limit - usage) for limit, usage in _limited_groups(root, membership))


def _limited_groups(root: Path, membership: Path) -> Iterator[tuple[int, int]]:
    """The limit and the usage, in bytes, of each control group around this process that has a limit."""
    for group, is_unified in _memory_groups(root, membership):
        limit, usage = (
            ("memory.max", "memory.current")
            if is_unified
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        with suppress(OSError, ValueError):  # not there, as in a container for its own path; or "max"
            yield int((group / limit).read_text()), int((group / usage).read_text())


def oom_kills(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int | None:
    """How many processes the kernel has ended so far because memory ran out, None where it does not say.

    Of this process's control group, or of the innermost around it that counts them.
    """
    for group, is_unified in _memory_groups(root, membership):
        with suppress(OSError):
            counters = (group / ("memory.events" if is_unified else "memory.oom_control")).read_text()
            if (found := re.search(r"^oom_kill (\d+)$", counters, re.MULTILINE)) is not None:
                return int(found[1])
    return None


def _memory_groups(root: Path, membership: Path) -> Iterator[tuple[Path, bool]]:
    """The control groups around this process, the innermost first, and whether they are of version 2.

    Linux, Documentation/admin-guide/cgroup-v2.rst ("memory.max", "memory.current", "memory.events") and
    cgroup-v1/memory.rst ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control").
    """
    try:
        entries = [line.split(":", 2) for line in membership.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return  # not Linux
    for _, controllers, path in entries:
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                yield folder, not controllers


def disk_usage(folders: Iterable[Path]) -> int:
    """How many bytes the files below some folders take; what can't be read counts as nothing.

    Downloads that are written at several places at once have their full size from the beginning, with holes.
    So the blocks are counted where the system tells them.
    """
    total = 0
    pending = [os.fspath(folder) for folder in folders]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        status = entry.stat(follow_symlinks=False)
                        blocks = getattr(status, "st_blocks", None)
                        total += status.st_size if blocks is None else blocks * _BLOCK_BYTES
        except OSError:  # not there, not ours, or gone meanwhile
            continue
    return total
