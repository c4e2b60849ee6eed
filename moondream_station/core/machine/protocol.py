"""What a machine can be asked: run a program, read a file, list a folder, platform facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

RECORDED_VARIABLES: Final = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "ZE_AFFINITY_MASK",
)
"""The environment variables that decide which GPUs a program sees."""

OUTPUT_LIMIT_BYTES: Final = 1 << 20
"""Longer answers are cut off here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformFacts:
    """What Python's `platform` knows of the machine, and the Python that environments are made from.

    `in_rosetta` is None off macOS or where unknown.
    """

    system: str
    machine: str
    python: str
    release: str = ""
    version: str = ""
    mac_ver: str = ""
    libc: tuple[str, str] = ("", "")
    in_rosetta: bool | None = None


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
