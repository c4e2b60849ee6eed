"""Combines what the probes read into one snapshot, by rules where they contradict each other. Pure.

The rules, each with its test:

1. A CUDA toolkit without a driver is ignored, and its version never chooses a build.
2. NVIDIA's GPUs and driver are those that nvidia-smi lists; "CUDA Version" is what the driver supports at
   most.
3. Where nvidia-smi hangs or can't reach the driver (out of step with its library, NVML failing, no
   permission), the kernel's file tells the driver, Windows' adapters stand in where there are such, and the
   PCI bus tells the cards; their capabilities are unknown.
4. Where nvidia-smi works and lists nothing, or is not installed while the kernel shows the driver (as in a
   container that was started without its GPU), there is no GPU to compute on, whatever the bus shows.
5. A card on the bus without any driver is a GPU without a driver: CUDA builds are refused for that reason.
6. A lost or unreachable GPU is none; those beside it count.
7. An x86-64 Python on Apple silicon is translated by Rosetta, whichever probe tells of the one or the other.
8. Of two macOS versions the higher one is true: 10.16 is what old programs are told.
9. A card of AMD's that the bus alone shows (no KFD) is a GPU without a driver: ROCm's builds are refused for
   that reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from moondream_station.core.capabilities.nvidia_evidence import Nvidia, weigh_nvidia
from moondream_station.core.capabilities.probes.amd import AmdReading
from moondream_station.core.capabilities.probes.intel import IntelReading
from moondream_station.core.capabilities.probes.nvidia_driver import NvidiaDriverReading
from moondream_station.core.capabilities.probes.nvidia_smi import NvidiaSmiReading
from moondream_station.core.capabilities.probes.probe import Reading
from moondream_station.core.capabilities.probes.sysctl import SysctlReading
from moondream_station.core.capabilities.probes.versions import MacosReading, NvccReading
from moondream_station.core.capabilities.probes.windows_gpus import WindowsReading
from moondream_station.core.facts.capabilities import BUS_ALONE, Capabilities, Gpu, Outcome, ProbeReport
from moondream_station.core.machine.protocol import PlatformFacts

_AMD = 0x1002
_ROSETTA: Mapping[bool | None, str] = {
    True: "This Python is an x86-64 build that runs under Rosetta; the Mac's GPU needs an arm64 Python.",
    None: (
        "Whether this is an Intel Mac, or an x86-64 Python under Rosetta on Apple silicon, could not be "
        "detected; on Apple silicon, use an arm64 Python for the GPU."
    ),
}

R = TypeVar("R", bound=Reading)
Surroundings = Literal["wsl2", "jetson"]


def combine(
    facts: PlatformFacts,
    variables: Mapping[str, str],
    readings: Iterable[Reading],
    reports: tuple[ProbeReport, ...],
) -> Capabilities:
    """Make the snapshot; the reading of a probe that was not asked is missing."""
    read = tuple(readings)
    surroundings = _surroundings(facts)
    nvidia = weigh_nvidia(
        smi=_one(read, NvidiaSmiReading),
        kernel=_one(read, NvidiaDriverReading),
        bus=_one(read, IntelReading),
        windows=_one(read, WindowsReading),
        surroundings=surroundings,
    )
    apple = _apple(facts, _one(read, SysctlReading), _one(read, MacosReading))
    nvcc = _one(read, NvccReading)
    toolkit = nvcc.version if nvcc is not None else None
    return Capabilities(
        system=facts.system,
        release=facts.release,
        machine=facts.machine,
        python=facts.python,
        libc=facts.libc,
        macos_version=apple.macos_version,
        in_rosetta=apple.in_rosetta,
        apple_silicon=apple.silicon,
        cpu_brand=apple.brand,
        memory_bytes=apple.memory_bytes,
        surroundings=surroundings,
        gpus=(*nvidia.gpus, *_other_gpus(read), *apple.gpus),
        nvidia_driver=nvidia.driver,
        nvidia_driver_source=nvidia.driver_source,
        nvidia_cuda=nvidia.cuda,
        nvcc=toolkit,
        variables=dict(variables),
        probes=reports,
        notes=(*nvidia.notes, *_toolkit_notes(toolkit, nvidia), *apple.notes),
    )


def _one(readings: tuple[Reading, ...], kind: type[R]) -> R | None:
    return next((reading for reading in readings if isinstance(reading, kind)), None)


def _surroundings(facts: PlatformFacts) -> Surroundings | None:
    release = facts.release.lower()
    if "microsoft" in release:
        return "wsl2"
    return "jetson" if "tegra" in release else None


def _toolkit_notes(toolkit: str | None, nvidia: Nvidia) -> tuple[str, ...]:
    if toolkit is None or nvidia.driver is not None:
        return ()
    return (f"CUDA toolkit {toolkit} is installed without a driver; it is ignored.",)


def _other_gpus(readings: tuple[Reading, ...]) -> tuple[Gpu, ...]:
    """AMD's and Intel's: from the kernel, else as Windows lists them or the bus shows them."""
    windows = _one(readings, WindowsReading)
    amd = _one(readings, AmdReading)
    intel = _one(readings, IntelReading)
    listed = windows.gpus if windows is not None else ()
    return (
        *(amd.gpus if amd is not None and amd.gpus else _of((*listed, *_amd_on_bus(amd, intel)), "amd")),
        *(intel.gpus if intel is not None and intel.gpus else _of(listed, "intel")),
    )


def _amd_on_bus(amd: AmdReading | None, bus: IntelReading | None) -> tuple[Gpu, ...]:
    if amd is None or bus is None or amd.outcome is not Outcome.ABSENT:
        return ()
    cards = (display for display in bus.displays if display.vendor == _AMD)
    return tuple(Gpu(vendor="amd", architecture_source=BUS_ALONE) for _ in cards)


def _of(gpus: tuple[Gpu, ...], vendor: str) -> tuple[Gpu, ...]:
    chosen = (gpu for gpu in gpus if gpu.vendor == vendor)
    return tuple(replace(gpu, index=n) for n, gpu in enumerate(chosen))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Apple:
    macos_version: str | None = None
    silicon: bool = False
    in_rosetta: bool | None = None
    brand: str | None = None
    memory_bytes: int | None = None
    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()


def _apple(facts: PlatformFacts, sysctl: SysctlReading | None, macos: MacosReading | None) -> _Apple:
    if facts.system != "Darwin":
        return _Apple()
    brand = sysctl.brand if sysctl is not None else None
    silicon = _is_apple_silicon(facts, sysctl)
    in_rosetta = _is_in_rosetta(facts, sysctl, silicon=silicon)
    # Rosetta makes it "VirtualApple @ 2.50GHz", whichever it is.
    name = brand if brand is not None and brand.startswith("Apple") else "Apple silicon"
    gpu = Gpu(vendor="apple", index=0, name=name, integrated=True)
    versions = (facts.mac_ver, macos.version if macos is not None else None)
    return _Apple(
        macos_version=max((version for version in versions if version), key=_numbers, default=None),
        silicon=silicon,
        in_rosetta=in_rosetta,
        brand=brand,
        memory_bytes=sysctl.memory_bytes if sysctl is not None else None,
        gpus=(gpu,) if silicon else (),
        notes=() if in_rosetta is False else (_ROSETTA[in_rosetta],),
    )


def _is_apple_silicon(facts: PlatformFacts, sysctl: SysctlReading | None) -> bool:
    if facts.machine == "arm64" or facts.in_rosetta:
        return True
    if sysctl is None:
        return False
    # "Apple M2", "Apple processor" on early systems, "VirtualApple @ 2.50GHz" under Rosetta
    is_branded = sysctl.brand is not None and sysctl.brand.startswith(("Apple", "VirtualApple"))
    return bool(sysctl.has_arm64 or sysctl.is_translated or is_branded)


def _is_in_rosetta(facts: PlatformFacts, sysctl: SysctlReading | None, *, silicon: bool) -> bool | None:
    if facts.machine == "arm64":
        return False
    if silicon:
        return True
    return False if sysctl is not None and sysctl.brand is not None else facts.in_rosetta


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isascii() and part.isdigit())
