"""The files of the page, under a policy that allows nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS: Final = {
    # `data:` and `blob:` are the image that is asked about.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def page_files() -> Iterator[tuple[str, str, str]]:
    """The path, the media type and the text of each file of the page."""
    for file in files("moondream_station.http.page").iterdir():
        media_type = _TYPES.get(f".{file.name.rpartition('.')[2]}")
        if media_type is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            yield path, media_type, file.read_text(encoding="utf-8")


def page_handler(media_type: str, content: str) -> Callable[[Request], Response]:
    """What answers with a file of the page."""
    return lambda _: Response(content, media_type=media_type, headers=_HEADERS)
