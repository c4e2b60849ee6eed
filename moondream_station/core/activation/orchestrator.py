"""One activation from its request to its one terminal fact.

The steps, in order: provide the backend's code while the machine is looked at; take an environment that was
made for the same, or choose a build and install it; let torch compute in it; load the backend; commit; hand
over. Until the commit nothing that is active is touched, unless memory demands it; then the old worker goes.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from moondream_station.core.activation.activation import Activation, error_from_system
from moondream_station.core.activation.candidates import CPU
from moondream_station.core.activation.install import Installation
from moondream_station.core.activation.prepare import Preparation, Prepared
from moondream_station.core.activation.rollback import find_previous
from moondream_station.core.activation.workshop import Installed, Making, Tools
from moondream_station.core.backends.code_store import sweep as sweep_code
from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.environments.store import CommitRecord, commit, sweep, sync_ahead
from moondream_station.core.facts.errors import StationError, VerificationFailed, WorkerFailed
from moondream_station.core.facts.events import (
    ActivationSucceeded,
    ActivationWaiting,
    Event,
    Stage,
    StopReason,
    VerificationCompleted,
)
from moondream_station.core.home.active_file import read_active, write_active
from moondream_station.core.home.checkpoints import Point, reached
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import Holder, activation_lock
from moondream_station.core.home.log import Log
from moondream_station.core.selection.conclusions import Conclusions, conclusions
from moondream_station.core.serving.active_worker import ActiveWorker
from moondream_station.core.serving.worker_host import HostedWorker, WorkerHost, WorkerSpec
from moondream_station.core.worker.verification import Verification, WorkerPlan, checked

_log = Log()
_CLEANUP_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker whose backend is loaded, and what torch reported in it."""

    hosted: HostedWorker
    installed: Installed
    verification: Verification


