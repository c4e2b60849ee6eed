"""Names of PyTorch builds: what a tag says about the build."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from moondream_station.core.facts.errors import UsageError

_CUDA = re.compile(r"cu(9|[12][0-9])([0-9])")
_ROCM = re.compile(r"rocm([0-9]{1,2}(?:\.[0-9]{1,3}){1,2})")
_STRATEGIES = ("auto", "guide")


class Kind(StrEnum):
    """What a build computes on."""

    CPU = "cpu"
    CUDA = "cuda"
    ROCM = "rocm"
    XPU = "xpu"
    MPS = "mps"


GPU_KINDS = (Kind.CUDA, Kind.ROCM, Kind.XPU)
"""Those that need a driver, in the order in which they are preferred."""


@dataclass(frozen=True, slots=True, order=True)
class Build:
    """A PyTorch build by its tag ("cu126").

    Its version is the CUDA or ROCm that it carries ((12, 6), (7, 2)), empty for the others. It sorts first,
    so that of two builds of one kind the newer one is the greater.
    """

    version: tuple[int, ...]
    kind: Kind
    name: str

    @property
    def folder(self) -> str:
        """Its folder below an index's base: the ordinary wheel for Apple silicon is in the CPU's."""
        return Kind.CPU.value if self.kind is Kind.MPS else self.name

    @property
    def toolkit(self) -> str:
        """The CUDA or ROCm that it carries, as people write it ("12.6"); empty for the others."""
        return ".".join(map(str, self.version))


@lru_cache(maxsize=256)
def parse_build(name: str) -> Build | None:
    """What a tag says, None for a text that is no build's tag ("cu12", "cpu.cxx11.abi", "nightly")."""
    if name in {Kind.CPU, Kind.XPU, Kind.MPS}:
        return Build((), Kind(name), name)
    if match := _CUDA.fullmatch(name):
        return Build((int(match[1]), int(match[2])), Kind.CUDA, name)
    if match := _ROCM.fullmatch(name):
        return Build(tuple(map(int, match[1].split("."))), Kind.ROCM, name)
    return None


def listed(names: Iterable[str]) -> str:
    """Names for a sentence, each once: "A, B and C"; empty where there are none."""
    *others, last = dict.fromkeys(names) or ("",)
    return f"{', '.join(others)} and {last}" if others else last


def check_strategy(text: str) -> str:
    """The strategy itself; UsageError where it is neither `auto` nor `guide` nor a build's tag."""
    if text in _STRATEGIES or parse_build(text) is not None:
        return text
    raise UsageError(
        f"Unknown strategy {text!r}.",
        hint="Use auto, guide, or a build such as cpu, cu126, rocm7.2, xpu or mps.",
    )
