"""Weighs what the probes read of NVIDIA's GPUs and driver: rules 2 to 6 of `conflicts`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from moondream_station.core.capabilities.probes.intel import IntelReading
from moondream_station.core.capabilities.probes.nvidia_driver import NvidiaDriverReading
from moondream_station.core.capabilities.probes.nvidia_smi import NvidiaSmiReading
from moondream_station.core.capabilities.probes.nvidia_smi_output import Trouble
from moondream_station.core.capabilities.probes.windows_gpus import WindowsReading
from moondream_station.core.facts.capabilities import Gpu, Outcome

_NVIDIA: Final = 0x10DE
_UNKNOWN: Final = Gpu(vendor="nvidia")

_NOTHING_USABLE: Final = frozenset(
    {Trouble.NO_DEVICES, Trouble.LOST, Trouble.UNREACHABLE, Trouble.NO_LIBRARY, Trouble.NOT_LOADED}
)
"""With these, no GPU can compute until something is repaired; with the others, one is hidden."""

_REMEDIES: Final = {
    Trouble.MISMATCH: "The NVIDIA driver and its library are out of step: restart the computer.",
    Trouble.NOT_LOADED: "The NVIDIA driver is not loaded, or not built for this kernel: reinstall it.",
    Trouble.NO_LIBRARY: "nvidia-smi does not find the NVIDIA driver's library: reinstall the driver.",
    Trouble.NO_PERMISSION: "This user has no permission to use the NVIDIA GPU (/dev/nvidia*).",
    Trouble.BLOCKED: "Windows blocks the GPU in WSL: update its Windows driver, then run `wsl --update`.",
    Trouble.NVML: "nvidia-smi can't reach the GPU: in a container, restart the container.",
    Trouble.LOST: "An NVIDIA GPU is lost and no longer answers on its bus: restart the computer.",
    Trouble.UNREACHABLE: "An NVIDIA GPU can't be reached: restart the computer.",
    Trouble.NO_DEVICES: "The NVIDIA driver finds no GPU that it can use.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Nvidia:
    """What holds of NVIDIA; the fields are those of `Capabilities`."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    driver_source: Literal["nvidia-smi", "proc", "sys", "wmi"] | None = None
    cuda: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    smi: NvidiaSmiReading | None
    kernel: NvidiaDriverReading | None
    bus: IntelReading | None
    windows: WindowsReading | None
    surroundings: Literal["wsl2", "jetson"] | None

    @property
    def kernel_driver(self) -> str | None:
        return self.kernel.version if self.kernel is not None else None

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        return self.smi.troubles if self.smi is not None else ()

    @property
    def is_smi_installed(self) -> bool:
        return self.smi is not None and self.smi.is_installed

    @property
    def adapters(self) -> tuple[Gpu, ...]:
        """NVIDIA's cards as Windows lists them."""
        listed = self.windows.gpus if self.windows is not None else ()
        cards = (gpu for gpu in listed if gpu.vendor == "nvidia")
        return tuple(replace(gpu, index=n) for n, gpu in enumerate(cards))

    @property
    def is_unanswered(self) -> bool:
        """Whether nvidia-smi hangs or can't reach the driver, so that others have to answer."""
        return self.smi is not None and self.smi.outcome in {Outcome.TIMED_OUT, Outcome.FAILED}


def weigh_nvidia(
    *,
    smi: NvidiaSmiReading | None,
    kernel: NvidiaDriverReading | None,
    bus: IntelReading | None,
    windows: WindowsReading | None,
    surroundings: Literal["wsl2", "jetson"] | None,
) -> Nvidia:
    """Decide which GPUs of NVIDIA's there are, and under which driver; None is a probe that was not asked."""
    evidence = _Evidence(smi=smi, kernel=kernel, bus=bus, windows=windows, surroundings=surroundings)
    nvidia = _with_driver(evidence)
    gpus = _gpus(evidence, nvidia)
    if surroundings == "jetson":
        gpus = tuple(replace(gpu, integrated=True) for gpu in gpus)
    known = replace(nvidia, gpus=gpus, cuda=smi.cuda if smi is not None else None)
    return replace(known, notes=tuple(_notes(evidence, known)))


