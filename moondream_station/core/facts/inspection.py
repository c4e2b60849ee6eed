"""The shapes of what people look at beside the state: past activations, logs, memory and disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from moondream_station.core.facts.errors import ErrorInfo
from moondream_station.core.facts.events import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationSummary:
    """One activation.

    Args:
        id: Its id.
        model: The model asked for.
        strategy: How its build is chosen.
        started_at: When it was requested.
        outcome: How it ended; null while it runs, and where its process was killed.
        seconds: How long it took; null likewise.
        build: The build that it made active; null for a backend without torch.
        stage: Where it failed or was cancelled.
        error: Why it failed.
    """

    id: str
    model: str
    strategy: str
    started_at: datetime
    outcome: Literal["succeeded", "failed", "cancelled"] | None = None
    seconds: float | None = None
    build: str | None = None
    stage: Stage | None = None
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationList:
    """The last 20 activations, the newest first."""

    activations: tuple[ActivationSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationJournal:
    """An activation's journal.

    Args:
        activation: Its id.
        events: Its events, as they were published.
        notes: What tools printed.
    """

    activation: str
    events: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLog:
    """The last 200 lines that a model's workers wrote, the oldest first; of none where no model is active."""

    model: str | None
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory in bytes.

    Args:
        station_bytes: What the station's process holds.
        worker_bytes: What its worker and the worker's children hold; null while none runs.
        available_bytes: What is left of the machine's, or of its container's where that is less.
        total_bytes: All of that.
    """

    station_bytes: int
    worker_bytes: int | None
    available_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """The memory of an NVIDIA GPU, as nvidia-smi shows it."""

    name: str
    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The disk that the home is on."""

    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Memory and disk."""

    memory: Memory
    gpus: tuple[GpuMemory, ...]
    disk: Disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """The model whose environments were forgotten."""

    model: str
