"""Places that packages come from, as URLs: what a user writes as a path becomes a `file:` URL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from moondream_station.core.facts.redact import checked_url
from moondream_station.core.home import layout


def url_of(place: str, cwd: Path, home: Path) -> str:
    """A place as a URL: what is none is a path, `~` is the user's home."""
    checked_url(place, "an index or find-links location")
    if "://" in place or place.startswith("file:"):
        return place
    return absolute(place, cwd, home).as_uri()


def absolute(text: str, cwd: Path, home: Path) -> Path:
    """A path as a user writes it: `~` is the home, a relative one counts from `cwd`."""
    if text == "~" or text.startswith(("~/", "~\\")):
        return home / text[2:]
    return layout.absolute(cwd / text)


def local_path(url: str) -> Path | None:
    """The path that a `file:` URL names, None for any other URL."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def existing(urls: Iterable[str], what: str, notes: list[str]) -> tuple[str, ...]:
    """Without repetitions, and without the local ones that do not exist, as pip goes on without them."""
    kept: list[str] = []
    for url in dict.fromkeys(url.rstrip("/") for url in urls):
        path = local_path(url)
        if path is not None and not path.exists():
            notes.append(f"The {what} {path} does not exist and is ignored.")
        else:
            kept.append(url)
    return tuple(kept)
