"""The model that the report is about: the active one, else the one that would be."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from moondream_station.core.backends.manifest import Manifest, ModelInfo
from moondream_station.core.backends.provide import known_requirements
from moondream_station.core.environments.store import Committed, committed_at, place_of
from moondream_station.core.facts.errors import EnvironmentBroken
from moondream_station.core.home.active_file import ActiveRecord, ModelRecord, read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The active or default model, as far as it is on this computer."""

    model: str | None
    info: ModelInfo | None
    """Its entry in the manifest, None where there is none."""
    is_active: bool = False
    record: ModelRecord | None = None
    committed: Committed | None = None
    """Its environment, None where there is none that can be used."""
    requirements: tuple[str, ...] = ()
    """Its backend's requirements as far as they are known here, canonical."""

    @property
    def is_installed(self) -> bool:
        """Whether it has an environment, so that it works without any index."""
        return self.committed is not None

    @property
    def needs_torch(self) -> bool:
        """Whether its backend is known to use torch."""
        if self.committed is not None:
            return self.committed.record.build is not None
        return any(text.startswith("torch") for text in self.requirements)

    @property
    def words(self) -> str:
        """The model for a sentence."""
        return f"{'The active' if self.is_active else 'The default'} model {self.model}"


def find_subject(home: Home | None, settings: Settings, manifest: Manifest) -> Subject:
    """The active model, else the one that 0.1 had active; without a home the manifest's default."""
    active = read_active(home) if home else ActiveRecord()
    chosen = settings.current_model if home and settings.current_model in manifest.models else None
    model = active.model or chosen or manifest.default_model
    info = manifest.models.get(model or "")
    if home is None or model is None:
        return Subject(model=model, info=info)
    record, committed = active.models.get(model), None
    if record is not None:
        with suppress(EnvironmentBroken):
            committed = committed_of(home, record)
    return Subject(
        model=model,
        info=info,
        is_active=active.model == model,
        record=record,
        committed=committed,
        requirements=known_requirements(model, manifest=manifest, home=home),
    )


def committed_of(home: Home, record: ModelRecord) -> Committed:
    """The environment that a record names; `EnvironmentBroken` says why it can't be used."""
    return committed_at(place_of(home, record.environment))
