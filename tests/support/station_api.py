"""A station as HTTP sees it, without models: a real bus, and functions that a test hands in."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from moondream_station.core.bus.bus import Bus, Subscription
from moondream_station.core.facts.activation_state import Active, WorkerState
from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.errors import (
    ErrorInfo,
    NothingToCancel,
    NothingToRollBack,
    StationError,
    StationRunning,
    UnknownModel,
    UsageError,
)
from moondream_station.core.facts.events import (
    ActivationCancelled,
    BackendActivationRequested,
    CancelReason,
    Stage,
)
from moondream_station.core.facts.functions import Signature
from moondream_station.core.facts.state import StationInfo, StationState, WorkerShown, status
from moondream_station.core.serving.tally import Tally
from moondream_station.http.api import Answer, Progress

Function = Callable[[Mapping[str, Any]], Answer | Awaitable[Answer]]

MODELS: Mapping[str, Any] = {
    "models": [
        {
            "id": "selftest",
            "name": "Self-test",
            "description": "Looks at pictures with tensors.",
            "version": "1",
            "backend": "selftest",
            "supported": True,
            "reason": None,
            "installed": True,
            "active": True,
            "fit": {"verdict": "fits", "reason": "needs 1.1 GB of memory; this machine has 8.0 GB"},
            "system_requirements": None,
            "notice": None,
            "environment": {"name": "0123abcd-4567", "build": "cpu", "torch": "2.14.1+cpu", "previous": None},
        }
    ],
    "latest_version": None,
    "messages": [],
}

PLAN: Mapping[str, Any] = {
    "strategy": "auto",
    "requirement": ["torch"],
    "build": "cpu",
    "torch": "2.14.1",
    "index_url": None,
    "source": "index",
    "reason": "No GPU that PyTorch supports was found, so the CPU build is used.",
    "command": ["python", "-m", "pip", "install", "torch"],
    "warnings": [],
    "candidates": [
        {"build": "cpu", "torch": "2.14.1", "verdict": "chosen", "reason": "The CPU build works everywhere."},
        {"build": "cu126", "torch": None, "verdict": "rejected", "reason": "No NVIDIA driver was found."},
    ],
    "fit": None,
}
USAGE: Mapping[str, Any] = {
    "memory": {
        "station_bytes": 65_000_000,
        "worker_bytes": 4_200_000_000,
        "available_bytes": 21_000_000_000,
        "total_bytes": 32_000_000_000,
    },
    "gpus": [{"name": "NVIDIA RTX A6000", "used_bytes": 5_100_000_000, "total_bytes": 48_000_000_000}],
    "disk": {"free_bytes": 381_000_000_000, "total_bytes": 512_000_000_000},
}


class FakeInspection:
    """What else a station shows, as a test sets it; remembers what it was asked."""

    def __init__(self) -> None:
        self.plans: dict[str, Mapping[str, Any]] = {}
        self.planned: list[tuple[str, str | None]] = []
        self.journals: dict[str, Mapping[str, Any]] = {}
        self.past: list[Mapping[str, Any]] = []
        self.lines: list[str] = []
        self.removed: list[str] = []

    async def plan(self, model: str, strategy: str | None) -> Mapping[str, Any]:
        """The test's plan for a strategy, else the one for the CPU."""
        await anyio.lowlevel.checkpoint()
        self.planned.append((model, strategy))
        if model != "selftest":
            raise UnknownModel(f"There is no model {model!r}")
        return self.plans.get(strategy or "auto", PLAN)

    async def activations(self) -> Mapping[str, Any]:
        """What the test lists."""
        await anyio.lowlevel.checkpoint()
        return {"activations": self.past}

    async def activation(self, activation: str) -> Mapping[str, Any] | None:
        """The test's journal."""
        await anyio.lowlevel.checkpoint()
        return self.journals.get(activation)

    async def logs(self, model: str | None) -> Mapping[str, Any]:
        """The test's lines."""
        await anyio.lowlevel.checkpoint()
        return {"model": model or "selftest", "lines": self.lines}

    async def usage(self) -> Mapping[str, Any]:
        """A machine with one GPU."""
        await anyio.lowlevel.checkpoint()
        return USAGE

    async def remove(self, model: str) -> None:
        """Remember that."""
        await anyio.lowlevel.checkpoint()
        if model == "selftest":
            raise StationRunning("The station serves selftest.", hint="Switch to another model first.")
        self.removed.append(model)


