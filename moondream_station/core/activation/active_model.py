"""Keeps the active model served: starts its worker, and activates it again where that can't be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import TaskGroup

from moondream_station.core.activation.activation import Activation
from moondream_station.core.backends.manifest import Manifest
from moondream_station.core.facts.errors import EnvironmentBroken, StationError, UnknownModel, WorkerFailed
from moondream_station.core.facts.events import ActivationFailed
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.log import Log
from moondream_station.core.serving.active_worker import ActiveWorker
from moondream_station.core.serving.workers import existing_worker

_log = Log()
RECOVERY_PAUSES: Final = (10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds before each further attempt to install an active model again whose environment is broken."""


@dataclass(eq=False, kw_only=True)
class ActiveModel:
    """What a station does for the model that `active.json` names."""

    home: Home
    active: ActiveWorker
    tasks: TaskGroup
    manifest: Callable[[], Manifest]
    switch: Callable[[str], object]
    """Requests an activation of the model that was served before, whether it fits or not."""
    latest: Callable[[], Activation | None]
    """The latest activation of this run."""

    @property
    def _running(self) -> Activation | None:
        latest = self.latest()
        return None if latest is None or latest.outcome is not None else latest

    async def start(self) -> None:
        """Start the worker of the model that is active, or activate it again where that can't be.

        Nothing is resolved or installed for it, unless its environment or its code is gone or broken, or
        torch no longer works in it.
        """
        stored = self._stored()
        if stored is None or stored[0] not in self.manifest().models:
            return
        model, environment = stored
        try:
            existing = await existing_worker(self.home, self.manifest(), model, environment)
            if self._stored() == stored:  # a switch may have ended while that was looked at
                await self.active.start(existing.spec)
        except (StationError, OSError) as error:
            _log.warning("active_model_not_started", model=model, reason=str(error))
            if self._stored() == stored:
                if self._running is None:
                    self.switch(model)  # it was served before
                self.tasks.start_soon(self._recover, stored)

    async def start_again(self, failure: StationError) -> None:
        """Serve the active model again after its worker was given up; at once where its environment broke."""
        stored = self._stored()
        if not isinstance(failure, EnvironmentBroken):
            await anyio.sleep(RECOVERY_PAUSES[-1])
        if self._running is None and self._stored() == stored and not self.active.serves:
            await self.start()

    async def _recover(self, stored: tuple[str, str]) -> None:
        """Activate the active model again, with pauses, until it is served or another one is active.

        Between the attempts requests are answered at once with what stands in the way.
        """
        model, attempts = stored[0], 0
        while True:
            while (running := self._running) is not None:
                await running.ended.wait()
            if self._stored() != stored or self.active.serves:
                return
            self.active.pool.give_up(model, _unrecovered(model, self.latest()))
            await anyio.sleep(RECOVERY_PAUSES[min(attempts, len(RECOVERY_PAUSES) - 1)])
            attempts += 1
            if self._running is None and self._stored() == stored and not self.active.serves:
                self.switch(model)

    def _stored(self) -> tuple[str, str] | None:
        """The active model and its environment; None where none is, or `active.json` can't be read."""
        try:
            active = read_active(self.home)
        except StationError as error:
            _log.warning("active_model_unknown", reason=error.message)
            return None
        return None if active.model is None else (active.model, active.models[active.model].environment)

    async def wake(self) -> None:
        """Start the worker for a request that came while none ran."""
        await self.start()
        stored = self._stored()
        if stored is None or stored[0] not in self.manifest().models:
            model = stored[0] if stored else ""
            self.active.pool.give_up(model, UnknownModel(f"The manifest has no model {model!r} any more."))


def _unrecovered(model: str, attempt: Activation | None) -> WorkerFailed:
    """Why a model whose worker could not be started is not served: what the last attempt came to."""
    again = f"`moondream-station switch {model}` tries again at once."
    outcome = attempt.outcome if attempt is not None else None
    if outcome is not None and isinstance(outcome.fact, ActivationFailed) and outcome.fact.model == model:
        error = outcome.fact.error
        return WorkerFailed(
            f"{model} could not be started, nor installed again: {error.message}",
            hint=f"{error.hint} {again}" if error.hint else again,
        )
    return WorkerFailed(f"{model} could not be started, and was not installed again.", hint=again)
