"""`status`, `models` and `settings`: what there is, by the serving station or by the home's files."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread

from moondream_station.console.interrupts import run_loop
from moondream_station.console.logging import LEVELS, begin
from moondream_station.console.output import folded, print_progress, print_text, table, terminal_width
from moondream_station.core.facts.errors import SettingsInvalid, StationError, UsageError
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.facts.version import VERSION
from moondream_station.core.home.layout import Home, home_from
from moondream_station.core.home.locks import StationRecord, read_station
from moondream_station.core.home.settings import (
    SETTINGS,
    VARIABLES,
    Settings,
    check_setting,
    load_settings,
    read_config,
    write_config,
)
from moondream_station.panel.words import figure_rows, status_rows

if TYPE_CHECKING:
    from moondream_station.http.client import StationClient

T = TypeVar("T")

_USAGE = "`moondream-station settings`, `settings set KEY VALUE` or `settings unset KEY`."
_FIT_WORDS = {"fits": "yes", "tight": "tight", "does not fit": "no"}


def run_status(*, watch: bool, as_json: bool) -> int:
    """Print the active model and what runs; returns the exit code."""
    if watch:
        from moondream_station.cli.watch import run_watch  # noqa: PLC0415  it draws

        return run_watch(json.dumps, None) if as_json else run_watch(status_text, read_figures)
    home, _ = begin()
    record = read_station(home)
    figures: Sequence[tuple[str, str]] = ()
    if record is None:
        from moondream_station.core.facts.state import status  # noqa: PLC0415
        from moondream_station.core.views.overview import (  # noqa: PLC0415  only where nothing serves
            present_state,
            why_broken,
        )

        shown: Mapping[str, Any] = status(present_state(home))
        broken = why_broken(home)
    else:
        broken = None  # the station installs it again by itself
        shown = run_loop(_ask, record, lambda client: client.status())
        figures = () if as_json else run_loop(_ask, record, read_figures)
    text = status_text(shown, broken, figures=figures, width=terminal_width())
    print_text(text, shown, as_json=as_json)
    return 0


def run_models(*, as_json: bool) -> int:
    """Print the manifest's models; returns the exit code."""
    shown = read_models(*begin())
    print_text(models_text(shown, width=terminal_width()), shown, as_json=as_json)
    return 0


def read_models(home: Home, settings: Settings) -> Mapping[str, Any]:
    """The models shape, from the station that serves the home or by its files."""
    record = read_station(home)
    if record is None:
        return run_loop(_models_here, home, settings)
    return run_loop(_ask, record, lambda client: client.models())


def models_text(shown: Mapping[str, Any], *, width: int | None = None) -> str:
    """The models shape for people, broken to `width` columns, and what the manifest says of this version."""
    rows = [
        {
            "model": f"{model['id']}{' *' if model['active'] else ''}",
            "installed": "yes" if model["installed"] else "no",
            "supported": "yes" if model["supported"] else f"no: {model['reason']}",
            "fits": _FIT_WORDS.get(str((model.get("fit") or {}).get("verdict")), "?"),
            "description": " ".join(_description(model)),
        }
        for model in shown["models"]
    ]
    lines = table(rows, ("model", "installed", "supported", "fits", "description"), width=width)
    return "\n".join([lines, *news_lines(shown)])


def _description(model: Mapping[str, Any]) -> Iterator[str]:
    yield model["description"]
    fit = model.get("fit") or {}  # an older station that serves has none
    if fit.get("verdict") in {"tight", "does not fit"}:
        yield f"{fit['verdict'].capitalize()}: {fit['reason']}."
    if required := model.get("system_requirements"):
        yield f"Requirements: {', '.join(f'{name} {value}' for name, value in required.items())}."


def news_lines(shown: Mapping[str, Any]) -> Iterator[str]:
    """What the manifest says of this version of the station, and of a newer one."""
    for message in shown.get("messages", ()):
        yield f"{message['severity']}: {message['message']}"
    if latest := shown.get("latest_version"):
        yield (
            f"Moondream Station {latest} is available; this is {VERSION}."
            " `python -m pip install --upgrade moondream-station` updates it."
        )


async def read_figures(client: StationClient) -> Sequence[tuple[str, str]]:
    """A station's figures as labels and words; none from a station that is too old to have them."""
    with suppress(StationError, KeyError):
        return figure_rows(*await client.figures())
    return ()


def status_text(
    shown: Mapping[str, Any],
    broken: str | None = None,
    *,
    figures: Sequence[tuple[str, str]] = (),
    width: int | None = None,
) -> str:
    """The status shape for people, broken to `width` columns; `broken` as for `status_rows`."""
    rows = [f"{label}: {words}" for label, words in (*status_rows(shown, broken), *figures)]
    if activation := shown["activation"]:
        where = f"at {activation['stage']}, since {activation['started_at']}"
        rows.append(f"Running: switch to {activation['model']}, {where}")
    for call in shown["calls"] or ():
        total = "" if call["total"] is None else f" of {call['total']}"
        done = "" if call["done"] is None else f", {call['done']}{total} {call['unit']} so far"
        rows.append(f"Answering: {call['function']}, since {call['seconds']:.0f} s{done}")
    return "\n".join(folded(row, width) for row in rows)


