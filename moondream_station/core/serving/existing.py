"""Workers from environments that exist: as committed, nothing resolved and nothing installed."""

from __future__ import annotations

from dataclasses import dataclass

from moondream_station.core.backends.code_store import read_backend
from moondream_station.core.backends.manifest import Manifest
from moondream_station.core.environments.place import place_of
from moondream_station.core.environments.store import Committed, check_whole, load_commit
from moondream_station.core.facts.errors import BackendUnavailable, EnvironmentBroken
from moondream_station.core.home.layout import Home
from moondream_station.core.serving.worker_host import WorkerSpec
from moondream_station.core.worker.verification import WorkerPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """An environment that was committed and is whole, and the worker that belongs to it."""

    committed: Committed
    spec: WorkerSpec


async def existing_worker(home: Home, manifest: Manifest, model: str, environment: str) -> Existing:
    """A model's worker in an environment that it has, or had before.

    Args:
        home: The home.
        manifest: The models and their backends.
        model: The model's id.
        environment: The environment's name.

    Raises:
        UnknownModel: The manifest has no such model.
        EnvironmentBroken: The environment is gone, or not whole.
        BackendUnavailable: The code it was made for is gone.
    """
    place = place_of(home, environment)
    commit = load_commit(place)
    if commit is None:
        raise EnvironmentBroken(f"The environment {place.name} of {model} is gone.", hint=_another(model))
    committed = Committed(place=place, record=commit)
    try:
        await check_whole(committed)
    except EnvironmentBroken as broken:
        raise EnvironmentBroken(broken.message, hint=_another(model), log=broken.log) from broken
    code = read_backend(home, commit.backend, commit.backend_version)
    if code is None:
        raise BackendUnavailable(
            f"The code of the backend {commit.backend} {commit.backend_version} is gone.",
            hint=f"`moondream-station switch {model}` brings it again.",
        )
    spec = WorkerSpec(
        model=model,
        code=code,
        args=manifest.model(model).args,
        place=place,
        plan=WorkerPlan(build=commit.build, torch=commit.torch),
    )
    return Existing(committed=committed, spec=spec)


def _another(model: str) -> str:
    return f"`moondream-station switch {model} --upgrade` makes another one."
