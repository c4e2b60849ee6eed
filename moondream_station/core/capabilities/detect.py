"""Detects the machine: all probes at once, and one snapshot of what they read.

Where they contradict each other, these rules decide, each with its test:

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

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, Literal, TypeVar

import anyio
import anyio.lowlevel

from moondream_station.core.builds.naming import last_driver, numbers
from moondream_station.core.capabilities.probes import adapters, nvidia
from moondream_station.core.capabilities.probes.probe import (
    MACOS,
    NVCC,
    PLATFORM,
    SYSCTL,
    Probe,
    Reading,
    SysctlReading,
    one_line,
)
from moondream_station.core.facts.capabilities import (
    BUS_ALONE,
    UNSUPPORTED,
    Capabilities,
    Gpu,
    Outcome,
    ProbeReport,
    Vendor,
)
from moondream_station.core.facts.errors import StationError
from moondream_station.core.home.log import Log
from moondream_station.core.home.task_groups import accompanied, together
from moondream_station.core.machine.machine import Machine, PlatformFacts
from moondream_station.core.machine.record import Recorder

PROBES: Final = (
    *(PLATFORM, nvidia.NVIDIA_SMI, nvidia.NVIDIA_DRIVER, NVCC, SYSCTL, MACOS),
    *(adapters.AMD, adapters.INTEL, adapters.WINDOWS_GPUS),
)
"""Every probe, in the order in which reports list them."""

SLOW_AFTER_SECONDS: Final = 2.0
"""A probe that takes longer is reported by name."""

SPARE_AFTER_SECONDS: Final = 2.0
"""How long nvidia-smi is waited for where kernel and bus tell the same."""

_VENDOR_IDS: Mapping[Vendor, int] = {"nvidia": 0x10DE, "amd": 0x1002}
_TEGRA = re.compile(r"\(nvgpu\)|\b(Tegra|Xavier|Orin|Thor)\b")  # as nvidia-smi calls them from JetPack 5 on
_UNKNOWN: Final = Gpu(vendor="nvidia")
_OF_AN_IMAGE: Final = {nvidia.Trouble.NOT_LOADED, nvidia.Trouble.NO_LIBRARY, nvidia.Trouble.NO_DEVICES}
_UNANSWERED: Final = frozenset({Outcome.TIMED_OUT, Outcome.FAILED})
_ROSETTA: Mapping[bool | None, str] = {
    True: "This Python is an x86-64 build that runs under Rosetta; the Mac's GPU needs an arm64 Python.",
    None: (
        "Whether this is an Intel Mac, or an x86-64 Python under Rosetta on Apple silicon, could not be "
        "detected; on Apple silicon, use an arm64 Python for the GPU."
    ),
}

R = TypeVar("R", bound=Reading)

_log = Log()


async def detect(
    machine: Machine,
    *,
    on_probe: Callable[[ProbeReport], None],
    on_slow: Callable[[str], None] = lambda probe: _log.warning("probe.slow", probe=probe),
    probes: tuple[Probe, ...] = PROBES,
    slow_after_seconds: float = SLOW_AFTER_SECONDS,
    spare_after_seconds: float = SPARE_AFTER_SECONDS,
) -> Capabilities:
    """Ask the system's probes at once and make one snapshot of their answers, with reports in their order.

    It takes no longer than the longest deadline. Nothing that the machine answers makes it raise.
    """
    asked = [probe for probe in probes if probe.system in {None, machine.facts.system}]
    readings: dict[str, Reading] = {}
    reports: dict[str, ProbeReport] = {}
    started = anyio.current_time()
    deadlines = {probe.name: anyio.CancelScope() for probe in asked}

    async def ask(probe: Probe) -> None:
        began = time.perf_counter()
        reading = readings[probe.name] = await _read(probe, machine, deadlines[probe.name])
        seconds = time.perf_counter() - began
        report = ProbeReport(
            probe=probe.name, outcome=reading.outcome, seconds=seconds, detail=reading.detail
        )
        reports[probe.name] = report
        on_probe(report)
        # The tool that may hang is waited for no longer once its answer could not change the choice.
        if (waiting := deadlines.get(nvidia.NVIDIA_SMI.name)) and is_smi_spare(machine.facts, readings):
            waiting.deadline = min(waiting.deadline, started + spare_after_seconds)

    async def name_slow_ones() -> None:
        await anyio.sleep(slow_after_seconds)
        for probe in asked:
            if probe.name not in reports:
                on_slow(probe.name)

    await accompanied(lambda: together(*(partial(ask, probe) for probe in asked)), by=name_slow_ones)
    in_order = tuple(reports[probe.name] for probe in asked)
    return combine(machine.facts, machine.variables, readings, in_order)


async def _read(probe: Probe, machine: Machine, within: anyio.CancelScope) -> Reading:
    recorder = Recorder(machine)
    failure, began = "", anyio.current_time()
    within.deadline = began + probe.deadline_seconds
    with within:
        failure = await _ask(probe, recorder)
    reading = probe.read(recorder.record)
    if within.cancelled_caught and reading.outcome is not Outcome.TIMED_OUT:
        late = f"not finished after {within.deadline - began:.0f} s; so far: {reading.detail}"
        return replace(reading, outcome=Outcome.TIMED_OUT, detail=one_line(late))
    if failure:
        return replace(reading, outcome=Outcome.FAILED, detail=one_line(failure))
    return reading


async def _ask(probe: Probe, machine: Machine) -> str:
    """What could not even be asked is returned in words."""
    failures: list[BaseException] = []
    try:
        await probe.ask(machine)
    except* (OSError, StationError) as errors:
        failures = _leaves(errors)
    await anyio.lowlevel.checkpoint()
    return "; ".join(str(error) or type(error).__name__ for error in failures)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


class _Evidence:
    """The readings of a machine's probes; those of one that was not asked say nothing."""

    def __init__(self, facts: PlatformFacts, readings: Mapping[str, Reading]) -> None:
        def of(probe: str, kind: type[R]) -> R:
            reading = readings.get(probe)
            return reading if isinstance(reading, kind) else kind()

        self.facts = facts
        self.smi = of("nvidia_smi", nvidia.NvidiaSmiReading)
        self.bus = of("intel", adapters.IntelReading)
        self.sysctl = of("sysctl", SysctlReading)
        self.kernel = of("nvidia_driver", Reading)
        self.windows = of("windows_gpus", Reading)
        self.amd = of("amd", Reading)
        self.macos = of("macos", Reading)
        self.toolkit = of("nvcc", Reading).version

    @property
    def surroundings(self) -> Literal["wsl2", "jetson"] | None:
        release = self.facts.release.lower()
        if "microsoft" in release:
            return "wsl2"
        # NVIDIA's kernel is named -tegra, Yocto's meta-tegra's -l4t-; under others the GPU tells.
        is_tegra = any(_TEGRA.search(gpu.name or "") for gpu in self.smi.gpus)
        is_jetson = "tegra" in release or "l4t" in release or is_tegra
        return "jetson" if is_jetson else None

    def listed(self, vendor: Vendor) -> tuple[Gpu, ...]:
        """A vendor's cards as Windows lists them."""
        return _numbered(gpu for gpu in self.windows.gpus if gpu.vendor == vendor)

    def on_bus(self, vendor: Vendor) -> tuple[Gpu, ...]:
        """A vendor's cards as the bus shows them."""
        cards = [card for card in self.bus.displays if card.vendor == _VENDOR_IDS[vendor]]
        if vendor == "nvidia":
            return _numbered(adapters.nvidia_gpu(card.device) for card in cards)
        return _numbered(Gpu(vendor=vendor) for _ in cards)


