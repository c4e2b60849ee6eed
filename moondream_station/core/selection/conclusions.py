"""What a choice of a build was concluded from, to be held against what torch says where it runs.

A difference shows a wrong row of the catalog or a wrong reading of the machine. It changes nothing for the
environment in which torch computes; it is kept, so that the row can be found.
"""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Build, Kind, parse_build
from moondream_station.core.builds.target import target_of
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.selection.guide import cuda_of_driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusions:
    """What is thought of a build and of the machine; None, or empty, where nothing is.

    Args:
        arch_list: What the build has code for, as torch writes it ("sm_86", "gfx1100").
        toolkit: The CUDA or ROCm that it carries ("12.6").
        driver_cuda: The highest CUDA that the driver supports ("12.4").
    """

    arch_list: tuple[str, ...] = ()
    toolkit: str | None = None
    driver_cuda: str | None = None


def conclusions(build: str, torch: str, capabilities: Capabilities, catalog: Catalog) -> Conclusions:
    """What the catalog says of a build, and detection of what it runs on.

    Args:
        build: The build's tag.
        torch: Its torch, with or without the local part.
        capabilities: The machine.
        catalog: The catalog.
    """
    parsed = parse_build(build)
    if parsed is None or parsed.kind not in {Kind.CUDA, Kind.ROCM}:
        return Conclusions()
    version = Version(torch.partition("+")[0])
    platform = target_of(capabilities, capabilities.python).platform or ""
    if parsed.kind is Kind.ROCM:
        return Conclusions(arch_list=_gfx_names(parsed, catalog), toolkit=parsed.toolkit)
    known = catalog.architectures(parsed, version, platform)
    return Conclusions(
        arch_list=tuple(f"sm_{major}{minor}" for major, minor in known.codes) if known else (),
        toolkit=parsed.toolkit,
        driver_cuda=cuda_of_driver(capabilities, catalog),
    )


def _gfx_names(build: Build, catalog: Catalog) -> tuple[str, ...]:
    known = catalog.gfx(build)
    return tuple(sorted(known.names)) if known else ()
