"""Index pages that were fetched before, for a day."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from moondream_station.core.facts.redact import redact_url
from moondream_station.core.home.storage import read_json, write_atomically
from moondream_station.core.index.listing import ListedFile

FRESH_SECONDS = 24 * 3600.0
"""How long a listing is used without asking again."""

_FORMAT = "moondream-station/listing/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedListing:
    """A page as it was, when it was fetched or said to be unchanged; `etag` asks whether it has changed."""

    files: tuple[ListedFile, ...]
    etag: str | None
    age_seconds: float

    @property
    def is_fresh(self) -> bool:
        """Whether it may be used without asking. One from the future may not: the clock was wrong."""
        return 0 <= self.age_seconds < FRESH_SECONDS


class ListingCache:
    """Pages by their URL. What can't be read or written is as if it were not there: it is fetched again."""

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now

    def read(self, url: str) -> CachedListing | None:
        """The page, None where it was never fetched."""
        try:
            data = read_json(self._path(url))
            if not isinstance(data, dict) or data["format"] != _FORMAT or data["url"] != redact_url(url):
                return None
            files = tuple(ListedFile(**entry) for entry in data["files"])
            age_seconds = self._now() - float(data["fetched_at"])
            etag = data["etag"] if isinstance(data["etag"], str) else None
            return CachedListing(files=files, etag=etag, age_seconds=age_seconds)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, url: str, files: tuple[ListedFile, ...], *, etag: str | None) -> None:
        """Keeps a page that was just fetched, or just said to be unchanged."""
        data = {
            "format": _FORMAT,
            "url": redact_url(url),
            "etag": etag,
            "fetched_at": self._now(),
            "files": [asdict(file) for file in files],
        }
        with contextlib.suppress(OSError):  # full or read-only: then it is fetched again
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(url), json.dumps(data))

    def _path(self, url: str) -> Path:
        return self._folder / f"{hashlib.sha256(redact_url(url).encode()).hexdigest()[:32]}.json"
