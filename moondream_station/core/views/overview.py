"""What a home says of itself, read from its files: where nothing serves, and where a station begins."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from moondream_station.core.bus.journal import read_activation
from moondream_station.core.capabilities.cache import read_cached
from moondream_station.core.environments.store import CommitRecord, committed_at, load_commit, place_of
from moondream_station.core.facts.activation_state import Active
from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.errors import EnvironmentBroken
from moondream_station.core.facts.selection import Fit
from moondream_station.core.facts.state import StationInfo, StationState, apply
from moondream_station.core.home.active_file import ActiveRecord, ModelRecord, read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import activation_holder

if TYPE_CHECKING:
    from moondream_station.core.backends.manifest import Manifest, ModelInfo


def stored_state(
    home: Home, *, station: StationInfo | None = None, manifest: Manifest | None = None
) -> StationState:
    """The active model and the machine, as the home's files have them; no worker runs yet.

    A model that `active.json` names is active also where its environment's record is lost: a station makes
    it again. The manifest then tells its backend.

    Raises:
        HomeUnusable: `active.json` can't be read.
    """
    record = read_active(home)
    stored = record.models.get(record.model) if record.model else None
    commit = load_commit(place_of(home, stored.environment)) if stored else None
    active = None
    if record.model is not None and stored is not None:
        known = manifest.models.get(record.model) if manifest else None
        active = Active(
            model=record.model,
            backend=commit.backend if commit else known.backend if known else record.model,
            build=commit.build if commit else None,
            torch=commit.torch.partition("+")[0] if commit and commit.torch else None,
            environment=stored.environment,
            degraded=commit.degraded if commit else None,
        )
    return StationState(
        station=station,
        active=active,
        verification=commit.verification if commit else None,
        capabilities=read_cached(home),
    )


def why_broken(home: Home) -> str | None:
    """Why the active model has to be installed again before it is served; None where it need not be."""
    record = read_active(home)
    try:
        if record.model is not None:
            committed_at(place_of(home, record.models[record.model].environment))
    except EnvironmentBroken as broken:
        return f"{broken.message} `moondream-station switch {record.model}` or `serve` installs it again."
    return None


def present_state(home: Home) -> StationState:
    """The stored state, and the activation that another process runs in this home, if one does."""
    state = stored_state(home)
    holder = activation_holder(home)
    if holder is not None:
        for event in read_activation(home, holder.activation):
            state = apply(state, event)
    return state


def models_shape(
    manifest: Manifest,
    active: ActiveRecord,
    fits: Mapping[str, Fit],
    accepted: AbstractSet[str],
    commits: Mapping[str, CommitRecord | None],
) -> dict[str, Any]:
    """Every model in the manifest's order, whether it fits, and the manifest's news of the station.

    `accepted` are the digests of the notices that the user has accepted, `commits` the records of the models'
    environments.
    """
    return {
        "models": [
            _model(manifest, active, model_id, fits[model_id], accepted, commits.get(model_id))
            for model_id in manifest.models
        ],
        **news_shape(manifest),
    }


def news_shape(manifest: Manifest) -> dict[str, Any]:
    """What the manifest says of this version of the station, and of a newer one."""
    messages = [message.model_dump(exclude={"version"}) for message in manifest.messages_for()]
    return {"latest_version": manifest.latest_version, "messages": messages}


def _model(
    manifest: Manifest,
    active: ActiveRecord,
    model_id: str,
    fit: Fit,
    accepted: AbstractSet[str],
    commit: CommitRecord | None,
) -> dict[str, Any]:
    info = manifest.models[model_id]
    reason = manifest.unsupported_reason(model_id)
    return {
        "id": model_id,
        "name": info.name,
        "description": info.description,
        "version": info.version,
        "backend": info.backend,
        "supported": reason is None,
        "reason": reason,
        "installed": model_id in active.models,
        "active": active.model == model_id,
        "fit": to_json(fit),
        "system_requirements": info.system_requirements,
        "notice": notice_shape(info, accepted),
        "environment": _environment(active.models.get(model_id), commit),
    }


def _environment(stored: ModelRecord | None, commit: CommitRecord | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    return {
        "name": stored.environment,
        "build": commit.build if commit else None,
        "torch": commit.torch if commit else None,
        "previous": stored.previous,
    }


def notice_shape(info: ModelInfo | None, accepted: AbstractSet[str]) -> dict[str, Any] | None:
    """A model's notice, and whether it was accepted; None where it has none."""
    if info is None or info.notice is None:
        return None
    notice = info.notice
    return {"text": notice.text, "url": notice.url, "accepted": notice.digest in accepted}
