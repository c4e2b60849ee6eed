"""Which model is active, and the environment of each model: `active.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.errors import HomeUnusable
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import NewerFormat, read_record, write_record

Format = Literal["moondream-station/active/1"]

_ENVIRONMENT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}")
"""An environment's name; anything else could lead out of the home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The names of a model's environments."""

    environment: str
    previous: str | None
    """The one it had before, for `rollback`."""
    request_key: str
    """What `environment` was made for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRecord:
    """Which model is active, and each model's environment."""

    format: Format = "moondream-station/active/1"
    model: str | None = None
    models: Mapping[str, ModelRecord] = field(default_factory=dict)

    @property
    def environments(self) -> frozenset[str]:
        """The names of all environments that a model has or had before."""
        names = {name for record in self.models.values() for name in (record.environment, record.previous)}
        return frozenset(name for name in names if name is not None)

    def with_active(self, model: str, *, environment: str, request_key: str) -> ActiveRecord:
        """The record once the model is active in that environment; the one it had before becomes previous."""
        before = self.models.get(model)
        previous = None
        if before is not None:
            same = before.environment == environment
            previous = before.previous if same else before.environment
        record = ModelRecord(environment=environment, previous=previous, request_key=request_key)
        return replace(self, model=model, models={**self.models, model: record})

    def rolled_back(self, model: str, *, request_key: str) -> ActiveRecord:
        """The record with the model's two environments exchanged."""
        before = self.models[model]
        if before.previous is None:
            raise KeyError(model)
        record = ModelRecord(
            environment=before.previous, previous=before.environment, request_key=request_key
        )
        return replace(self, models={**self.models, model: record})

    def without(self, model: str) -> ActiveRecord:
        """The record without the model; nothing is active if it was."""
        models = {name: record for name, record in self.models.items() if name != model}
        return replace(self, model=None if self.model == model else self.model, models=models)


def read_active(home: Home) -> ActiveRecord:
    """What is active; an empty record where nothing ever was, `HomeUnusable` where nobody can tell."""
    try:
        return _checked(read_record(home.active, ActiveRecord, get_args(Format)[0]) or ActiveRecord())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        hint = "`moondream-station doctor --fix` rebuilds it from the installed environments."
        if isinstance(error, NewerFormat):
            hint = "Update this one: `python -m pip install --upgrade moondream-station`."
        raise HomeUnusable(f"{home.active} can't be used: {reason or error}.", hint=hint) from error


def _checked(record: ActiveRecord) -> ActiveRecord:
    if record.model is not None and record.model not in record.models:
        raise ValueError(f"it names {record.model} as active, but no environment for it")
    for name in sorted(record.environments):
        if not _ENVIRONMENT.fullmatch(name):
            raise ValueError(f"it names the environment {name!r}; a name looks like 0123abcd-4567")
    return record


def write_active(home: Home, record: ActiveRecord) -> None:
    """Replace `active.json` atomically and durably; what it names must be committed before."""
    write_record(home, home.active, f"{json.dumps(to_json(record), indent=2)}\n")
