"""Snapshots of machines, made from a few facts, for tests of what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date
from typing import Literal

from moondream_station.core.builds.catalog import Catalog, load_catalog
from moondream_station.core.builds.offers import Offer, offer_from_wheel
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.builds.trials import NO_TRIALS, Trials
from moondream_station.core.facts.capabilities import Capabilities, Gpu, Outcome, ProbeReport
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import SelectionResult, select

SMI_FOUND = ProbeReport(probe="nvidia_smi", outcome=Outcome.FOUND, seconds=0.1, detail="listed")


def nvidia(
    capability: str | None, name: str | None = None, *, index: int = 0, memory: int | None = None
) -> Gpu:
    """An NVIDIA GPU."""
    return Gpu(vendor="nvidia", index=index, name=name, architecture=capability, memory_bytes=memory)


def amd(gfx: str | None, name: str | None = None, *, index: int = 0, integrated: bool = False) -> Gpu:
    """An AMD GPU."""
    return Gpu(vendor="amd", index=index, name=name, architecture=gfx, integrated=integrated)


def intel(device: str, name: str | None = None, *, index: int = 0) -> Gpu:
    """An Intel GPU by its PCI device id."""
    return Gpu(vendor="intel", index=index, name=name, architecture=device, architecture_source="pci")


def linux(
    *gpus: Gpu,
    driver: str | None = None,
    cuda: str | None = None,
    machine: str = "x86_64",
    libc: tuple[str, str] = ("glibc", "2.39"),
    variables: Mapping[str, str] | None = None,
    surroundings: Literal["wsl2", "jetson"] | None = None,
    nvcc: str | None = None,
    probes: tuple[ProbeReport, ...] = (SMI_FOUND,),
) -> Capabilities:
    """A machine with Linux."""
    return Capabilities(
        system="Linux",
        release="6.8.0-45-generic",
        machine=machine,
        python="3.12.3",
        libc=libc,
        gpus=gpus,
        nvidia_driver=driver,
        nvidia_cuda=cuda,
        variables=dict(variables or {}),
        surroundings=surroundings,
        nvcc=nvcc,
        probes=probes,
    )


def windows(
    *gpus: Gpu, driver: str | None = None, cuda: str | None = None, machine: str = "AMD64"
) -> Capabilities:
    """A machine with Windows."""
    return Capabilities(
        system="Windows",
        release="11",
        machine=machine,
        python="3.12.3",
        gpus=gpus,
        nvidia_driver=driver,
        nvidia_cuda=cuda,
        probes=(SMI_FOUND,),
    )


def macos(version: str | None, *, machine: str = "arm64", silicon: bool = True) -> Capabilities:
    """A Mac; an x86-64 Python on Apple silicon is translated."""
    return Capabilities(
        system="Darwin",
        release="24.1.0",
        machine=machine,
        python="3.12.3",
        macos_version=version,
        apple_silicon=silicon,
        in_rosetta=silicon and machine == "x86_64",
        gpus=(Gpu(vendor="apple", index=0, name="Apple M2", integrated=True),) if silicon else (),
    )


def plan(
    capabilities: Capabilities,
    *requirements: str,
    strategy: str = "auto",
    python: str = "3.12.3",
    offers: Iterable[Offer] | None = None,
    catalog: Catalog | None = None,
    trials: Trials = NO_TRIALS,
    today: date | None = None,
) -> SelectionResult:
    """What is selected there; from the catalog alone unless offers are given."""
    request = BuildRequest(
        capabilities=capabilities,
        requirements=parse_requirement_args(requirements or ("torch",)),
        python=python,
        strategy=strategy,
        catalog=catalog or load_catalog(),
        trials=trials,
        today=today,
    )
    return select(request, request.catalog_offers() if offers is None else tuple(offers))


def chosen(result: SelectionResult) -> tuple[str | None, str | None]:
    """The build and the torch of a selection."""
    return result.selection.build, result.selection.torch


def reason_for(result: SelectionResult, build: str) -> str:
    """What a selection says of a build."""
    return next(one.reason for one in result.selection.candidates if one.build == build)


def wheel(
    filename: str,
    *,
    folder: str = "https://mirror.example/whl",
    source: Literal["index", "find-links", "default"] = "index",
) -> Offer:
    """The offer that a wheel on a mirror, in a folder or on the user's own index is."""
    build = filename.partition("+")[2].partition("-")[0] or "cpu"
    offer = offer_from_wheel(filename, catalog=load_catalog(), source=source)
    assert offer is not None
    return replace(
        offer,
        index_url=f"{folder}/{build}" if source == "index" else None,
        find_links=folder if source == "find-links" else None,
        url=f"{folder}/{filename}",
    )
