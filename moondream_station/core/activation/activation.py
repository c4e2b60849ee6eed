"""One attempt to make a model the active one: what was asked, where it is, how it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from moondream_station.core.bus.bus import Bus
from moondream_station.core.bus.journal import Journal
from moondream_station.core.facts.errors import StationError
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationWaiting,
    CancelReason,
    EnvironmentBuilt,
    Event,
    Fact,
    Stage,
    StageProgressed,
    StageStarted,
)
from moondream_station.core.home.checkpoints import reached
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import Holder
from moondream_station.core.home.log import Log

_log = Log()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationRequest:
    """What was asked for: the activation's id, a model, known or not, and how its build is chosen."""

    id: str
    model: str
    strategy: str
    upgrade: bool = False
    python: Path | None = None
    rollback: bool = False
    anyway: bool = False
    """Whether to go on where the model does not fit the machine."""
    accept_notice: bool = False


class Activation:
    """A running activation. Its facts carry its id; exactly one of them, the last, is terminal."""

    def __init__(self, request: ActivationRequest, *, bus: Bus, journal: Journal) -> None:
        self.request = request
        self.id = request.id
        self.stage = Stage.PREPARE
        self.scope = anyio.CancelScope()
        self.cancel_reason = CancelReason.SHUTDOWN
        self.ended = anyio.Event()
        self.outcome: Event | None = None
        self._bus = bus
        self._journal = journal

    def is_for(self, request: ActivationRequest) -> bool:
        """Whether it does what the request asks for; one that is being cancelled does not.

        It may be allowed more than the request allows.
        """
        asked = self.request
        anyway, accept_notice = asked.anyway or request.anyway, asked.accept_notice or request.accept_notice
        asks = replace(request, id=self.id, anyway=anyway, accept_notice=accept_notice)
        return asked == asks and not self.scope.cancel_called

    def publish(self, fact: Fact) -> Event:
        """Publish a fact of this activation."""
        return self._bus.publish(fact, activation=self.id)

    def publish_outside(self, fact: Fact) -> Event:
        """Publish a fact that belongs to the station alone, though this activation brought it about."""
        return self._bus.publish(fact)

    def enter(self, stage: Stage) -> None:
        """Go on to a stage, visibly."""
        self.stage = stage
        self.publish(StageStarted(stage=stage))
        reached(stage)

    @contextmanager
    def blamed_on(self, stage: Stage) -> Iterator[None]:
        """What fails in the block belongs to an earlier stage, whose work went on beside the present one."""
        try:
            yield
        except StationError:
            self.stage = stage
            raise

    def waits(self, holder: Holder | None) -> None:
        """Tell that another process, if it is known, changes the home meanwhile."""
        pid, name, since = (holder.pid, holder.command, holder.since) if holder else (None, None, None)
        self.publish(ActivationWaiting(holder_pid=pid, holder_command=name, since=since))

    def progressed(self, done: int, total: int | None, unit: str) -> None:
        """Tell how far the present stage has come."""
        self.publish(StageProgressed(stage=self.stage, done=done, total=total, unit=unit))

    def built(self, environment: str, *, packages: int, began: float | None = None) -> None:
        """Report an environment that is there; `began` is None where it existed before."""
        seconds = 0.0 if began is None else round(anyio.current_time() - began, 3)
        fact = EnvironmentBuilt(
            environment=environment, packages=packages, reused=began is None, seconds=seconds
        )
        self.publish(fact)

    def cancel(self, reason: CancelReason) -> None:
        """Ask it to end. The first reason counts; one that has told its outcome is left alone."""
        if self.outcome is not None or self.scope.cancel_called:
            return
        self.cancel_reason = reason
        self.scope.cancel()

    def note(self, output: str) -> None:
        """Keep a tool's whole output in the journal."""
        self._journal.note(self.id, output)

    def end(self, fact: Fact) -> None:
        """Publish the terminal fact, once. `ended` is set by whoever runs it, when the home is free again.

        What fails on the way out of an activation that has ended is logged: its outcome stays.
        """
        if self.outcome is not None:
            _log.warning("activation_ended_already", activation=self.id, outcome=self.outcome.name, fact=fact)
            return
        self.outcome = self.publish(fact)

    def fail(self, error: StationError) -> None:
        """End as failed. The tool's whole output, where there is one, goes to the journal."""
        if error.log:
            self.note(error.log)
        self.end(ActivationFailed(model=self.request.model, stage=self.stage, error=error.info))

    def end_cancelled(self) -> None:
        """End as cancelled."""
        self.end(ActivationCancelled(model=self.request.model, stage=self.stage, reason=self.cancel_reason))


_POLL_SECONDS = 0.1
_STALE_SECONDS = 60.0


def cancel_request(home: Home, activation: str) -> Path:
    """The file whose existence asks an activation to end."""
    return home.activations / f"{activation}.cancel"


def ask_to_cancel(home: Home, activation: str) -> None:
    """Ask an activation of any process to end."""
    cancel_request(home, activation).touch()


def withdraw(home: Home, activation: str) -> None:
    """Take back what was asked of an activation that had ended by itself."""
    cancel_request(home, activation).unlink(missing_ok=True)


def sweep_cancel_requests(home: Home) -> None:
    """Remove what a `cancel` that was killed left behind: an activation takes a request away at once."""
    for path in home.activations.glob("*.cancel"):
        with suppress(FileNotFoundError):
            if abs(time.time() - path.stat().st_mtime) > _STALE_SECONDS:
                path.unlink()


async def wait_for_cancel_request(home: Home, activation: str) -> None:
    """Return when somebody asked the activation to end; the request is taken away."""
    path = anyio.Path(cancel_request(home, activation))
    while not await path.exists():  # noqa: ASYNC110  it is another process that makes the file
        await anyio.sleep(_POLL_SECONDS)
    await path.unlink(missing_ok=True)
