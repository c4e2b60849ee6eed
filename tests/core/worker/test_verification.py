"""Torch's report against the plan, field by field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moondream_station.core.facts.errors import VerificationFailed
from moondream_station.core.facts.events import Mismatch, VerificationReport
from moondream_station.core.selection.select import Conclusions
from moondream_station.core.worker.torch_check import build_of, device_of
from moondream_station.core.worker.verification import (
    Verification,
    WorkerPlan,
    compare,
    read_verification,
)

REPORT = VerificationReport(
    torch="2.14.1+cu126",
    build="cu126",
    device="cuda",
    device_name="NVIDIA GeForce RTX 3060",
    device_count=1,
    cuda_version="12.6",
    arch_list=("sm_80", "sm_86"),
    compute_ok=True,
    max_abs_error=0.0,
    seconds=2.1,
)
PLAN = WorkerPlan(build="cu126", torch="2.14.1")


def test_what_was_planned_has_no_mismatch() -> None:
    """The local part of torch's version is what `build` says, and not compared twice."""
    assert compare(PLAN, REPORT) == ()
    assert compare(WorkerPlan(build="cu126"), REPORT) == ()
    assert compare(WorkerPlan(build=None), VerificationReport()) == ()


@pytest.mark.parametrize(
    ("torch", "build", "is_accepted"),
    [
        ("2.15.0", "cu132", True),
        ("2.15.0", "cpu", True),
        ("2.15.0", "cu128", False),  # not what PyPI's wheel of that version is
        ("2.15.0+cu132", "cu132", False),  # another index's
    ],
)
def test_pypis_own_wheel_may_compute_for_the_cpu(torch: str, build: str, *, is_accepted: bool) -> None:
    """Where the catalog knows it as that build."""
    plan = WorkerPlan(build="cpu", torch="2.15.0", conclusions=Conclusions(pypi_build="cu132"))
    report = VerificationReport(torch=torch, build=build, device="cpu", compute_ok=True)
    assert [item.field for item in compare(plan, report)] == ([] if is_accepted else ["build"])


@pytest.mark.parametrize(
    ("report", "mismatch"),
    [
        (
            replace(REPORT, torch="2.13.0+cu126"),
            Mismatch(field="torch", planned="2.14.1", found="2.13.0+cu126"),
        ),
        (replace(REPORT, build="cpu"), Mismatch(field="build", planned="cu126", found="cpu")),
        (replace(REPORT, device="cpu"), Mismatch(field="device", planned="cuda", found="cpu")),
        (replace(REPORT, compute_ok=False), Mismatch(field="compute_ok", planned="true", found="false")),
        (replace(REPORT, compute_ok=None), Mismatch(field="compute_ok", planned="true", found=None)),
    ],
)
def test_each_difference_names_both_sides(report: VerificationReport, mismatch: Mismatch) -> None:
    """One wrong field is one mismatch."""
    assert compare(PLAN, report) == (mismatch,)


THOUGHT = Conclusions(arch_list=("sm_80", "sm_86"), toolkit="12.6", driver_cuda="12.4")


@pytest.mark.parametrize(
    ("report", "driver_cuda", "mismatch"),
    [
        (
            replace(REPORT, arch_list=("sm_80", "sm_90a", "compute_90")),
            "12.4",
            Mismatch(field="arch_list", planned="sm_80, sm_86", found="sm_80, sm_90a, compute_90"),
        ),
        (
            replace(REPORT, cuda_version="12.8"),
            "12.4",
            Mismatch(field="cuda_version", planned="12.6", found="12.8"),
        ),
        (REPORT, "12.2", Mismatch(field="driver", planned="CUDA 12.4", found="CUDA 12.2")),
    ],
)
def test_what_contradicts_the_catalog_is_kept_and_fails_nothing(
    report: VerificationReport, driver_cuda: str, mismatch: Mismatch
) -> None:
    """Torch computes; the row, or the reading of the machine, is what is wrong."""
    plan = replace(PLAN, conclusions=THOUGHT)
    found = compare(plan, report, driver_cuda=driver_cuda)
    assert found == (mismatch,)
    verification = Verification(report=report, mismatches=found, detail=None)
    assert verification.is_ok
    assert verification.checked() is verification


@pytest.mark.parametrize(
    ("report", "driver_cuda"),
    [
        (REPORT, "12.4"),
        (REPORT, None),
        (replace(REPORT, arch_list=("sm_86", "sm_80", "compute_90")), None),
        (replace(REPORT, arch_list=(), cuda_version=None), None),
    ],
)
def test_what_torch_does_not_tell_contradicts_nothing(
    report: VerificationReport, driver_cuda: str | None
) -> None:
    """Nor do another order, or PTX."""
    assert compare(replace(PLAN, conclusions=THOUGHT), report, driver_cuda=driver_cuda) == ()


def test_a_failure_names_the_catalogs_row_only_where_the_planned_device_was_used() -> None:
    """A kernel that is missing is what a wrong list leads to; on the processor no list is told."""
    plan = replace(PLAN, conclusions=THOUGHT)
    without_kernel = replace(REPORT, compute_ok=False, arch_list=("sm_90",))
    assert [item.field for item in compare(plan, without_kernel)] == ["compute_ok", "arch_list"]
    on_processor = replace(REPORT, device="cpu", arch_list=())
    assert [item.field for item in compare(plan, on_processor)] == ["device"]
    verification = Verification(
        report=without_kernel, mismatches=compare(plan, without_kernel), detail="no kernel image"
    )
    with pytest.raises(VerificationFailed) as caught:
        verification.checked()
    assert "arch_list" not in caught.value.message


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "build"),
    [
        ("2.13.0+cpu", None, None, "cpu"),
        ("2.14.1+cu126", "12.6", None, "cu126"),
        ("2.9.1", "12.8", None, "cu128"),
        ("2.10.0+rocm7.1", None, "7.1.25424", "rocm7.1"),
        ("2.10.0a0+gitabc", None, "6.4.43482", "rocm6.4"),
        ("2.9.0+xpu", None, None, "xpu"),
        ("2.8.0+git1234", "12.9", None, "cu129"),
    ],
)
def test_the_build_is_read_from_the_version_or_what_it_was_compiled_for(
    version: str, cuda: str | None, hip: str | None, build: str
) -> None:
    """PyPI's wheels and builds from source have no local part that names a build."""
    assert build_of(version, cuda, hip, build) == build


@pytest.mark.parametrize(
    ("build", "device"),
    [("cpu", "cpu"), ("cu118", "cuda"), ("rocm6.4", "cuda"), ("xpu", "xpu"), ("mps", "mps")],
)
def test_each_build_has_its_device(build: str, device: str) -> None:
    """ROCm's torch calls its devices cuda."""
    assert device_of(build) == device


def test_a_report_is_read_as_the_worker_sends_it() -> None:
    """Lists become tuples, what is null stays None."""
    report = {"torch": "2.13.0+cpu", "cuda_version": None, "arch_list": ["sm_80"]}
    verification = read_verification(PLAN, {"report": report, "detail": None})
    assert verification.report == VerificationReport(torch="2.13.0+cpu", arch_list=("sm_80",))


@pytest.mark.parametrize(
    "data", [{"torch": 2}, {"colour": "red"}, {"arch_list": "sm_80"}, {"compute_ok": "yes"}]
)
def test_a_report_of_another_shape_is_refused(data: dict[str, object]) -> None:
    """What comes over the pipe is not trusted to be a report."""
    with pytest.raises(ValueError, match="verification report"):
        read_verification(PLAN, {"report": data, "detail": None})
