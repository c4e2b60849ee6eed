"""Which compiled CUDA code runs on which GPU.

Source: DEVICE_REQUIREMENT in torch/cuda/__init__.py of torch 2.13 and newer. PTX, which a driver could
compile for newer GPUs, is not counted: minor-version compatibility excludes it for drivers older than the
build's CUDA.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

Capability: TypeAlias = tuple[int, int]

_TEXT = re.compile(r"(?:sm_)?([0-9]{1,2})\.([0-9])[a-z]?")
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
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        return None
    capability = (int(match[1]), int(match[2]))
    return _THOR if capability == _THOR_OLD_NAME else capability


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