class FakeStation:
    """Answers what a test tells it to, and remembers what it was asked.

    Args:
        buffer: How many events may wait for a subscriber.
    """

    def __init__(self, *, buffer: int = 1024) -> None:
        self.bus = Bus(
            state=StationState(
                station=StationInfo(instance="i1", pid=1, address="http://127.0.0.1:2020", version="0.2.0"),
                active=Active(
                    model="selftest",
                    backend="selftest",
                    build="cpu",
                    torch="2.14.1",
                    environment="0123abcd-4567",
                    worker=WorkerState.READY,
                ),
            )
        )
        self.inspection = FakeInspection()
        self.backend: dict[str, Function] = {}
        self.declared: dict[str, Signature] = {}
        self.failure: ErrorInfo | None = None
        self.calls: list[tuple[str, dict[str, Any], float | None]] = []
        self.clients: list[Hashable] = []
        self.steps: list[tuple[int, int | None, str]] = []
        self.left: list[str] = []
        self.listed: Mapping[str, Any] = MODELS
        self.listed_in: list[threading.Thread] = []
        self.wishes: list[tuple[str, str | None, bool, Path | None]] = []
        self.consents: list[tuple[bool, bool]] = []
        self.examine: Callable[[], Awaitable[Mapping[str, Any]]] | None = None
        self.followers = 0
        self.tally = Tally()
        self.left_alone = anyio.Event()
        self._buffer = buffer

    @property
    def state(self) -> StationState:
        """The bus's."""
        return self.bus.state

    def status(self) -> Mapping[str, Any]:
        """The state in its outward shape."""
        worker = WorkerShown(
            pid=4711,
            functions=tuple(sorted(self.backend)),
            failure=self.failure,
            last_lines=("Traceback", "RuntimeError: out of cheese") if self.failure else (),
        )
        return status(self.state, (), worker)

    def models(self) -> Mapping[str, Any]:
        """One model, or what a test lists."""
        self.listed_in.append(threading.current_thread())
        return self.listed

    def stats(self) -> Mapping[str, Any]:
        """How many calls there were, in 0.1's keys."""
        return {
            "workers": 1,
            "queue_size": 0,
            "max_queue_size": 10,
            "processing": 0,
            "timeouts": 0,
            "default_timeout": 30.0,
            "model": "selftest",
            "status": "running",
            "requests_processed": len(self.calls),
        }

    def functions(self) -> frozenset[str]:
        """What the test put into `backend`."""
        return frozenset(self.backend)

    def signatures(self) -> Mapping[str, Signature]:
        """What a test declared of them."""
        return {name: self.declared.get(name, Signature()) for name in self.backend}

    @asynccontextmanager
    async def call(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        timeout_seconds: float | None,
        progress: Progress = lambda *_: None,
        client: Hashable = None,
    ) -> AsyncIterator[Answer]:
        """Call what the test put into `backend`; `left` tells that the caller has gone on."""
        self.calls.append((function, dict(arguments), timeout_seconds))
        self.clients.append(client)
        try:
            for step in self.steps:
                progress(*step)
            answer = self.backend[function](arguments)
            yield await answer if isinstance(answer, Awaitable) else answer
        finally:
            self.left.append(function)

    def request_switch(
        self,
        model: str,
        strategy: str | None,
        *,
        upgrade: bool,
        python: Path | None,
        anyway: bool = False,
        accept_notice: bool = False,
    ) -> tuple[str, bool]:
        """Begin an activation of `selftest`, or join the one that runs; what was asked is kept."""
        self.wishes.append((model, strategy, upgrade, python))
        self.consents.append((anyway, accept_notice))
        if model != "selftest":
            raise UnknownModel(f"There is no model {model!r}", hint="moondream-station models lists them.")
        if strategy not in (None, "auto", "cpu"):
            raise UsageError(f"There is no strategy {strategy!r}")
        running = self.state.activation
        if running is not None:
            return running.id, True
        self.bus.publish(
            BackendActivationRequested(
                model=model, backend="selftest", requirements=("torch",), strategy=strategy or "auto"
            ),
            activation="20261123T100000Z-ab12cd",
        )
        return "20261123T100000Z-ab12cd", False

    async def stop(self) -> Mapping[str, Any]:
        """End a worker that there never was."""
        await anyio.lowlevel.checkpoint()
        return {"model": "selftest", "stopped": False}

    def figures(self) -> Mapping[str, Any]:
        """The counters, and what a test has counted."""
        shape: Mapping[str, Any] = to_json(self.tally.stats(self.stats(), limited=None))
        return shape

    def request_rollback(self, model: str) -> tuple[str, bool]:
        """Begin, or join, an activation of `selftest`, which has had another environment."""
        if model == "unused":
            raise NothingToRollBack(f"{model} is not the active model")
        return self.request_switch(model, None, upgrade=False, python=None)

    def request_cancel(self) -> str:
        """End the activation that runs."""
        running = self.state.activation
        if running is None:
            raise NothingToCancel("No activation runs")
        self.bus.publish(
            ActivationCancelled(model=running.model, stage=Stage.PREPARE, reason=CancelReason.USER),
            activation=running.id,
        )
        return running.id

    @asynccontextmanager
    async def subscribe(self, *, after: int | None = None) -> AsyncIterator[Subscription]:
        """Subscribe to the bus; `followers` counts those who do, `left_alone` says when the last one left."""
        async with self.bus.subscribe(after=after, buffer=self._buffer) as subscription:
            self.followers += 1
            try:
                yield subscription
            finally:
                self.followers -= 1
                if self.followers == 0:
                    self.left_alone.set()

    async def doctor(self) -> Mapping[str, Any]:
        """What `examine` says, else that all is well."""
        await anyio.lowlevel.checkpoint()
        if self.examine is not None:
            return await self.examine()
        return {"format": "moondream-station/doctor/1", "ok": True, "findings": []}


def gives(answer: Answer) -> Function:
    """A function with always the same answer."""
    return lambda _arguments: answer


def echoes(arguments: Mapping[str, Any]) -> Answer:
    """A function that answers with its arguments."""
    return {"arguments": dict(arguments)}


def raises(error: StationError) -> Function:
    """A function that fails."""

    def function(_arguments: Mapping[str, Any]) -> Answer:
        raise error

    return function


@dataclass
class Chunks:
    """A streamed answer."""

    parts: AsyncIterator[Any]
    rest: Mapping[str, Any]

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.parts


def chunks(*parts: Any, then: StationError | None = None, **rest: Any) -> Chunks:
    """A streamed answer, whole or broken off, and what it holds beside the stream."""

    async def iterate() -> AsyncIterator[Any]:
        for part in parts:
            await anyio.lowlevel.checkpoint()
            yield part
        if then is not None:
            raise then

    return Chunks(iterate(), rest)
