"""What `status --json`, `GET /v1/station` and a snapshot show of the state: the contract's shape as data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from moondream_station.core.facts.activation_state import WorkerState
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.events import Degraded, Stage, VerificationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class StationShown:
    """The station that serves.

    Args:
        instance: This run's own name.
        pid: Its process id.
        address: Its base URL.
        version: Its version.
        seq: The last event that this status includes.
    """

    instance: str
    pid: int
    address: str
    version: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveShown:
    """The active model.

    Args:
        model: Its id.
        backend: The backend that serves it.
        build: The PyTorch build, null for a backend without torch.
        torch: The torch version without its local part.
        environment: The environment's name.
        worker: What its worker does.
        degraded: What it should have been, null where it is that.
    """

    model: str
    backend: str
    build: str | None
    torch: str | None
    environment: str
    worker: WorkerState
    degraded: Degraded | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationShown:
    """The activation that runs.

    Args:
        id: Its id.
        model: The model asked for.
        strategy: How its build is chosen.
        stage: Where it is.
        started_at: When it was requested.
        overall_received_bytes: Bytes downloaded, over all files; null before the first.
        overall_total_bytes: Size of all files together; null where unknown.
    """

    id: str
    model: str
    strategy: str
    stage: Stage
    started_at: datetime
    overall_received_bytes: int | None
    overall_total_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Station, active model and its verification, running activation, machine; null where there is none."""

    station: StationShown | None
    active: ActiveShown | None
    verification: VerificationReport | None
    activation: ActivationShown | None
    capabilities: Capabilities | None
