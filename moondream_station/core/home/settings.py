"""What the user has set: flag before variable before config.json before default."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.facts.redact import checked_url, redact_url
from moondream_station.core.home.layout import Home, home_unusable, in_the_way
from moondream_station.core.home.storage import read_json, write_atomically, writing_to

TORCH_INDEX = "https://download.pytorch.org/whl"
_SCHEMES = frozenset({"http", "https", "file"})
_URLS = frozenset({"torch_index", "manifest", "catalog"})

VARIABLES = {
    "MOONDREAM_STATION_MANIFEST": "manifest",
    "MOONDREAM_STATION_TORCH_INDEX": "torch_index",
    "MOONDREAM_STATION_STRATEGY": "strategy",
    "MOONDREAM_STATION_CATALOG": "catalog",
    "MOONDREAM_STATION_VENDOR_INDEXES": "vendor_indexes",
    "MOONDREAM_STATION_LOG": "log",
    "MOONDREAM_STATION_KEEP_ALIVE": "keep_alive",
}
"""The setting that each variable stands for."""


def _number(default: float | None, least: float, most: float | None = None) -> Any:
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, each with its default. Keys of Moondream Station 0.1 keep their names.

    Keys that are not known here, also those of other versions, are neither used nor touched. A dataclass
    and not a pydantic model: importing pydantic takes longer than `status` does.

    Args:
        manifest: Path or URL of the manifest; None is the built-in one.
        torch_index: Base URL of the PyTorch index or its mirror; `/TAG/torch/` is appended.
        strategy: `auto`, `guide` or a build's name.
        catalog: A catalog of builds: a file, or an https URL with `#sha256=…`; None is the bundled one.
        vendor_indexes: 1 or 0: whether AMD's own indexes may be asked for an AMD GPU.
        log: Log level; None is `error` at the prompt, `info` where `serve` has no terminal, else `warning`.
        service_host: Address to serve on.
        service_port: First port to try, 0 to 65535.
        current_model: The model that 0.1 had active; while none is active, the doctor looks at this one.
        models_dir: Where 0.1 kept models; accepted, and not used.
        inference_workers: Requests answered at the same time, 1 or more, where a backend can; see `parallel`
            in the manifest.
        inference_max_queue_size: Requests that may wait, 0 or more.
        inference_timeout: Seconds a request may take; None is 30, on a CPU 600.
        mcp: Whether `POST /mcp` serves agents.
        mcp_folders: Folders whose image files agents may name there.
        keep_alive: Seconds after which an idle worker ends; the next request starts it again. -1
            is never. What the manifest says of a model goes before it.
        access_log: Whether each HTTP request is logged, as a line of JSON on stderr.
    """

    manifest: str | None = None
    torch_index: str = TORCH_INDEX
    strategy: str = "auto"
    catalog: str | None = None
    vendor_indexes: int = _number(1, 0, 1)
    log: str | None = None
    service_host: str = "127.0.0.1"
    service_port: int = _number(2020, 0, 65535)
    current_model: str | None = None
    models_dir: str | None = None
    inference_workers: int = _number(1, 1, 64)
    inference_max_queue_size: int = _number(10, 0, 10_000)
    inference_timeout: float | None = _number(None, 0.001)
    mcp: bool = False
    mcp_folders: tuple[str, ...] = ()
    keep_alive: float = _number(-1.0, -1)
    access_log: bool = False


SETTINGS = {each.name: each for each in fields(Settings)}
"""The fields by name, in the order of the reference."""


def check_setting(key: str, value: Any) -> Any:
    """A setting's value in its type, numbers also from text; `ValueError` says what it must be."""
    known = SETTINGS[key]
    kinds = str(known.type)
    if value is None and "None" in kinds:
        return None
    if "bool" in kinds:
        return _yes_or_no(value)
    if "tuple" in kinds:
        return _texts(value)
    if "str" in kinds:
        if not isinstance(value, str):
            raise ValueError("it must be text")
        if key in _URLS:
            _check_url(key, value)
        return value
    least, most = known.metadata["least"], known.metadata["most"]
    kind, words = (int, "a whole number") if "int" in kinds else (float, "a number")
    with suppress(TypeError, ValueError, OverflowError):
        number = kind(value)
        is_exact = isinstance(value, str) or (number == value and not isinstance(value, bool))
        # No JSON has an infinity: config.json with one is no file that other programs read.
        if is_exact and math.isfinite(number) and least <= number <= (number if most is None else most):
            return number
    raise ValueError(f"it must be {words} {f'from {least} to {most}' if most else f'of at least {least}'}")


def _yes_or_no(value: Any) -> bool:
    text = value.strip().lower() if isinstance(value, str) else value
    if text not in (True, False, "true", "false") or not isinstance(text, str | bool):
        raise ValueError("it must be true or false")
    return text in (True, "true")


def _texts(value: Any) -> tuple[str, ...]:
    """Several texts, as a list or, as in `PATH`, in one."""
    texts = value.split(os.pathsep) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"it must be a list of texts, or one with {os.pathsep!r} between them")
    return tuple(text.strip() for text in texts if text.strip())


def _check_url(key: str, text: str) -> None:
    scheme = urlsplit(checked_url(text, f"the setting `{key}`")).scheme
    if key == "catalog":
        return  # whatever is wrong with it, there is the bundled one
    # A manifest may be a path too; what looks like a URL must be one that is fetched or read.
    if text and ("://" in text or key == "torch_index") and scheme not in _SCHEMES:
        raise SettingsInvalid(
            f"The setting `{key}` is {redact_url(text)!r}, which is not an http:, https: or file: URL.",
            hint="Correct it where it is set: a variable MOONDREAM_STATION_… or config.json in the home.",
        )


def load_settings(home: Home | None, environ: Mapping[str, str], **flags: Any) -> Settings:
    """Read the settings, without a home those alone that are not in its config.json."""
    stored = read_config(home.config) if home else {}
    variables = {key: environ[name] for name, key in VARIABLES.items() if environ.get(name, "").strip()}
    given = {key: value for key, value in flags.items() if value is not None}
    merged = {**stored, **variables, **given}
    values = {}
    for key in filter(merged.__contains__, SETTINGS):
        try:
            values[key] = check_setting(key, merged[key])
        except ValueError as error:
            origin = next((name for name, to in VARIABLES.items() if to == key and key in variables), None)
            place = home.config if home else "The settings"
            raise SettingsInvalid(
                f"{origin or place}: {key} is {merged[key]!r}; {error}.",
                hint=f"Correct or remove {origin or f'`{key}` in {place}'}.",
            ) from error
    return Settings(**values)


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


def write_config(home: Home, config: Mapping[str, Any]) -> None:
    """Replace config.json; it may hold passwords of mirrors, and stays as readable as it was."""
    mode = home.config.stat().st_mode & 0o777 if home.config.exists() else 0o600
    with writing_to(home.root):
        write_atomically(home.config, f"{json.dumps(config, indent=2)}\n", mode=mode)
