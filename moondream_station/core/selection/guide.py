"""The table of the system-aware installation guide: from the driver's CUDA to a build."""

from __future__ import annotations

import re

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Build, Kind, parse_build
from moondream_station.core.builds.visibility import nvidia_in_use
from moondream_station.core.facts.capabilities import Capabilities

_TABLE: tuple[tuple[tuple[int, int], str], ...] = (
    ((12, 4), "cu124"),  # the guide: CUDA 13.0 and later too, "future-proofing"
    ((12, 0), "cu121"),
    ((11, 8), "cu118"),
)


def cuda_of_driver(capabilities: Capabilities, catalog: Catalog) -> str | None:
    """The highest CUDA that the driver supports ("12.2"): from its header, else by its branch."""
    if capabilities.nvidia_cuda is not None:
        return capabilities.nvidia_cuda
    match = re.match(r"[0-9]+", capabilities.nvidia_driver or "")
    return catalog.cuda_of_branch(int(match[0])) if match else None


def has_mps(capabilities: Capabilities) -> bool:
    """Whether it is Apple silicon, under a Python that is made for it."""
    return capabilities.system == "Darwin" and capabilities.machine == "arm64" and not capabilities.in_rosetta


def guide_build(capabilities: Capabilities, catalog: Catalog) -> str:
    """The build that the guide recommends.

    `mps` on Apple silicon under an arm64 Python, the table's build for an NVIDIA GPU whose driver supports
    CUDA 11.8 or later, `cpu` for everything else.
    """
    if has_mps(capabilities):
        return "mps"
    if nvidia_in_use(capabilities).absence is not None:
        return "cpu"
    match = re.match(r"([0-9]+)\.([0-9]+)", cuda_of_driver(capabilities, catalog) or "")
    cuda = (int(match[1]), int(match[2])) if match else (0, 0)
    return next((build for lowest, build in _TABLE if cuda >= lowest), "cpu")


def guide_order(recommended: str, possible: tuple[Build, ...]) -> tuple[Build, ...]:
    """The possible builds in the guide's order.

    The recommended one first; then those of the next higher CUDA of the same major, then of the next lower,
    then the others in the order they are given.
    """
    build = parse_build(recommended)
    if build is None or build.kind is not Kind.CUDA:
        return tuple(sorted(possible, key=lambda other: other.name != recommended))
    same = [other for other in possible if other.kind is Kind.CUDA and other.version[0] == build.version[0]]
    higher = sorted(other for other in same if other >= build)
    lower = sorted((other for other in same if other < build), reverse=True)
    return (*higher, *lower, *(other for other in possible if other not in same))
