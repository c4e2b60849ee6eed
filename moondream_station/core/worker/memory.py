"""Whether a model's memory is there while all that runs now goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_FACTOR: Final = 2
"""Weights are there twice for a moment, as they are read and as they are used."""
_RESERVE_BYTES: Final = 1 << 30
"""What computing takes, and what must stay for everything else."""
_CGROUPS: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What memory a model needs.

    Args:
        needed_bytes: How much its weights take.
        free_on_device_bytes: How much is free on the GPU that it will be on, None where that has no memory of
            its own or does not tell.
    """

    needed_bytes: int
    free_on_device_bytes: int | None

    def is_met(self) -> bool:
        """Whether there is enough, with a margin: of the computer's memory, and of the GPU's own."""
        wanted = _FACTOR * self.needed_bytes + _RESERVE_BYTES
        on_device = self.free_on_device_bytes
        return wanted <= available_bytes() and (on_device is None or wanted <= on_device)


def available_bytes() -> int:
    """How much memory this process can still get, in bytes: the computer's, or its container's where less."""
    return min((psutil.virtual_memory().available, *left_in_groups(_CGROUPS, Path("/proc/self/cgroup"))))


def left_in_groups(root: Path, membership: Path) -> Iterator[int]:
    """How many bytes the limit of each control group around this process leaves.

    Linux, Documentation/admin-guide/cgroup-v2.rst ("memory.max", "memory.current") and
    cgroup-v1/memory.rst ("memory.limit_in_bytes", "memory.usage_in_bytes").

    Args:
        root: Where the groups are mounted.
        membership: The process's own `/proc/PID/cgroup`.
    """
    try:
        entries = [line.split(":", 2) for line in membership.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return  # not Linux
    for _, controllers, path in entries:
        if not controllers:
            base, limit, usage = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, usage = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(base):
                break
            try:
                yield max(0, int((folder / limit).read_text()) - int((folder / usage).read_text()))
            except (OSError, ValueError):  # not there, as in a container for its own path; or "max"
                continue
