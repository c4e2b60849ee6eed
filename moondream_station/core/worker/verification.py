"""What torch reported inside a worker, held against what was planned, and what a difference means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from moondream_station.core.facts.errors import VerificationFailed
from moondream_station.core.facts.events import Mismatch, VerificationReport
from moondream_station.core.selection.conclusions import Conclusions
from moondream_station.core.worker.torch_check import device_of

_FAILING = frozenset({"torch", "build", "device", "compute_ok"})

# Texts of the CUDA runtime (cudaGetErrorString and its numbers, CUDA Runtime API reference, Error Handling),
# of NVML and of the HIP runtime, as torch repeats them. No build cures any of these.
_OF_THE_SYSTEM: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"driver/library version mismatch|error 803|unsupported display driver", re.IGNORECASE),
        "The NVIDIA driver and its libraries are of different versions: restart the computer.",
    ),
    (
        re.compile(r"error 802|system not yet initialized", re.IGNORECASE),
        "NVIDIA's fabric manager is not running: start it (`systemctl start nvidia-fabricmanager`).",
    ),
    (
        re.compile(r"busy or unavailable|exclusive.*(thread|process)", re.IGNORECASE),
        "Another program has the GPU to itself: end it, or wait for it.",
    ),
    (
        re.compile(r"out of memory", re.IGNORECASE),
        "The GPU's memory is full: end what uses it (`nvidia-smi` lists it).",
    ),
    (
        re.compile(r"permission denied|operation not permitted|insufficient permission", re.IGNORECASE),
        "This user may not use the GPU: on Linux, join the groups `video` and `render`, and log in again.",
    ),
    (
        re.compile(r"error 999|cuda unknown error", re.IGNORECASE),
        "The driver is in a bad state, often after a suspend: restart the computer.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What an environment was made for.

    Args:
        build: The build ("cpu", "cu126", "mps"), None for a backend without torch.
        torch: The planned torch version; a local part ("+cpu") is not compared. None: any.
        conclusions: What the build was chosen for; a report that differs from it fails nothing.
    """

    build: str | None
    torch: str | None = None
    conclusions: Conclusions = field(default_factory=Conclusions)

    @property
    def device(self) -> str | None:
        """The kind of device that the build computes on, None without torch."""
        return None if self.build is None else device_of(self.build)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """A worker's report and where it differs from the plan."""

    report: VerificationReport
    mismatches: tuple[Mismatch, ...]
    detail: str | None

    @property
    def failures(self) -> tuple[Mismatch, ...]:
        """The mismatches with which the environment can't be used."""
        return tuple(mismatch for mismatch in self.mismatches if mismatch.field in _FAILING)

    @property
    def is_ok(self) -> bool:
        """Whether torch computes as planned. A wrong row in the catalog is no reason against that."""
        return not self.failures


def checked(verification: Verification) -> Verification:
    """The verification, where everything is as planned."""
    if not verification.is_ok:
        raise verification_failure(verification)
    return verification


def verification_failure(verification: Verification) -> VerificationFailed:
    """The error for a verification that is not as planned."""
    said = verification.detail or ""
    wrong = "; ".join(
        f"{mismatch.field} should be {mismatch.planned}, is {mismatch.found}"
        for mismatch in verification.failures
    )
    message = f"Torch does not work as planned: {wrong}." + (f" It said: {said}" if said else "")
    for pattern, remedy in _OF_THE_SYSTEM:
        if pattern.search(said):
            return VerificationFailed(message, hint=remedy, is_curable=False)
    return VerificationFailed(message, hint="`moondream-station logs` shows what the worker wrote.")


def report_from(data: Mapping[str, Any]) -> VerificationReport:
    """A report out of a worker's frame; fields that it does not name stay None.

    Raises:
        ValueError: A field that `VerificationReport` does not have, or one of another type.
    """
    known = {item.name for item in fields(VerificationReport)}
    if not known.issuperset(data):
        raise ValueError(f"unknown fields {sorted(set(data) - known)} in a verification report")
    given = {name: value for name, value in data.items() if value is not None}
    arch_list = given.pop("arch_list", [])
    for name, value in given.items():
        if not isinstance(value, _TYPES[name]):
            raise ValueError(f"{name} is {value!r} in a verification report")  # noqa: TRY004  the pipe's word
    if not isinstance(arch_list, list):
        raise ValueError(f"arch_list is {arch_list!r} in a verification report")  # noqa: TRY004
    return VerificationReport(**given, arch_list=tuple(map(str, arch_list)))


def compare(
    plan: WorkerPlan, report: VerificationReport, *, driver_cuda: str | None = None
) -> tuple[Mismatch, ...]:
    """Every field in which the report is not what was planned, in the order they should be read.

    Args:
        plan: What was planned, and from what it was concluded.
        report: Torch's words.
        driver_cuda: The highest CUDA that the driver under this torch supports, None where it did not tell.
    """
    if plan.build is None:
        return ()
    found = []
    if report.torch is None or (plan.torch is not None and _public(report.torch) != _public(plan.torch)):
        found.append(Mismatch(field="torch", planned=plan.torch, found=report.torch))
    if report.build != plan.build:
        found.append(Mismatch(field="build", planned=plan.build, found=report.build))
    if report.device != plan.device:
        found.append(Mismatch(field="device", planned=plan.device, found=report.device))
    if report.compute_ok is not True:
        said = None if report.compute_ok is None else "false"
        found.append(Mismatch(field="compute_ok", planned="true", found=said))
    if report.build == plan.build and report.device == plan.device:
        found += _otherwise_than_concluded(plan.conclusions, report, driver_cuda)
    return tuple(found)


def _otherwise_than_concluded(
    thought: Conclusions, report: VerificationReport, driver_cuda: str | None
) -> Iterator[Mismatch]:
    """Where torch contradicts the catalog or detection; what one side does not know is no contradiction."""
    architectures = _architectures(report.arch_list)
    if thought.arch_list and architectures and architectures != _architectures(thought.arch_list):
        told = ", ".join(report.arch_list)
        yield Mismatch(field="arch_list", planned=", ".join(thought.arch_list), found=told)
    carried = report.cuda_version
    if thought.toolkit and carried and _minor(carried) != _minor(thought.toolkit):
        yield Mismatch(field="cuda_version", planned=thought.toolkit, found=carried)
    if thought.driver_cuda and driver_cuda and _minor(driver_cuda) != _minor(thought.driver_cuda):
        yield Mismatch(field="driver", planned=f"CUDA {thought.driver_cuda}", found=f"CUDA {driver_cuda}")


def _architectures(listed: Iterable[str]) -> frozenset[str]:
    """A list without PTX ("compute_90"), variants ("sm_90a") and features ("gfx90a:xnack-")."""
    names = (name.partition(":")[0] for name in listed if not name.startswith("compute_"))
    return frozenset(name.rstrip("af") if name.startswith("sm_") else name for name in names)


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])


def _public(version: str) -> str:
    return version.partition("+")[0]


_TYPES: dict[str, type | tuple[type, ...]] = {
    "torch": str,
    "build": str,
    "device": str,
    "device_name": str,
    "device_count": int,
    "cuda_version": str,
    "compute_ok": bool,
    "max_abs_error": (int, float),
    "seconds": (int, float),
}