class Orchestrator:
    """Runs activations, one at a time in a home.

    Args:
        home: The home that is changed.
        preparation: Finds out what is needed before a build can be chosen.
        tools: What installations work with.
        host: Starts workers.
        active: Holds the active model's worker; None where nothing serves.
    """

    def __init__(
        self,
        *,
        home: Home,
        preparation: Preparation,
        tools: Tools,
        host: WorkerHost,
        active: ActiveWorker | None,
    ) -> None:
        self._home = home
        self._preparation = preparation
        self._tools = tools
        self._host = host
        self._active = active

    async def run(self, activation: Activation, *, after: Activation | None = None) -> Event:
        """Run an activation that was requested; returns its terminal fact.

        Whatever happens, exactly one is published. A fault of ours fails the activation, not the station.

        Args:
            activation: Its `BackendActivationRequested` is published.
            after: The activation before it, which must have ended before this one begins.
        """
        try:
            with activation.scope:
                if after is not None:
                    await after.ended.wait()
                await self._attempt(activation)
        except StationError as error:
            activation.fail(error)
        except OSError as error:
            activation.fail(error_from_system(error))
        except Exception as error:  # noqa: BLE001  an activation ends once, also by a fault of ours
            _log.exception("activation broke", activation=activation.id)
            activation.fail(
                StationError(
                    f"The station made a mistake: {type(error).__name__}: {error}",
                    hint="Run it again with MOONDREAM_STATION_LOG=debug, and report what it prints.",
                )
            )
        finally:
            if activation.outcome is None:
                activation.end_cancelled()
            activation.ended.set()
        assert activation.outcome is not None  # noqa: S101  every way above ends it
        return activation.outcome

    async def _attempt(self, activation: Activation) -> None:
        started = anyio.current_time()
        self._preparation.check_model(activation.request.model)

        def waiting(holder: Holder | None) -> None:
            activation.publish(
                ActivationWaiting(
                    holder_pid=holder.pid if holder else None,
                    holder_command=holder.command if holder else None,
                    since=holder.since if holder else None,
                )
            )

        activation.enter(Stage.PREPARE)
        command = f"switch {activation.request.model}"
        async with activation_lock(self._home, activation=activation.id, command=command, on_wait=waiting):
            await sweep(self._home)
            await anyio.to_thread.run_sync(sweep_code, self._home)
            if activation.request.rollback:
                await self._roll_back(activation, started=started)
                return
            prepared = await self._preparation.prepare(activation)
            async with Making(self._tools, activation, prepared) as making:
                installation = Installation(self._tools, making, activation, prepared)
                ready = await self._make_ready(activation, prepared, installation)
                await self._commit(
                    activation, ready, ready.installed.record(prepared, ready.verification.report)
                )
                making.keep(ready.installed)
                self._succeed(activation, ready, seconds=anyio.current_time() - started)

    async def _roll_back(self, activation: Activation, *, started: float) -> None:
        """Go back to the environment that the model had before: nothing is chosen, and nothing installed."""
        manifest = self._preparation.manifest
        existing = await find_previous(activation, home=self._home, manifest=manifest)
        ready = await self._start(activation, existing.spec, Installed.of(existing.committed))
        await self._commit(activation, ready, existing.committed.record)
        self._succeed(activation, ready, seconds=anyio.current_time() - started)

    async def _make_ready(
        self, activation: Activation, prepared: Prepared, installation: Installation
    ) -> Ready:
        installed = await installation.install()
        while True:
            try:
                prepared.check_gpu(installed.build)
                return await self._start(
                    activation, _spec(prepared, installed, self._tools.catalog), installed
                )
            except VerificationFailed as error:
                failure = error
            following = None
            if failure.is_curable and installed.build not in {None, CPU}:
                following = await installation.fall_back(installed, failure.message)
            if following is None:
                raise failure
            installed = following

    async def _start(self, activation: Activation, spec: WorkerSpec, installed: Installed) -> Ready:
        activation.enter(Stage.START)
        hosted = await self._host.start(spec, activation=activation.id)
        try:
            activation.enter(Stage.VERIFY)
            async with sync_ahead(installed.place if installed.committed is None else None):
                verification = await self._verify(activation, hosted)
            device = verification.report.device
            has_room = await hosted.fetch(device, progress=activation.progressed)
            if not (has_room or self._active is None or self._active.may_overlap(spec)):
                await self._active.make_room(spec)
            await hosted.load(device, progress=activation.progressed)
        except BaseException:
            with anyio.move_on_after(_CLEANUP_SECONDS, shield=True):
                await self._give_up(hosted)
            raise
        return Ready(hosted=hosted, installed=installed, verification=verification)

    async def _verify(self, activation: Activation, hosted: HostedWorker) -> Verification:
        try:
            verification = await hosted.worker.verify(hosted.spec.plan, progress=activation.progressed)
        except WorkerFailed as error:
            if hosted.spec.plan.build in {None, CPU}:
                raise
            # An accelerator's library that takes the process down is one more way of not computing there.
            raise VerificationFailed(error.message, hint=error.hint, log=error.log) from error
        activation.publish(
            VerificationCompleted(
                ok=verification.is_ok, report=verification.report, mismatches=verification.mismatches
            )
        )
        return checked(verification)

    async def _commit(self, activation: Activation, ready: Ready, record: CommitRecord) -> None:
        """Make the environment count, and its model the active one; a worker that can't be kept ends."""
        activation.enter(Stage.COMMIT)
        try:
            await self._replace(ready, record)
        except BaseException:
            with anyio.move_on_after(_CLEANUP_SECONDS, shield=True):
                await self._give_up(ready.hosted)
            raise

    async def _replace(self, ready: Ready, record: CommitRecord) -> None:
        place = ready.installed.place
        if ready.installed.committed is None:
            await commit(place, record)
        active = read_active(self._home).with_active(
            ready.hosted.spec.model, environment=place.name, request_key=record.request_key
        )
        # From here on the model is active: no cancellation between the pointer and the fact that tells it.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(write_active, self._home, active)
        reached(Point.NAMED)

    def _succeed(self, activation: Activation, ready: Ready, *, seconds: float) -> None:
        spec = ready.hosted.spec
        activation.end(
            ActivationSucceeded(
                model=spec.model,
                backend=spec.code.id,
                build=ready.installed.build,
                environment=ready.installed.place.name,
                degraded=ready.installed.degraded,
                seconds=round(seconds, 3),
            )
        )
        if self._active is None:
            ready.hosted.release(StopReason.SHUTDOWN)
        else:
            self._active.take_over(ready.hosted)

    async def _give_up(self, hosted: HostedWorker) -> None:
        try:
            await hosted.stop(StopReason.SHUTDOWN)
        finally:
            if self._active is not None:
                self._active.restore()


def _spec(prepared: Prepared, installed: Installed, catalog: Catalog) -> WorkerSpec:
    build, torch = installed.build, installed.torch
    thought = conclusions(build, torch, prepared.capabilities, catalog) if build and torch else Conclusions()
    return WorkerSpec(
        model=prepared.model_id,
        code=prepared.code,
        args=prepared.model.args,
        place=installed.place,
        plan=WorkerPlan(build=build, torch=torch, conclusions=thought),
    )
