"""One activation from its request to its one terminal fact: the nine stages, in order, in one function.

Until the commit nothing that is active is touched, unless memory demands it; then the old worker goes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import anyio

from moondream_station.core.activation.activation import Activation
from moondream_station.core.activation.choice import CPU
from moondream_station.core.activation.housekeeping import find_previous, sweep_leftovers
from moondream_station.core.activation.models import check_model, check_notice
from moondream_station.core.activation.prepare import (
    MEMORY_UNIT,
    Needs,
    detect_again,
    detect_machine,
    needs_of,
)
from moondream_station.core.activation.trials_file import learn
from moondream_station.core.activation.workshop import Tools, Workshop
from moondream_station.core.environments.store import amend, commit, reject, sync_ahead
from moondream_station.core.facts.errors import StationError, VerificationFailed, WorkerFailed
from moondream_station.core.facts.events import (
    ActivationSucceeded,
    Event,
    Stage,
    StopReason,
    VerificationCompleted,
    VerificationReport,
)
from moondream_station.core.home.active_file import read_active, write_active
from moondream_station.core.home.checkpoints import Point, reached
from moondream_station.core.home.locks import activation_lock
from moondream_station.core.home.log import Log
from moondream_station.core.home.storage import storage_failure
from moondream_station.core.serving.active_worker import ActiveWorker
from moondream_station.core.serving.workers import Environment, HostedWorker, WorkerHost
from moondream_station.core.worker.verification import Verification, WorkerPlan

_log = Log()
_CLEANUP_SECONDS = 5.0


class Orchestrator:
    """Runs activations, one at a time in a home."""

    def __init__(self, *, tools: Tools, host: WorkerHost, active: ActiveWorker | None) -> None:
        self.tools = tools
        self._host = host
        self._active = active

    async def run(self, activation: Activation, *, after: Activation | None = None) -> Event:
        """Run a requested activation, once the one before it has ended; returns its terminal fact.

        Whatever happens, exactly one is published. A bug of ours fails the activation, not the station.
        """
        try:
            with activation.scope:
                if after is not None:
                    await after.ended.wait()
                await self._activate(activation)
        except StationError as error:
            activation.fail(error)
        except OSError as error:
            activation.fail(storage_failure(error, self.tools.home.root))
        except Exception as error:  # noqa: BLE001  an activation ends once, also by a bug of ours
            _log.exception("activation broke", activation=activation.id)
            activation.fail(
                StationError(
                    f"Internal error (a bug in Moondream Station): {type(error).__name__}: {error}",
                    hint="Run the command again with MOONDREAM_STATION_LOG=debug and report its output.",
                )
            )
        finally:
            if activation.outcome is None:
                activation.end_cancelled()
            if self._active is not None:
                self._active.settle()
            activation.ended.set()
        assert activation.outcome is not None  # noqa: S101  every way above ends it
        return activation.outcome

    async def _activate(self, activation: Activation) -> None:
        """The nine stages. A rollback enters those that are left when the environment is given."""
        request, tools, began = activation.request, self.tools, anyio.current_time()
        model, needs, candidates = check_model(tools.manifest, request.model), None, None
        check_notice(tools.home, request.model, model, accept=request.accept_notice)
        activation.enter(Stage.PREPARE)
        async with (
            activation_lock(
                tools.home,
                activation=activation.id,
                command=f"switch {request.model}",
                on_wait=activation.waits,
            ),
            Workshop(tools, activation) as workshop,
        ):
            await sweep_leftovers(tools.home, activation)
            if not request.rollback:
                # None of the three needs another.
                async with workshop.providing(model.backend) as code, workshop.learning(model) as learned:
                    activation.enter(Stage.DETECT)
                    capabilities = await detect_machine(tools.cache, activation.publish)
                with activation.blamed_on(Stage.PREPARE):
                    needs = await needs_of(
                        activation, code(), capabilities, learned(), tools.manifest, tools.environ
                    )

            activation.enter(Stage.SELECT)
            environment = (
                await find_previous(activation, home=tools.home, manifest=tools.manifest)
                if needs is None
                else await workshop.reuse(needs)
            )
            while True:
                if environment is None:
                    assert needs is not None  # noqa: S101  a rollback's environment is given
                    candidates = candidates or await workshop.rebuild(needs) or await workshop.choose(needs)
                    workshop.announce(needs, candidates)
                    activation.enter(Stage.LOCK)
                    lock = await workshop.lock(needs, candidates)
                    activation.enter(Stage.DOWNLOAD)
                    async with workshop.building(needs, lock) as building:
                        wheels = await workshop.download(building, needs, candidates)
                        activation.enter(Stage.BUILD)
                        environment = await workshop.finish(building, wheels, needs, candidates)
                activation.enter(Stage.START)
                try:
                    async with self._worker(activation, environment) as worker:
                        activation.enter(Stage.VERIFY)
                        report = await self._verify(activation, worker, environment, needs)
                        await self._load(activation, worker, report.device, needs)
                        activation.enter(Stage.COMMIT)
                        await self._commit(environment, report, worker.found)
                        workshop.keep(environment)
                        self._succeed(activation, worker, environment, seconds=anyio.current_time() - began)
                        return
                except VerificationFailed as error:
                    failure = error
                if environment.is_committed and failure.is_curable:
                    await reject(environment.spec.place)
                build = environment.record.build
                if needs is None or not failure.is_curable or build is None or build == CPU:
                    raise failure
                if candidates is None or candidates.lock is not None:
                    # The environment was made when the machine was another one.
                    needs = await detect_again(needs, tools.cache, activation)
                    activation.enter(Stage.SELECT)
                    candidates = await workshop.choose(needs)
                workshop.fall_back(build, candidates, failure)
                environment = None

    @asynccontextmanager
    async def _worker(self, activation: Activation, environment: Environment) -> AsyncIterator[HostedWorker]:
        """A worker in an environment; where the block fails it ends."""
        hosted = await self._host.start(environment.spec, activation=activation.id)
        try:
            yield hosted
        except BaseException:
            with anyio.move_on_after(_CLEANUP_SECONDS, shield=True):
                await hosted.stop(StopReason.SHUTDOWN)
            raise

    async def _verify(
        self,
        activation: Activation,
        hosted: HostedWorker,
        environment: Environment,
        needs: Needs | None,
    ) -> VerificationReport:
        """Let torch compute, while what is new is made durable; later choices know what came of it."""
        spec, verification, failure = environment.spec, None, None
        async with sync_ahead(None if environment.is_committed else spec.place):
            try:
                verification = await hosted.worker.verify(spec.plan, progress=activation.progressed)
                activation.publish(
                    VerificationCompleted(
                        ok=verification.is_ok, report=verification.report, mismatches=verification.mismatches
                    )
                )
                verification.checked()
            except VerificationFailed as error:
                failure = error
            except WorkerFailed as error:
                if spec.plan.build in {None, CPU} and not environment.is_committed:
                    raise
                # An accelerator's library that takes the process down is one more way of not computing there.
                failure = VerificationFailed(error.message, hint=error.hint, log=error.log)
                failure.__cause__ = error
            if failure is None or (failure.is_curable and not hosted.worker.was_killed):
                await self._learn(needs, spec.plan, verification, failure)
            if failure is not None:
                raise failure
            assert verification is not None  # noqa: S101  else the worker failed
            return verification.report

    async def _learn(
        self,
        needs: Needs | None,
        plan: WorkerPlan,
        verification: Verification | None,
        failure: VerificationFailed | None,
    ) -> None:
        """Keep what a build came to on this machine; what another build can't cure is not the build's."""
        if needs is not None:
            home, catalog, why = self.tools.home, self.tools.catalog, failure.message if failure else None
            capabilities = needs.capabilities
            await anyio.to_thread.run_sync(learn, home, plan, verification, why, capabilities, catalog)

    async def _load(
        self, activation: Activation, hosted: HostedWorker, device: str | None, needs: Needs | None
    ) -> None:
        """Load the backend, beside the old one where memory is known to suffice for both.

        A backend that says how much it needs before it fetches its weights may end there.
        """

        def progressed(done: int, total: int | None, unit: str) -> None:
            if unit != MEMORY_UNIT:
                activation.progressed(done, total, unit)
            elif needs is not None:
                build, anyway = hosted.spec.plan.build, activation.request.anyway
                needs.with_memory(done).check(build, self.tools.catalog, anyway=anyway)

        has_room = await hosted.fetch(device, progress=progressed)
        if self._active is not None:
            await self._active.make_room(hosted.spec, has_room=has_room)
        await hosted.load(device, progress=activation.progressed)

    async def _commit(
        self, environment: Environment, report: VerificationReport, found: Mapping[str, Any]
    ) -> None:
        """Make the environment count, and its model the active one."""
        place, model = environment.spec.place, environment.spec.model
        record = replace(environment.record, found={**environment.record.found, model: found})
        if not environment.is_committed:
            await commit(place, replace(record, verification=report, created_at=datetime.now(UTC)))
        elif found != environment.record.found.get(model, {}):
            await amend(place, record)
        active = read_active(self.tools.home).with_active(
            model, environment=place.name, request_key=record.request_key
        )
        # From here on the model is active: no cancellation between the pointer and the fact that tells it.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(write_active, self.tools.home, active)
        reached(Point.NAMED)

    def _succeed(
        self, activation: Activation, hosted: HostedWorker, environment: Environment, *, seconds: float
    ) -> None:
        record = environment.record
        activation.end(
            ActivationSucceeded(
                model=hosted.spec.model,
                backend=hosted.spec.code.id,
                build=record.build,
                environment=environment.spec.place.name,
                degraded=record.degraded,
                seconds=round(seconds, 3),
            )
        )
        if self._active is None:
            hosted.release(StopReason.SHUTDOWN)
        else:
            self._active.take_over(hosted)
