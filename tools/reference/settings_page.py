"""The reference of settings, docs/reference/settings.md, made from the class of settings."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from typing import Final

from moondream_station.core.home.settings import VARIABLES, Settings

_FLAGS: Final[Mapping[str, str]] = {
    "strategy": "--strategy",
    "service_host": "--host",
    "service_port": "--port",
}
"""The options of commands that set something for one run."""

_HEAD: Final = """\
# Settings

Made from the code by `python -m tools.reference.commands_page --write docs/reference`; don't edit.

An option goes before a variable, a variable before `config.json` in the [home](files.md), that before
the default. An empty variable counts as none. `config.json` is a JSON object with the keys below. One
that Moondream Station 0.1 wrote is read as it is; keys that are not listed are neither used nor
touched. A value that can't be used is the error `settings-invalid`, which says where it stands.

`MOONDREAM_STATION_HOME` says where the home is; without it that is `~/.moondream-station`.

| key | variable | option | default | means |
|---|---|---|---|---|
"""

_TAIL: Final = """
Log levels are `debug`, `info`, `warning`, `error` and `critical`. Logs are lines for people on a
terminal, JSON elsewhere. With `debug` in the variable, a fault of the station's own prints its
traceback.

What is set up for pip and uv holds here too:
[use a mirror, or wheels without a network](../how-to/use-a-mirror-or-wheels.md) and
[behind a proxy](../how-to/behind-a-proxy.md) name what counts.
"""


def settings_page() -> str:
    """The page as Markdown."""
    meanings = _meanings()
    names = {key: name for name, key in VARIABLES.items()}
    rows = [
        " | ".join(
            [
                f"| `{key}`",
                _quoted(names.get(key)),
                _quoted(_FLAGS.get(key)),
                _quoted(None if field.default is None else json.dumps(field.default).strip('"')),
                f"{meanings[key]} |",
            ]
        )
        for key, field in Settings.model_fields.items()
    ]
    return "".join([_HEAD, "\n".join(rows), "\n", _TAIL])


def _quoted(text: str | None) -> str:
    return "" if text is None else f"`{text}`"


def _meanings() -> dict[str, str]:
    """What the docstring says of each setting."""
    _, _, section = inspect.cleandoc(Settings.__doc__ or "").partition("\nArgs:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {key: " ".join(words.split()).replace("None is", "without it,") for key, words in entries}
