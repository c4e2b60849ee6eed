"""What the shell completes: names from the home's files, never from the network; nothing is written.

A name that can't be read is not offered, and no error is shown: a completion has no place for one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moondream_station.core.home.layout import Home


def models(incomplete: str) -> list[str]:
    """The manifest's models."""
    known = _manifest().get("models")
    return _beginning(incomplete, known if isinstance(known, dict) else ())


def installed(incomplete: str) -> list[str]:
    """The models that have an environment."""
    from moondream_station.core.facts.errors import StationError  # noqa: PLC0415  for completions alone
    from moondream_station.core.home.active_file import read_active  # noqa: PLC0415  likewise

    with suppress(StationError):
        return _beginning(incomplete, read_active(_home()).models)
    return []


def functions(incomplete: str) -> list[str]:
    """The active model's functions, as the manifest has them."""
    from moondream_station.core.facts.errors import StationError  # noqa: PLC0415  for completions alone
    from moondream_station.core.home.active_file import read_active  # noqa: PLC0415  likewise

    with suppress(StationError, AttributeError, KeyError, TypeError):  # a manifest of another shape
        manifest = _manifest()
        backend = manifest["models"][read_active(_home()).model]["backend"]
        return _beginning(incomplete, manifest["backends"][backend]["functions"])
    return []


def strategies(incomplete: str) -> list[str]:
    """The builds of the catalog, and how one is chosen."""
    from moondream_station.core.builds.catalog import load_catalog  # noqa: PLC0415  for completions alone

    return _beginning(incomplete, ["auto", "guide", *sorted(load_catalog().builds)])


def settings(ctx: Any, incomplete: str) -> list[str]:
    """What can be done with settings, and then their keys, with what a key may be where that is known."""
    from moondream_station.core.home.settings import SETTINGS  # noqa: PLC0415  for completions alone

    match list(ctx.params.get("words") or ()):  # typer's own `args` is always empty
        case []:
            return _beginning(incomplete, ("set", "unset"))
        case ["set" | "unset"]:
            return _beginning(incomplete, SETTINGS)
        case ["set", "strategy"]:
            return strategies(incomplete)
        case _:
            return []


def files(incomplete: str) -> list[str]:  # noqa: ARG001  as completers are called
    """Nothing: what is completed with nothing, shells complete with files."""
    return []


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _home() -> Home:
    from moondream_station.core.home.layout import home_from  # noqa: PLC0415  for completions alone

    return home_from(os.environ)


def _manifest() -> dict[str, Any]:
    """The manifest as it is written, not checked: its own reader takes longer than a completion may."""
    from moondream_station.core.backends import manifest_places as places  # noqa: PLC0415  for completions alone
    from moondream_station.core.facts.errors import StationError  # noqa: PLC0415  likewise
    from moondream_station.core.home.settings import load_settings  # noqa: PLC0415  likewise
    from moondream_station.core.home.storage import read_json  # noqa: PLC0415  likewise

    with suppress(StationError, OSError, ValueError):
        home = _home()
        source = load_settings(home, os.environ).manifest
        if source is None:
            path = places.BUILT_IN
        else:
            on_network = places.is_on_network(source)
            path = places.copy_of(source, home) if on_network else places.local_path(source)
        data = read_json(path)
        return data if isinstance(data, dict) else {}
    return {}
