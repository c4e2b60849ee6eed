"""The frozen snapshot that all probes together give: facts only; conclusions are drawn elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Vendor = Literal["nvidia", "amd", "intel", "apple"]

BUS_ALONE = "bus"
"""The source of a GPU that the PCI bus shows, or a tool of its maker's, without a driver to compute by."""

UNSUPPORTED = "unsupported"
"""The source of a GPU that the PCI bus shows, and that the driver is too new for."""


class Outcome(StrEnum):
    """The outcome of a probe. "Could not find out" (failed, timed_out) is not "not there" (absent)."""

    FOUND = "found"
    ABSENT = "absent"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """One probe's answer in words.

    Args:
        probe: The probe's name, as docs/reference names it (`nvidia_smi`, `nvcc`, …).
        outcome: Its outcome.
        seconds: Wall-clock seconds from its start to its end.
        detail: What it saw, one line, nothing private.
    """

    probe: str
    outcome: Outcome
    seconds: float
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, of any vendor.

    Args:
        vendor: Who made it.
        index: The position its own tool gives it, from 0; None where no tool does.
        name: Its marketing name, None where unknown.
        architecture: NVIDIA: compute capability ("8.9"). AMD: gfx name ("gfx1100"), on Windows PCI device id.
            Intel: PCI device id ("0x56a0"). Apple: None. None where it could not be detected.
        architecture_source: Where the architecture comes from ("nvidia-smi", "name", "kfd",
            "rocm_agent_enumerator", "pci"); "bus" where the bus alone shows the GPU: it has no driver.
        memory_bytes: Its own memory, None where unknown or shared with the CPU.
        driver: Its driver's version as Windows numbers it, for AMD and Intel; None elsewhere.
        integrated: Whether it is part of the CPU, None where unknown.
    """

    vendor: Vendor
    index: int | None = None
    name: str | None = None
    architecture: str | None = None
    architecture_source: str | None = None
    memory_bytes: int | None = None
    integrated: bool | None = None
    driver: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the machine is and has, each fact with its source where sources can differ.

    Args:
        system: `platform.system()`: Linux, Darwin or Windows.
        release: `platform.release()`, the kernel's.
        version: `platform.version()`, the kernel's build.
        machine: `platform.machine()` (x86_64, AMD64, aarch64, arm64).
        python: Version of the Python that environments are made from ("3.11.7").
        libc: Name and version ("glibc", "2.39"), or ("", "") where there is none.
        macos_version: "14.5" on macOS, else None.
        in_rosetta: Whether an x86-64 Python is translated on Apple silicon; None where it does not apply.
        apple_silicon: Whether the CPU is Apple's own, also under Rosetta.
        cpu_brand: The CPU's name where a probe told it.
        memory_bytes: Main memory, None where no probe told it.
        surroundings: "wsl2", "jetson" or None.
        gpus: Every GPU found, in the order of its own tool; visibility variables are not applied.
        nvidia_driver: Driver version as its source prints it ("535.183.01"), None where there is no driver.
        nvidia_driver_source: "nvidia-smi", "proc", "sys", or "wmi".
        nvidia_cuda: The highest CUDA the driver supports, from nvidia-smi's header ("12.2"), None if unknown.
        nvcc: Version of the CUDA toolkit ("13.0"); it never chooses a build.
        variables: The recorded environment variables that are set (visibility and overrides).
        probes: The outcome of each probe.
        notes: Conflicts and warnings, one sentence each.
    """

    system: str
    release: str
    machine: str
    python: str
    version: str = ""
    libc: tuple[str, str] = ("", "")
    macos_version: str | None = None
    in_rosetta: bool | None = None
    apple_silicon: bool = False
    cpu_brand: str | None = None
    memory_bytes: int | None = None
    surroundings: Literal["wsl2", "jetson"] | None = None
    gpus: tuple[Gpu, ...] = ()
    nvidia_driver: str | None = None
    nvidia_driver_source: str | None = None
    nvidia_cuda: str | None = None
    nvcc: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    probes: tuple[ProbeReport, ...] = ()
    notes: tuple[str, ...] = ()

    def gpus_of(self, vendor: Vendor) -> tuple[Gpu, ...]:
        """The GPUs of one vendor, in order."""
        return tuple(gpu for gpu in self.gpus if gpu.vendor == vendor)

    def outcome_of(self, probe: str) -> Outcome | None:
        """The outcome of a probe, None where it was not asked."""
        return next((report.outcome for report in self.probes if report.probe == probe), None)
