"""Every fact the station publishes, and the envelope that carries it.

A fact is frozen and named in the past tense. Facts know nothing of sequence numbers or clocks: the bus wraps
each in an `Event` when it is published. docs/reference/events.md is made from this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from moondream_station.core.facts.capabilities import Capabilities, ProbeReport
from moondream_station.core.facts.errors import ErrorInfo
from moondream_station.core.facts.selection import Candidate, Fit, Source


class Stage(StrEnum):
    """Where an activation is, in order."""

    PREPARE = "prepare"
    DETECT = "detect"
    SELECT = "select"
    LOCK = "lock"
    DOWNLOAD = "download"
    BUILD = "build"
    START = "start"
    VERIFY = "verify"
    COMMIT = "commit"


class CancelReason(StrEnum):
    """Why an activation was cancelled."""

    USER = "user"
    SUPERSEDED = "superseded"
    SHUTDOWN = "shutdown"


class StopReason(StrEnum):
    """Why a worker ended: `memory` also where it was idle, `shutdown` also by `stop`."""

    REPLACED = "replaced"
    MEMORY = "memory"
    CRASHED = "crashed"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """What torch itself reports, and the result of a computation.

    Args:
        torch: `torch.__version__`, with its local part; None for a backend without torch.
        build: The build that this torch is ("cpu", "cu126", "mps").
        device: The device used: "cpu", "cuda", "xpu" or "mps".
        device_name: The device's own name.
        device_count: How many devices of that kind torch sees; 1 for the CPU.
        cuda_version: `torch.version.cuda` (or `hip`), None for builds without.
        arch_list: What the build has compiled code for, as torch lists it ("sm_80", …).
        compute_ok: Whether a matrix product on the device agreed with the CPU's.
        max_abs_error: Largest absolute difference between the two, None where nothing was computed.
        seconds: Wall-clock seconds from the import of torch to the end of the product.
    """

    torch: str | None = None
    build: str | None = None
    device: str | None = None
    device_name: str | None = None
    device_count: int | None = None
    cuda_version: str | None = None
    arch_list: tuple[str, ...] = ()
    compute_ok: bool | None = None
    max_abs_error: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One field in which the report differs from the plan; both sides as text."""

    field: str
    planned: str | None
    found: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded:
    """A model that works, but not on the build that was planned."""

    wanted: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendActivationRequested:
    """An activation began. `requirements` are canonical, and empty until the backend's have been read."""

    model: str
    backend: str | None
    requirements: tuple[str, ...]
    strategy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationWaiting:
    """Another process uses the home; this activation resumes when that is done."""

    holder_pid: int | None
    holder_command: str | None
    since: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """The activation entered a stage."""

    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgressed:
    """Progress inside a stage; `total` is None where unknown. `unit` is plural ("files", "bytes")."""

    stage: Stage
    done: int
    total: int | None
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFinished(ProbeReport):
    """A probe answered, or failed to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilitiesDetected:
    """The machine was detected; `seconds` is for all probes together, near zero from the cache."""

    capabilities: Capabilities
    from_cache: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSelected:
    """A PyTorch build was chosen; `build` is None for a backend without torch.

    `fit` says whether the model fits the machine on that build, None where that was not judged.
    """

    build: str | None
    torch: str | None
    index_url: str | None
    source: Source | None
    reason: str
    candidates: tuple[Candidate, ...]
    fit: Fit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementsLocked:
    """The exact wheels are known. `total_bytes` is None where a server does not tell a size."""

    packages: int
    total_bytes: int | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadProgressed:
    """Bytes of one file, and of all together.

    Args:
        file: The file's name.
        received_bytes: How much of it has been downloaded, with what was resumed or cached.
        total_bytes: Its size, None where the server does not tell it.
        transferred_bytes: How much of it was transferred in this activation.
        resumed_from: How much of it was already downloaded when this activation began.
        overall_received_bytes: The same as `received_bytes`, over all files.
        overall_total_bytes: Size of all files, None while one is unknown.
        overall_transferred_bytes: The same as `transferred_bytes`, over all files.
        bytes_per_second: Smoothed, over all files; None until it means something.
        eta_seconds: Seconds until all files are downloaded; None until it means something.
    """

    file: str
    received_bytes: int
    total_bytes: int | None
    transferred_bytes: int
    resumed_from: int
    overall_received_bytes: int
    overall_total_bytes: int | None
    overall_transferred_bytes: int
    bytes_per_second: float | None
    eta_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentBuilt:
    """An environment was built and checked against its records, or an existing one was `reused`."""

    environment: str
    packages: int
    reused: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted:
    """A backend's worker process started."""

    model: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStopped:
    """A backend's worker process ended."""

    model: str
    pid: int
    reason: StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationCompleted:
    """Torch computed, or did not; `mismatches` is where its report differs from the plan.

    Where it computes as planned, `ok` is true, and `mismatches` holds what the build was chosen for and
    torch contradicts (`arch_list`, `cuda_version`, `driver`): an error in the catalog or in detection.
    """

    ok: bool
    report: VerificationReport
    mismatches: tuple[Mismatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackChosen:
    """The build failed verification; another one is tried. A `BuildSelected` follows."""

    from_build: str
    to_build: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationSucceeded:
    """The model is active."""

    model: str
    backend: str
    build: str | None
    environment: str
    degraded: Degraded | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationFailed:
    """The activation failed; what was active before still is."""

    model: str
    stage: Stage
    error: ErrorInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationCancelled:
    """The activation was cancelled; what was active before still is."""

    model: str
    stage: Stage
    reason: CancelReason


Terminal: TypeAlias = ActivationSucceeded | ActivationFailed | ActivationCancelled
Progress: TypeAlias = DownloadProgressed | StageProgressed
Fact: TypeAlias = (
    BackendActivationRequested
    | ActivationWaiting
    | StageStarted
    | StageProgressed
    | ProbeFinished
    | CapabilitiesDetected
    | BuildSelected
    | RequirementsLocked
    | DownloadProgressed
    | EnvironmentBuilt
    | WorkerStarted
    | WorkerStopped
    | VerificationCompleted
    | FallbackChosen
    | ActivationSucceeded
    | ActivationFailed
    | ActivationCancelled
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A published fact.

    Args:
        seq: Grows within a home, also across restarts and processes; gaps are legal.
        at: When it was published, aware, UTC.
        activation: The activation it belongs to, None outside any.
        fact: What happened.
    """

    seq: int
    at: datetime
    activation: str | None
    fact: Fact

    @property
    def name(self) -> str:
        """The fact's name, as JSON's `event` gives it."""
        return type(self.fact).__name__

    @property
    def merge_key(self) -> tuple[str, str, str] | None:
        """Facts of one key may be merged, the later replacing the earlier; None: never merged."""
        match self.fact:
            case DownloadProgressed(file=file):
                return (self.activation or "", "DownloadProgressed", file)
            case StageProgressed(stage=stage, unit=unit):
                return (self.activation or "", "StageProgressed", f"{stage}/{unit}")
            case _:
                return None

    @property
    def is_terminal(self) -> bool:
        """Whether this is the one fact that ends its activation."""
        return isinstance(self.fact, ActivationSucceeded | ActivationFailed | ActivationCancelled)
