"""Names: what a build's tag says, and a GPU's compute capability, with which compiled code runs on which.

Source of the latter: DEVICE_REQUIREMENT in torch/cuda/__init__.py of torch 2.13 and newer. PTX, which a
driver could compile for newer GPUs, is not counted: minor-version compatibility excludes it for drivers older
than the build's CUDA.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TypeAlias

from moondream_station.core.facts.errors import UsageError

_CUDA = re.compile(r"cu(9|[12][0-9])([0-9])")
_ROCM = re.compile(r"rocm([0-9]{1,2}(?:\.[0-9]{1,3}){1,2})")
_FIRST_OF_AMD = (7, 14)
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
    """A PyTorch build by its tag ("cu126"), with the CUDA or ROCm that it carries ((12, 6)), if any.

    That sorts first: of two builds of one kind the newer one is the greater.
    """

    version: tuple[int, ...]
    kind: Kind
    name: str

    @property
    def is_amds(self) -> bool:
        """Whether AMD makes it: its wheels name ROCm in three numbers, PyTorch's since 6.3 in two."""
        return self.kind is Kind.ROCM and self.version >= _FIRST_OF_AMD and self.version[2:] != ()

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


def is_amds(tag: str) -> bool:
    """Whether a tag is of a build that AMD makes."""
    build = parse_build(tag)
    return build is not None and build.is_amds


def numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (580, 65, 6) of "580.65.06"."""
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


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


Capability: TypeAlias = tuple[int, int]

_CAPABILITY = re.compile(r"(?:sm_)?([0-9]{1,2})\.([0-9])[a-z]?")
_THOR_OLD_NAME: Capability = (10, 1)
_THOR: Capability = (11, 0)
# Integrated GPUs of Tegra: code for their discrete siblings does not run on them ...
_TEGRA: tuple[Capability, ...] = ((5, 3), (6, 2), (7, 2), (8, 7))
# ... up to CUDA 13.1; from 13.2 on it does on these.
_JOINED_IN_13_2: tuple[Capability, ...] = ((7, 2), (8, 7))
_JOINING_CUDA = (13, 2)


@lru_cache(maxsize=256)
def parse_capability(text: str) -> Capability | None:
    """A compute capability ("8.9") as two numbers, None where the text is none."""
    match = _CAPABILITY.fullmatch(text.strip())
    if match is None:
        return None
    capability = (int(match[1]), int(match[2]))
    return _THOR if capability == _THOR_OLD_NAME else capability


def last_driver(architecture: str | None) -> int | None:
    """The last driver branch for Maxwell, Pascal and Volta (NVIDIA's support plan), None for other GPUs."""
    return 580 if (5, 0) <= (parse_capability(architecture or "") or (0, 0)) < (7, 5) else None


def runs(code: Capability, device: Capability, cuda: tuple[int, ...]) -> bool:
    """Whether binary code for a capability runs on a device, in a build that carries a CUDA ((13, 2))."""
    if code == device:
        return True
    if code[0] != device[0] or code[1] > device[1]:
        return False
    if device not in _TEGRA:
        return True
    return device in _JOINED_IN_13_2 and cuda >= _JOINING_CUDA


def covers(codes: Iterable[Capability], device: Capability, cuda: tuple[int, ...]) -> bool:
    """Whether any of a build's codes runs on a device."""
    return any(runs(code, device, cuda) for code in codes)