async def _ask(record: StationRecord, question: Callable[[StationClient], Awaitable[T]]) -> T:
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    async with StationClient(record.address, token=record.token) as client:
        return await question(client)


async def _models_here(home: Home, settings: Settings) -> Mapping[str, Any]:
    from moondream_station.core.activation.models import list_models  # noqa: PLC0415
    from moondream_station.core.backends.manifest_loader import open_manifest  # noqa: PLC0415
    from moondream_station.core.capabilities.cache import CapabilityCache  # noqa: PLC0415
    from moondream_station.core.index.catalog_loader import open_catalog  # noqa: PLC0415
    from moondream_station.core.machine.machine import LocalMachine  # noqa: PLC0415

    manifest = await open_manifest(home, settings, os.environ)
    catalog = await open_catalog(settings, home=home, environ=os.environ)
    cache = CapabilityCache(home, LocalMachine(os.environ))
    capabilities = (await cache.get(on_probe=lambda _: None)).capabilities
    return await anyio.to_thread.run_sync(
        list_models, manifest, home, capabilities, os.environ, catalog, settings
    )


def run_settings(words: Sequence[str] | None, *, as_json: bool) -> int:
    """Show all settings, or change one in config.json; returns the exit code."""
    home = home_from(os.environ)
    match list(words or ()):
        case []:
            _show(home, as_json=as_json)
        case ["set", key, value]:
            _change(home, key, _checked(key, value), as_json=as_json)
        case ["unset", key]:
            _check_key(key)
            _change(home, key, None, as_json=as_json)
        case _:
            raise UsageError("settings can't be run like this.", hint=f"Run {_USAGE}")
    return 0


def _show(home: Home, *, as_json: bool) -> None:
    settings, stored = load_settings(home, os.environ), read_config(home.config)
    shown = {}
    for key in SETTINGS:
        value = getattr(settings, key)
        variable = _variable(key)
        origin = variable or ("config.json" if key in stored else "default")
        shown[key] = {"value": redact_url(value) if isinstance(value, str) else value, "origin": origin}
    rows = [
        {
            "setting": key,
            "from": str(entry["origin"]),
            "value": _in_words(entry["value"]),
        }
        for key, entry in shown.items()
    ]
    text = f"{table(rows, ('setting', 'from', 'value'), width=terminal_width())}\n\nIn {home.config}."
    print_text(text, {"settings": shown, "file": str(home.config)}, as_json=as_json)


def _change(home: Home, key: str, value: Any, *, as_json: bool) -> None:
    """Set a key in config.json, None removes it; the others stay as they are, also unknown ones."""
    config = read_config(home.config)
    config.pop(key, None)
    if value is not None:
        config[key] = value
    home.create()
    write_config(home, config)
    shown = redact_url(value) if isinstance(value, str) else value
    default = getattr(Settings(), key)
    is_now = f"is {_in_words(shown)}"
    words = (
        is_now if value is not None else f"is no longer set; the default is {_in_words(default) or 'none'}"
    )
    print_text(f"{key} {words}.", {"key": key, "value": shown, "file": str(home.config)}, as_json=as_json)
    if variable := _variable(key):
        print_progress(f"The variable {variable} is set, and overrides it.")
    if (station := read_station(home)) is not None:
        print_progress(f"The station at {station.address} uses it once it is started again.")


def _in_words(value: Any) -> str:
    if isinstance(value, tuple):
        return os.pathsep.join(value)
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _variable(key: str) -> str | None:
    """The variable that sets a key now."""
    return next(
        (name for name, to in VARIABLES.items() if to == key and os.environ.get(name, "").strip()), None
    )


def _checked(key: str, text: str) -> Any:
    """A value as config.json has it; UsageError where it can't be one."""
    _check_key(key)
    if not text.strip():
        raise UsageError(f"{key} is empty.", hint=f"`moondream-station settings unset {key}` removes it.")
    try:
        value = check_setting(key, text)
    except ValueError as error:
        hint = "`moondream-station settings` shows what is set."
        raise UsageError(f"{key} can't be {text!r}; {error}.", hint=hint) from error
    except SettingsInvalid as error:
        raise UsageError(error.message, hint="Nothing was changed.") from error
    if key == "strategy":
        from moondream_station.core.builds.naming import check_strategy  # noqa: PLC0415  likewise

        check_strategy(text)
    if key == "log" and text.lower() not in LEVELS:
        raise UsageError(f"{text!r} is not a log level.", hint=f"Use one of {', '.join(LEVELS)}.")
    return value


def _check_key(key: str) -> None:
    if key not in SETTINGS:
        from difflib import get_close_matches  # noqa: PLC0415  rarely needed

        near = get_close_matches(key, SETTINGS, 1)
        hint = f"Did you mean {near[0]}?" if near else f"The settings are {', '.join(SETTINGS)}."
        raise UsageError(f"There is no setting {key!r}.", hint=hint)
