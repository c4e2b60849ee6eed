"""What torch reported inside a worker, held against what was planned, and what a difference means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from moondream_station.core.facts.codec import from_json
from moondream_station.core.facts.errors import VerificationFailed
from moondream_station.core.facts.events import Mismatch, VerificationReport
from moondream_station.core.selection.select import Conclusions
from moondream_station.core.worker.torch_check import device_of

_FAILING = frozenset({"torch", "build", "device", "compute_ok"})

# Texts of the CUDA runtime (cudaGetErrorString and its numbers, CUDA Runtime API reference, Error Handling),
# of NVML and of the HIP runtime, as torch repeats them. No build cures any of these.
_OF_THE_SYSTEM: tuple[tuple[str, str], ...] = (
    (
        r"driver/library version mismatch|error 803|unsupported display driver",
        "The NVIDIA driver and its libraries are of different versions: restart the computer.",
    ),
    (
        r"error 802|system not yet initialized",
        "NVIDIA's fabric manager is not running: start it (`systemctl start nvidia-fabricmanager`).",
    ),
    (
        r"busy or unavailable|exclusive.*(thread|process)",
        "Another program is using the GPU exclusively: end it, or wait for it.",
    ),
    (r"out of memory", "The GPU's memory is full: end what uses it (`nvidia-smi` lists it)."),
    (
        r"permission denied|operation not permitted|insufficient permission",
        "This user may not use the GPU: on Linux, join the groups `video` and `render`, and log in again.",
    ),
    (
        r"error 999|cuda unknown error",
        "The driver is in a bad state, often after a suspend: restart the computer.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What an environment was made for; `build` is None for a backend without torch."""

    build: str | None
    torch: str | None = None
    """A local part ("+cpu") is not compared; None: any."""
    conclusions: Conclusions = field(default_factory=Conclusions)
    """What the build was chosen for; a report that differs from it fails nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """A worker's report and where it differs from the plan."""

    report: VerificationReport
    mismatches: tuple[Mismatch, ...]
    detail: str | None

    @property
    def is_ok(self) -> bool:
        """Whether torch computes as planned. A wrong row in the catalog is not a reason to refuse it."""
        return all(mismatch.field not in _FAILING for mismatch in self.mismatches)

    def checked(self) -> Self:
        """Itself; or what failed is raised, with a remedy where the system is the cause."""
        if self.is_ok:
            return self
        detail = self.detail or ""
        differences = "; ".join(
            f"{mismatch.field} should be {mismatch.planned}, is {mismatch.found}"
            for mismatch in self.mismatches
            if mismatch.field in _FAILING
        )
        message = f"PyTorch does not work as planned: {differences}." + (
            f" PyTorch reports: {detail}" if detail else ""
        )
        for pattern, remedy in _OF_THE_SYSTEM:
            if re.search(pattern, detail, re.IGNORECASE):
                raise VerificationFailed(message, hint=remedy, is_curable=False)
        raise VerificationFailed(message, hint="`moondream-station logs` shows the worker's output.")


def read_verification(plan: WorkerPlan, answer: Mapping[str, Any]) -> Verification:
    """A worker's answer, which is not trusted: a ValueError where it has another shape."""
    try:
        report, detail = from_json(VerificationReport, answer["report"]), answer["detail"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a verification report: {error}") from error
    driver_cuda = answer.get("driver_cuda")
    mismatches = compare(plan, report, driver_cuda=driver_cuda if isinstance(driver_cuda, str) else None)
    return Verification(report=report, mismatches=mismatches, detail=detail)


def compare(
    plan: WorkerPlan, report: VerificationReport, *, driver_cuda: str | None = None
) -> tuple[Mismatch, ...]:
    """Every field in which the report is not what was planned, in the order they should be read.

    `driver_cuda` is the highest CUDA that the driver under this torch supports, None where that is unknown.
    """
    if plan.build is None:
        return ()
    is_version = report.torch is not None and (
        plan.torch is None or report.torch.partition("+")[0] == plan.torch.partition("+")[0]
    )
    device = device_of(plan.build)
    # PyPI's own wheel, which was chosen to compute on the CPU, says what else it was built for.
    own = plan.conclusions.pypi_build if report.torch and "+" not in report.torch else None
    computed = None if report.compute_ok is None else str(report.compute_ok).lower()
    rows = (
        ("torch", plan.torch, report.torch, is_version),
        ("build", plan.build, report.build, report.build in {plan.build, own or plan.build}),
        ("device", device, report.device, report.device == device),
        ("compute_ok", "true", computed, report.compute_ok is True),
    )
    mismatches = [
        Mismatch(field=name, planned=planned, found=found) for name, planned, found, fits in rows if not fits
    ]
    if report.build == plan.build and report.device == device:
        mismatches += _otherwise_than_concluded(plan.conclusions, report, driver_cuda)
    return tuple(mismatches)


def _otherwise_than_concluded(
    concluded: Conclusions, report: VerificationReport, driver_cuda: str | None
) -> Iterator[Mismatch]:
    """Where torch contradicts the catalog or detection; what one side does not know is no contradiction."""
    architectures = _architectures(report.arch_list)
    if concluded.arch_list and architectures and architectures != _architectures(concluded.arch_list):
        listed = ", ".join(report.arch_list)
        yield Mismatch(field="arch_list", planned=", ".join(concluded.arch_list), found=listed)
    toolkit = report.cuda_version
    if concluded.toolkit and toolkit and _minor(toolkit) != _minor(concluded.toolkit):
        yield Mismatch(field="cuda_version", planned=concluded.toolkit, found=toolkit)
    if concluded.driver_cuda and driver_cuda and _minor(driver_cuda) != _minor(concluded.driver_cuda):
        yield Mismatch(field="driver", planned=f"CUDA {concluded.driver_cuda}", found=f"CUDA {driver_cuda}")


def _architectures(listed: Iterable[str]) -> frozenset[str]:
    """A list without PTX ("compute_90"), variants ("sm_90a") and features ("gfx90a:xnack-")."""
    names = (name.partition(":")[0] for name in listed if not name.startswith("compute_"))
    return frozenset(name.rstrip("af") if name.startswith("sm_") else name for name in names)


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
