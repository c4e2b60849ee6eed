"""What the user has set: flag before variable before config.json before default."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.facts.redact import checked_url, redact_url
from moondream_station.core.home.layout import Home, home_unusable, in_the_way
from moondream_station.core.home.storage import read_json

TORCH_INDEX = "https://download.pytorch.org/whl"
_SCHEMES = frozenset({"http", "https", "file"})

VARIABLES = {
    "MOONDREAM_STATION_MANIFEST": "manifest",
    "MOONDREAM_STATION_TORCH_INDEX": "torch_index",
    "MOONDREAM_STATION_STRATEGY": "strategy",
    "MOONDREAM_STATION_LOG": "log",
}
"""The setting that each variable stands for."""


class Settings(BaseModel):
    """All settings, each with its default. Keys of Moondream Station 0.1 keep their names.

    Keys that are not known here, also those of other versions, are neither used nor touched.

    Args:
        manifest: Path or URL of the manifest; None is the built-in one.
        torch_index: Base URL of the PyTorch index or its mirror; `/TAG/torch/` is appended.
        strategy: `auto`, `guide` or a build's name.
        log: Log level; None is `error` at the prompt, `info` where `serve` has no terminal, else `warning`.
        service_host: Address to serve on.
        service_port: First port to try, 0 to 65535.
        current_model: The model that 0.1 had active; while none is active, the doctor looks at this one.
        models_dir: Where 0.1 kept models; accepted, and not used.
        inference_workers: Requests computed at the same time, 1 or more.
        inference_max_queue_size: Requests that may wait, 0 or more.
        inference_timeout: Seconds a request may take; 600 on a CPU where it is not set.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    manifest: str | None = None
    torch_index: str = TORCH_INDEX
    strategy: str = "auto"
    log: str | None = None
    service_host: str = "127.0.0.1"
    service_port: int = Field(default=2020, ge=0, le=65535)
    current_model: str | None = None
    models_dir: str | None = None
    inference_workers: int = Field(default=1, ge=1, le=64)
    inference_max_queue_size: int = Field(default=10, ge=0, le=10_000)
    inference_timeout: float = Field(default=30.0, gt=0)


def load_settings(home: Home | None, environ: Mapping[str, str], **flags: Any) -> Settings:
    """Read the settings, without a home those alone that are not in its config.json."""
    stored = read_config(home.config) if home else {}
    variables = {key: environ[name] for name, key in VARIABLES.items() if environ.get(name, "").strip()}
    given = {key: value for key, value in flags.items() if value is not None}
    merged = {**stored, **variables, **given}
    for name in {"torch_index", "manifest"} & merged.keys():
        text = str(merged[name] or "")
        scheme = urlsplit(checked_url(text, f"the setting `{name}`")).scheme
        # A manifest may be a path too; what looks like a URL must be one that is fetched or read.
        if text and ("://" in text or name == "torch_index") and scheme not in _SCHEMES:
            raise SettingsInvalid(
                f"The setting `{name}` is {redact_url(text)!r}, which is not an http:, https: or file: URL.",
                hint="Correct it where it is set: a variable MOONDREAM_STATION_… or config.json in the home.",
            )
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        origin = next((name for name, to in VARIABLES.items() if to == key and key in variables), None)
        place = home.config if home else "The settings"
        raise SettingsInvalid(
            f"{origin or place}: {key} is {first['input']!r}: {first['msg']}.",
            hint=f"Correct or remove {origin or f'`{key}` in {place}'}.",
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """config.json as it is, empty where there is none."""
    old = path.with_name(f"{path.name}.old")
    set_aside = f"Correct it, or set it aside: `mv {shlex.quote(str(path))} {shlex.quote(str(old))}`."
    try:
        data = read_json(path)
    except NotADirectoryError as error:
        raise home_unusable(f"The home {path.parent} is not a folder.") from error
    except PermissionError as error:
        what = path if os.access(path.parent, os.X_OK) else f"The home {path.parent}"
        raise home_unusable(f"{what} can't be read: {error.strerror}.", path) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        misplaced = in_the_way(error) if isinstance(error, OSError) else None
        hint = misplaced.hint if misplaced else set_aside
        raise SettingsInvalid(f"{path} can't be read: {reason or error}.", hint=hint) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingsInvalid(f"{path} is not a JSON object.", hint=set_aside)
    return data