def _with_driver(evidence: _Evidence) -> Nvidia:
    smi, kernel, windows = evidence.smi, evidence.kernel, evidence.windows
    if smi is not None and smi.driver is not None:
        return Nvidia(driver=smi.driver, driver_source="nvidia-smi")
    if kernel is not None and kernel.version is not None:
        return Nvidia(driver=kernel.version, driver_source=kernel.source)
    if windows is not None and windows.nvidia_driver is not None:
        return Nvidia(driver=windows.nvidia_driver, driver_source="wmi")
    return Nvidia()


def _gpus(evidence: _Evidence, nvidia: Nvidia) -> tuple[Gpu, ...]:
    if evidence.smi is not None and evidence.smi.gpus:
        return evidence.smi.gpus
    if evidence.surroundings == "jetson":
        return (replace(_UNKNOWN, index=0, name="NVIDIA Jetson"),)
    if nvidia.driver is None:
        return evidence.adapters or _on_bus(evidence)
    if _NOTHING_USABLE & set(evidence.troubles):
        return ()
    if evidence.is_unanswered and not evidence.adapters:
        return _on_bus(evidence) if _is_bus_known(evidence) else (replace(_UNKNOWN, index=0),)
    return evidence.adapters


def _is_bus_known(evidence: _Evidence) -> bool:
    return evidence.bus is not None and evidence.bus.bus_is_known


def _on_bus(evidence: _Evidence) -> tuple[Gpu, ...]:
    displays = evidence.bus.displays if evidence.bus is not None else ()
    cards = [display for display in displays if display.vendor == _NVIDIA]
    return tuple(replace(_UNKNOWN, index=n) for n, _ in enumerate(cards))


def _notes(evidence: _Evidence, known: Nvidia) -> Iterator[str]:
    smi, kernel_driver = evidence.smi, evidence.kernel_driver
    if smi is not None and smi.outcome is Outcome.TIMED_OUT:
        yield "nvidia-smi did not answer in time" + (
            f"; the kernel reports driver {kernel_driver}." if kernel_driver else "."
        )
    yield from (_REMEDIES[trouble] for trouble in evidence.troubles if _is_news(trouble, evidence, known))
    if smi is not None and smi.gpus and smi.driver and kernel_driver and smi.driver != kernel_driver:
        yield (
            f"nvidia-smi reports driver {smi.driver} and the kernel {kernel_driver}: they are out of step, "
            "restart the computer."
        )
    if smi is not None and smi.cuda_shown in {"N/A", "ERR!"}:
        yield (
            f"nvidia-smi shows {smi.cuda_shown} as CUDA version: the driver's CUDA library is missing. "
            "A container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility."
        )
    yield from _notes_without_tool(evidence, known)


def _is_news(trouble: Trouble, evidence: _Evidence, known: Nvidia) -> bool:
    """A tool without a driver and without a card, as on an image made for GPUs, is not worth a note."""
    if trouble not in {Trouble.NOT_LOADED, Trouble.NO_LIBRARY, Trouble.NO_DEVICES}:
        return True
    return bool(known.gpus or known.driver or _on_bus(evidence))


def _notes_without_tool(evidence: _Evidence, known: Nvidia) -> Iterator[str]:
    if evidence.is_smi_installed:
        return
    if evidence.kernel_driver is not None and not known.gpus:
        yield (
            f"The kernel has NVIDIA driver {evidence.kernel_driver}, but nvidia-smi is missing and no GPU "
            "can be reached: start the container with `--gpus all`, or install the rest of the driver."
        )
    if known.gpus and known.driver is None and evidence.surroundings != "jetson":
        yield "An NVIDIA GPU was found without an NVIDIA driver: install the driver."