def is_smi_spare(facts: PlatformFacts, readings: Mapping[str, Reading]) -> bool:
    """Whether nvidia-smi could not change the choice: kernel and bus tell one driver and one architecture."""
    evidence = _Evidence(facts, readings)
    architectures = {gpu.architecture for gpu in evidence.on_bus("nvidia")}
    is_known = evidence.bus.bus_is_known and len(architectures) == 1 and None not in architectures
    return evidence.kernel.version is not None and is_known


def _numbered(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    return tuple(replace(gpu, index=n) for n, gpu in enumerate(gpus))


def combine(
    facts: PlatformFacts,
    variables: Mapping[str, str],
    readings: Mapping[str, Reading],
    reports: tuple[ProbeReport, ...],
) -> Capabilities:
    """Make the snapshot from the readings by probe; one that was not asked is missing."""
    evidence = _Evidence(facts, readings)
    driver, source = _driver(evidence)
    cards = _nvidia_gpus(evidence, driver)
    capabilities = Capabilities(
        system=facts.system,
        release=facts.release,
        version=facts.version,
        machine=facts.machine,
        python=facts.python,
        libc=facts.libc,
        surroundings=evidence.surroundings,
        gpus=(*cards, *_other_gpus(evidence)),
        nvidia_driver=driver,
        nvidia_driver_source=source,
        nvidia_cuda=evidence.smi.cuda,
        nvcc=evidence.toolkit,
        variables=dict(variables),
        probes=reports,
        notes=tuple(_nvidia_notes(evidence, driver, cards)),
    )
    return _as_mac(capabilities, evidence) if facts.system == "Darwin" else capabilities


def _driver(evidence: _Evidence) -> tuple[str | None, str | None]:
    if evidence.smi.version is not None:
        return evidence.smi.version, "nvidia-smi"
    if evidence.kernel.version is not None:
        return evidence.kernel.version, evidence.kernel.source
    return evidence.windows.version, "wmi" if evidence.windows.version is not None else None


def _nvidia_gpus(evidence: _Evidence, driver: str | None) -> tuple[Gpu, ...]:
    smi, in_windows = evidence.smi, evidence.listed("nvidia")
    if evidence.surroundings == "jetson":
        gpus = smi.gpus or (replace(_UNKNOWN, index=0, name="NVIDIA Jetson"),)
        return tuple(replace(gpu, integrated=True) for gpu in gpus)
    if smi.gpus:
        return smi.gpus
    if driver is None:
        return in_windows or evidence.on_bus("nvidia")
    if any(trouble.hides_all for trouble in smi.troubles):
        has_ended = numbers(driver) >= (590,)  # the branch after `last_driver`
        ended = [card for card in evidence.on_bus("nvidia") if has_ended and last_driver(card.architecture)]
        return tuple(replace(card, architecture_source=UNSUPPORTED) for card in ended)
    if smi.outcome in _UNANSWERED and not in_windows:
        return evidence.on_bus("nvidia") if evidence.bus.bus_is_known else (replace(_UNKNOWN, index=0),)
    return in_windows


def _nvidia_notes(evidence: _Evidence, driver: str | None, gpus: tuple[Gpu, ...]) -> Iterator[str]:
    smi, in_kernel = evidence.smi, evidence.kernel.version
    if smi.outcome is Outcome.TIMED_OUT:
        so_far = f"; the kernel reports driver {in_kernel}." if in_kernel else "."
        yield f"nvidia-smi did not answer in time{so_far}"
    # A tool without a driver and without a card, as on an image made for GPUs, is not worth a note.
    is_there = bool(gpus or driver or evidence.on_bus("nvidia"))
    yield from (trouble.remedy for trouble in smi.troubles if is_there or trouble not in _OF_AN_IMAGE)
    if smi.gpus and smi.version and in_kernel and smi.version != in_kernel:
        remedy = "they are out of step, restart the computer"
        yield f"nvidia-smi reports driver {smi.version} and the kernel {in_kernel}: {remedy}."
    if smi.cuda_shown and not smi.cuda:
        remedy = "A container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        missing = "the driver's CUDA library is missing"
        yield f"nvidia-smi shows {smi.cuda_shown} as CUDA version: {missing}. {remedy}."
    if not smi.is_installed and in_kernel and not gpus:
        remedy = "start the container with `--gpus all`, or install the rest of the driver"
        missing = "nvidia-smi is missing and no GPU can be reached"
        yield f"The kernel has NVIDIA driver {in_kernel}, but {missing}: {remedy}."
    # Nothing is built for less than 3.7, so that a driver would not help.
    may_help = [gpu for gpu in gpus if not gpu.architecture or numbers(gpu.architecture) >= (3, 7)]
    if not smi.is_installed and may_help and driver is None and evidence.surroundings != "jetson":
        yield "An NVIDIA GPU was found without an NVIDIA driver: install the driver."
    if evidence.toolkit and driver is None:
        yield f"CUDA toolkit {evidence.toolkit} is installed without a driver; it is ignored."


def _other_gpus(evidence: _Evidence) -> tuple[Gpu, ...]:
    amd = evidence.amd.gpus or evidence.listed("amd")
    if not amd and evidence.amd.outcome is Outcome.ABSENT:
        amd = tuple(replace(gpu, architecture_source=BUS_ALONE) for gpu in evidence.on_bus("amd"))
    return (*amd, *(evidence.bus.gpus or evidence.listed("intel")))


def _as_mac(capabilities: Capabilities, evidence: _Evidence) -> Capabilities:
    facts, sysctl = evidence.facts, evidence.sysctl
    brand = sysctl.brand or ""
    # "Apple M2", "Apple processor" on early systems; under Rosetta "VirtualApple @ 2.50GHz", whichever it is
    is_branded = brand.startswith(("Apple", "VirtualApple"))
    silicon = bool(
        facts.machine == "arm64" or facts.in_rosetta or sysctl.has_arm64 or sysctl.is_translated or is_branded
    )
    in_rosetta: bool | None = silicon and facts.machine != "arm64"
    if not silicon and not brand:
        in_rosetta = facts.in_rosetta
    name = brand if brand.startswith("Apple") else "Apple silicon"
    gpu = Gpu(vendor="apple", index=0, name=name, integrated=True)
    versions = filter(None, (facts.mac_ver, evidence.macos.version))
    return replace(
        capabilities,
        macos_version=max(versions, key=numbers, default=None),
        apple_silicon=silicon,
        in_rosetta=in_rosetta,
        cpu_brand=sysctl.brand,
        memory_bytes=sysctl.memory_bytes,
        gpus=(*capabilities.gpus, gpu) if silicon else capabilities.gpus,
        notes=capabilities.notes if in_rosetta is False else (*capabilities.notes, _ROSETTA[in_rosetta]),
    )
