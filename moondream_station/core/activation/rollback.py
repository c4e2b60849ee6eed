"""Going back to the environment that a model had before: whole and working, before it is named again.

Of the active model that is an activation like any other, with the environment given instead of made: its
worker is loaded, and whoever serves goes on with it. Of any other model only the names are exchanged, once
torch has computed in the environment again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from moondream_station.core.activation.activation import Activation
from moondream_station.core.backends.manifest import Manifest
from moondream_station.core.bus.bus import new_activation_id
from moondream_station.core.facts.errors import NothingToRollBack
from moondream_station.core.facts.events import BuildSelected
from moondream_station.core.home.active_file import read_active, write_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import Holder, activation_lock
from moondream_station.core.processes.child_process import child_environment
from moondream_station.core.serving.worker_host import Environment, existing_worker
from moondream_station.core.worker.verification import checked
from moondream_station.core.worker.worker import open_worker


def previous_environment(home: Home, model: str) -> str:
    """The name of the environment that a model had before the one it has."""
    record = read_active(home).models.get(model)
    if record is None:
        raise NothingToRollBack(
            f"{model} has no environment.", hint="`moondream-station models` shows what is installed."
        )
    if record.previous is None:
        raise NothingToRollBack(
            f"{model} has had no other environment than {record.environment}.",
            hint=f"`moondream-station switch {model} --upgrade` creates another one and keeps this one.",
        )
    return record.previous


def check_rollback(home: Home, model: str) -> str:
    """The environment that the active model had before; `NothingToRollBack` for any other model too."""
    previous = previous_environment(home, model)
    if read_active(home).model != model:
        raise NothingToRollBack(
            f"{model} is not the active model.",
            hint=f"`moondream-station rollback {model}` handles inactive models, too.",
        )
    return previous


async def find_previous(activation: Activation, *, home: Home, manifest: Manifest) -> Environment:
    """The environment that the activation goes back to; reported as an installation reports what it reuses.

    Only for the holder of `activation.lock`. One that can't be used any more is an error by its cause.
    """
    model = activation.request.model
    environment = await existing_worker(home, manifest, model, check_rollback(home, model))
    record = environment.record
    choice = BuildSelected(
        build=record.build,
        torch=record.torch.partition("+")[0] if record.torch else None,
        index_url=record.index_url,
        source=record.source,
        reason="Going back to the environment that the model had before.",
        candidates=(),
    )
    activation.publish(choice)
    activation.built(environment.spec.place.name, packages=len(record.packages))
    return environment


async def exchange(
    home: Home,
    manifest: Manifest,
    model: str,
    *,
    environ: Mapping[str, str],
    on_wait: Callable[[Holder | None], None],
) -> bool:
    """Go back to the former environment of a model that is not active; torch computes in it before.

    Gives whether it was done: nothing is for the active model.
    """
    command = f"rollback {model}"
    async with activation_lock(home, activation=new_activation_id(), command=command, on_wait=on_wait):
        record = read_active(home)
        environment = await existing_worker(home, manifest, model, previous_environment(home, model))
        if record.model == model:
            return False
        spec = environment.spec
        async with open_worker(
            spec.place.python,
            env=child_environment(environ),
            cwd=spec.code.folder,
            log_path=home.worker_log(model),
            threads=1,
        ) as worker:
            checked(await worker.verify(spec.plan))
        write_active(home, record.rolled_back(model, request_key=environment.record.request_key))
    return True
