"""The reference of errors, docs/reference/errors.md, made from the classes of errors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Final

from moondream_station.console.exit_codes import FAILED, USAGE
from moondream_station.core.facts import errors
from moondream_station.core.facts.errors import (
    HistoryGone,
    StationError,
    SubscriberOverflowed,
    UsageError,
)
from moondream_station.http import refusals
from moondream_station.http.answers import status_of
from moondream_station.http.refusals import Refusal

_NEVER_SHOWN: Final = (HistoryGone, SubscriberOverflowed, Refusal)
"""Two are answered by a snapshot, and the last is the base of others."""

_HEAD: Final = """\
# Errors

Made from the code by `python -m tools.reference.commands_page --write docs/reference`; don't edit.

An error has a `code` that programs may test for, a message that says what failed and what was seen, and
a hint that says what to do next, where something can be done. Commands print it to stderr, with
`--json` to stdout; a failed activation carries it in `ActivationFailed`; HTTP answers with it in the
[shape of the route](http.md). A tool's whole output goes to the activation's journal, which
`moondream-station logs` prints.

## Of the station

*Exit* is the exit code of a command that ends with it, *HTTP* the status of a request that meets it.

| code | means | exit | HTTP |
|---|---|---|---|
"""

_REFUSALS: Final = """\

## Of requests

These are about a request alone. The function routes also give `queue-full`, `unknown-function` and the
`worker-` codes from above.

| code | means | HTTP |
|---|---|---|
"""


def errors_page() -> str:
    """The page as Markdown."""
    rows = [_row(StationError, "A fault of the station's own. Please report it.")]
    rows += [_row(kind, _meaning(kind)) for kind in _defined_in(errors)]
    refused = [
        f"| `{kind.code}` | {_meaning(kind)} | {status_of(kind(''))} |" for kind in _defined_in(refusals)
    ]
    return "".join([_HEAD, "\n".join(rows), "\n", _REFUSALS, "\n".join(refused), "\n"])


def _row(kind: type[StationError], meaning: str) -> str:
    exit_code = USAGE if issubclass(kind, UsageError) else FAILED
    return f"| `{kind.code}` | {meaning} | {exit_code} | {status_of(kind(''))} |"


def _defined_in(module: ModuleType) -> Iterator[type[StationError]]:
    """The errors that are shown, in the order in which they are written down."""
    for kind in vars(module).values():
        if not inspect.isclass(kind) or kind.__module__ != module.__name__:
            continue
        if issubclass(kind, StationError) and kind is not StationError and kind not in _NEVER_SHOWN:
            yield kind


def _meaning(kind: type[StationError]) -> str:
    """The first paragraph of the docstring, on one line."""
    text, _, _ = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")
    return " ".join(text.split())
