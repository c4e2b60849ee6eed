"""What a choice of a build relied on, to be compared with what torch reports in the environment.

A difference is an error in the catalog or in detection. It changes nothing for the environment, in which
torch computes; it is reported, so that the error can be found.
"""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.builds.target import target_of
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.selection.guide import cuda_of_driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusions:
    """What is known of a build and of the machine; None, or empty, where nothing is.

    Args:
        arch_list: What the build has code for, as torch writes it ("sm_86", "gfx1100").
        toolkit: The CUDA or ROCm that it carries ("12.6").
        driver_cuda: The highest CUDA that the driver supports ("12.4").
    """

    arch_list: tuple[str, ...] = ()
    toolkit: str | None = None
    driver_cuda: str | None = None


def conclusions(build: str, torch: str, capabilities: Capabilities, catalog: Catalog) -> Conclusions:
    """What the catalog says of a build of a torch, and detection of its driver."""
    parsed = parse_build(build)
    if parsed is not None and parsed.kind is Kind.ROCM:
        gfx = catalog.gfx(parsed)
        return Conclusions(arch_list=tuple(sorted(gfx.names)) if gfx else (), toolkit=parsed.toolkit)
    if parsed is None or parsed.kind is not Kind.CUDA:
        return Conclusions()
    platform = target_of(capabilities, capabilities.python).platform or ""
    known = catalog.architectures(parsed, Version(torch.partition("+")[0]), platform)
    return Conclusions(
        arch_list=tuple(f"sm_{major}{minor}" for major, minor in known.codes) if known else (),
        toolkit=parsed.toolkit,
        driver_cuda=cuda_of_driver(capabilities, catalog),
    )
