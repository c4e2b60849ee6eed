"""The reference of HTTP routes, docs/reference/routes.md, made from the table that the application serves."""

from __future__ import annotations

from typing import Final

from moondream_station.http.routes import ROUTES, RouteInfo

_HEAD: Final = """\
# Routes

Made from the code by `python -m tools.reference.commands_page --write docs/reference`; don't edit.

The station's own paths. [HTTP](http.md) says how they are asked and by whom, and what functions take and
give; [errors](errors.md) lists the statuses of what goes wrong, in the shape of
[error.json](schemas/error.json).

| route | gives | takes | answers |
|---|---|---|---|
"""

_TAIL: Final = """
A POST to these brings `Content-Type: application/json`; an empty body is `{}`. The stream begins with a
[snapshot](schemas/snapshot.json). Under every other path a POST calls the active backend's function that
the path's first part names, not counting `/v1`: it answers with
[function-answer.json](schemas/function-answer.json), as a stream with
[function-stream.json](schemas/function-stream.json), and with
[function-error.json](schemas/function-error.json) where it fails.
"""


def routes_page() -> str:
    """The page as Markdown."""
    return "".join([_HEAD, "\n".join(map(_row, ROUTES)), "\n", _TAIL])


def _row(route: RouteInfo) -> str:
    answer = f"{route.status}"
    if route.is_stream:
        answer += ", `text/event-stream` of"
    answer += " HTML" if route.answer is None else f" {_schema(route.answer)}"
    takes = _schema(route.request) if route.request else ""
    return f"| `{route.method} {route.path}` | {route.gives} | {takes} | {answer} |"


def _schema(name: str) -> str:
    return f"[{name}.json](schemas/{name}.json)"
