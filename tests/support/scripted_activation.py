"""Activations written out fact by fact, as a station publishes them, for what shows them to people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from moondream_station.core.facts.capabilities import Capabilities, Gpu, Outcome
from moondream_station.core.facts.errors import ErrorInfo
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    ActivationWaiting,
    BackendActivationRequested,
    BuildSelected,
    CancelReason,
    CapabilitiesDetected,
    Degraded,
    DownloadProgressed,
    EnvironmentBuilt,
    Event,
    Fact,
    FallbackChosen,
    Mismatch,
    ProbeFinished,
    RequirementsLocked,
    Stage,
    StageProgressed,
    StageStarted,
    VerificationCompleted,
    VerificationReport,
    WorkerStarted,
)
from moondream_station.core.facts.selection import Candidate, Verdict

BEGAN_AT = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
ACTIVATION = "20261123T100000Z-ab12cd"
ENVIRONMENT = "0123abcd-4567ef"

TORCH = "torch-2.14.1+cu126-cp312-cp312-manylinux_2_28_x86_64.whl"
CUDNN = "nvidia_cudnn_cu12-9.10.2.21-py3-none-manylinux_2_27_x86_64.whl"
PILLOW = "pillow-12.0.0-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl"
_SIZES: Mapping[str, int] = {TORCH: 821_300_000, CUDNN: 571_000_000, PILLOW: 7_000_000}
_TOTAL = sum(_SIZES.values())
_CUDNN_BEFORE = 200_000_000


def events(facts: Sequence[Fact], *, seconds_apart: float = 1.0) -> list[Event]:
    """Facts in their envelopes, each some seconds after the one before."""
    return [
        Event(
            seq=number,
            at=BEGAN_AT + timedelta(seconds=(number - 1) * seconds_apart),
            activation=ACTIVATION,
            fact=fact,
        )
        for number, fact in enumerate(facts, 1)
    ]


def machine() -> Capabilities:
    """A computer with two GPUs of one kind."""
    gpu = Gpu(vendor="nvidia", name="NVIDIA RTX A6000", architecture="8.6")
    return Capabilities(
        system="Linux",
        release="6.8.0",
        machine="x86_64",
        python="3.12.3",
        gpus=(gpu, gpu),
        nvidia_driver="560.35.05",
        nvidia_cuda="12.6",
    )


def whole() -> list[Fact]:
    """From the request to success; one file was here, one was begun."""
    return [*_until_download(), *_downloads(), *_from_build("cu126"), succeeded("cu126")]


def degraded() -> list[Fact]:
    """The GPU's build does not compute here, and the processor's does."""
    reason = "torch on cu126 does not see the GPU that the driver has."
    wrong = Mismatch(field="device", planned="cuda", found="cpu")
    report = VerificationReport(torch="2.14.1+cu126", build="cu126", device="cpu", compute_ok=True)
    return [
        *_until_download(),
        *_downloads(),
        *_until_verification(),
        VerificationCompleted(ok=False, report=report, mismatches=(wrong,)),
        FallbackChosen(from_build="cu126", to_build="cpu", reason=reason),
        selected("cpu", "The processor's build works on every machine."),
        StageStarted(stage=Stage.LOCK),
        RequirementsLocked(packages=3, total_bytes=198_000_000, seconds=0.8),
        StageStarted(stage=Stage.DOWNLOAD),
        *_from_build("cpu"),
        succeeded("cpu", Degraded(wanted="cu126", reason=reason)),
    ]


def reused() -> list[Fact]:
    """The same was installed before."""
    return [
        *_until_selection(),
        selected("cu126"),
        EnvironmentBuilt(environment=ENVIRONMENT, packages=3, reused=True, seconds=0.0),
        StageStarted(stage=Stage.START),
        WorkerStarted(model="selftest", pid=4711),
        StageStarted(stage=Stage.VERIFY),
        verified("cu126"),
        StageStarted(stage=Stage.COMMIT),
        succeeded("cu126"),
    ]


def waiting() -> list[Fact]:
    """Another process holds the home."""
    return [
        *whole()[:2],
        ActivationWaiting(
            holder_pid=321, holder_command="switch moondream-2", since="2026-11-23T09:58:00.000000Z"
        ),
    ]


def failed() -> list[Fact]:
    """An index does not answer, while files arrive."""
    error = ErrorInfo(
        code="index-unreachable",
        message="https://download.pytorch.org/whl/cu126 does not answer: the connection was reset after"
        " 571.0 MB.",
        hint="Check the network and the proxy, then run the same command again to resume.",
    )
    end = ActivationFailed(model="selftest", stage=Stage.DOWNLOAD, error=error)
    return [*_until_download(), *_downloads()[:4], end]


def cancelled() -> list[Fact]:
    """Somebody ended it, while files arrive."""
    end = ActivationCancelled(model="selftest", stage=Stage.DOWNLOAD, reason=CancelReason.USER)
    return [*_until_download(), *_downloads()[:4], end]


SCRIPTS: Mapping[str, Callable[[], list[Fact]]] = {
    "whole": whole,
    "degraded": degraded,
    "reused": reused,
    "waiting": waiting,
    "failed": failed,
    "cancelled": cancelled,
}


def selected(build: str, reason: str = "The newest torch has code for both GPUs in it.") -> BuildSelected:
    """A build of torch 2.14.1 is chosen."""
    candidate = Candidate(build=build, torch="2.14.1", verdict=Verdict.CHOSEN, reason=reason)
    return BuildSelected(
        build=build,
        torch="2.14.1",
        index_url=f"https://download.pytorch.org/whl/{build}",
        source="index",
        reason=reason,
        candidates=(candidate,),
    )


def verified(build: str) -> VerificationCompleted:
    """Torch computes as planned."""
    device, name = ("cpu", "the processor") if build == "cpu" else ("cuda", "NVIDIA RTX A6000")
    report = VerificationReport(
        torch=f"2.14.1+{build}", build=build, device=device, device_name=name, compute_ok=True, seconds=2.1
    )
    return VerificationCompleted(ok=True, report=report, mismatches=())


def succeeded(build: str, degraded: Degraded | None = None) -> ActivationSucceeded:
    """The model is active."""
    return ActivationSucceeded(
        model="selftest",
        backend="selftest",
        build=build,
        environment=ENVIRONMENT,
        degraded=degraded,
        seconds=42.0,
    )


def _probes() -> list[Fact]:
    answers = [
        ("platform", Outcome.FOUND, 0.0, "Linux 6.8.0 x86_64, glibc 2.39, Python 3.12.3"),
        ("amd", Outcome.ABSENT, 0.01, "no AMD GPU driver"),
        ("nvcc", Outcome.ABSENT, 0.02, "nvcc is not installed"),
        ("nvidia_driver", Outcome.FOUND, 0.01, "kernel module 560.35.05"),
        ("intel", Outcome.FAILED, 0.03, "/sys/bus/pci/devices can't be read: permission denied"),
        ("nvidia_smi", Outcome.FOUND, 0.42, "2 GPUs: NVIDIA RTX A6000; driver 560.35.05, CUDA 12.6"),
    ]
    return [
        ProbeFinished(probe=probe, outcome=outcome, seconds=seconds, detail=detail)
        for probe, outcome, seconds, detail in answers
    ]


def _until_selection() -> list[Fact]:
    return [
        BackendActivationRequested(
            model="selftest", backend="selftest", requirements=("torch>=2.7.0",), strategy="auto"
        ),
        StageStarted(stage=Stage.PREPARE),
        StageStarted(stage=Stage.DETECT),
        *_probes(),
        CapabilitiesDetected(capabilities=machine(), from_cache=False, seconds=0.43),
        StageStarted(stage=Stage.SELECT),
    ]


def _until_download() -> list[Fact]:
    return [
        *_until_selection(),
        selected("cu126"),
        StageStarted(stage=Stage.LOCK),
        RequirementsLocked(packages=3, total_bytes=_TOTAL, seconds=1.8),
        StageStarted(stage=Stage.DOWNLOAD),
    ]


def _downloads() -> list[Fact]:
    """Pillow is here, cuDNN is resumed, torch begins."""
    before = {PILLOW: _SIZES[PILLOW], CUDNN: _CUDNN_BEFORE, TORCH: 0}
    steps: list[tuple[str, int]] = [
        (PILLOW, _SIZES[PILLOW]),
        (CUDNN, _CUDNN_BEFORE),
        (TORCH, 0),
        (TORCH, 420_000_000),
        (CUDNN, _SIZES[CUDNN]),
        (TORCH, _SIZES[TORCH]),
    ]
    return list(_progress(steps, before))


def _progress(steps: Sequence[tuple[str, int]], before: Mapping[str, int]) -> Iterator[Fact]:
    received = dict(before)
    for file, count in steps:
        received[file] = count
        here, arrived = sum(received.values()), sum(received.values()) - sum(before.values())
        yield DownloadProgressed(
            file=file,
            received_bytes=count,
            total_bytes=_SIZES[file],
            transferred_bytes=count - before[file],
            resumed_from=before[file],
            overall_received_bytes=here,
            overall_total_bytes=_TOTAL,
            overall_transferred_bytes=arrived,
            bytes_per_second=48_200_000.0 if arrived else None,
            eta_seconds=(_TOTAL - here) / 48_200_000 if arrived else None,
        )


def _until_verification() -> list[Fact]:
    return [
        StageStarted(stage=Stage.BUILD),
        StageProgressed(stage=Stage.BUILD, done=0, total=3, unit="packages"),
        StageProgressed(stage=Stage.BUILD, done=12_253, total=14_001, unit="files"),
        EnvironmentBuilt(environment=ENVIRONMENT, packages=3, reused=False, seconds=6.5),
        StageStarted(stage=Stage.START),
        WorkerStarted(model="selftest", pid=4711),
        StageStarted(stage=Stage.VERIFY),
    ]


def _from_build(build: str) -> list[Fact]:
    return [
        *_until_verification(),
        verified(build),
        StageProgressed(stage=Stage.VERIFY, done=1_300_000_000, total=3_900_000_000, unit="bytes"),
        StageStarted(stage=Stage.COMMIT),
    ]
