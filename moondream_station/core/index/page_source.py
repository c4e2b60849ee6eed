"""The pages that list wheels, from servers, disk or the cache of a day, and what became of each."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from moondream_station.core.facts.redact import redact_url
from moondream_station.core.facts.selection import Source
from moondream_station.core.fetch.retry import AttemptFailed, Patience, ask, refusal
from moondream_station.core.home.storage import read_json, write_atomically
from moondream_station.core.index.listing import ACCEPT, ListedFile, ListingInvalid, parse_listing, read_local
from moondream_station.core.packaging.packaging_config import local_path

if TYPE_CHECKING:
    import httpx2

FRESH_SECONDS = 24 * 3600.0
"""How long a listing is used without asking again."""

_FORMAT = "moondream-station/listing/1"

_Outcome: TypeAlias = Literal["ok", "absent", "failed"]
_Files: TypeAlias = tuple[ListedFile, ...]

_ABSENT = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_CONNECTIONS = 4
_ONCE = Patience(connect_seconds=3.0, attempts=1)
"""Less time for a connection: a server that nobody reaches is given up while there is some for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """What became of one place that wheels were looked for in.

    It listed something ("ok"), has no such page or no wheel ("absent"), or nobody knows ("failed"). `detail`
    says the same in words that follow a colon. The age is 0 for a listing fetched now, None without one.
    """

    source: Source
    url_redacted: str
    outcome: _Outcome
    detail: str
    age_seconds: float | None = None

    @property
    def sentence(self) -> str:
        """For an error that says what was tried."""
        return f"{self.url_redacted}: {self.detail}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A listing, and what became of it; it lists nothing unless the outcome is "ok".

    `is_server_dead` says that nobody answered, so that its other pages need not be asked for; `hint` is what
    to do, where a failure has a remedy of its own.
    """

    report: SourceReport
    files: tuple[ListedFile, ...] = ()
    is_server_dead: bool = False
    hint: str | None = None


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
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
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
        with suppress(OSError):  # full or read-only: then it is fetched again
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(url), json.dumps(data))

    def _path(self, url: str) -> Path:
        return self._folder / f"{hashlib.sha256(redact_url(url).encode()).hexdigest()[:32]}.json"


@dataclass(slots=True, kw_only=True)
class PageSource:
    """Gets pages within one deadline, on anyio's clock, for all of them; `refresh` asks despite the cache."""

    client: httpx2.AsyncClient
    cache: ListingCache
    deadline: float = math.inf
    page_seconds: float = math.inf
    patience: Patience = _ONCE
    refresh: bool = False
    _slots: dict[str, anyio.Semaphore] = field(default_factory=dict)

    async def get(self, url: str, source: Source) -> Page:
        """A page of an index or of find-links; a local folder is its own page."""

        def page(outcome: _Outcome, detail: str, files: _Files = (), *, age: float | None = None) -> Page:
            shown = redact_url(url)
            report = SourceReport(
                source=source, url_redacted=shown, outcome=outcome, detail=detail, age_seconds=age
            )
            return Page(files=files, report=report)

        path, known = local_path(url), None
        try:
            if path is None:
                known = await anyio.to_thread.run_sync(self.cache.read, url)
                if known is not None and known.is_fresh and not self.refresh:
                    return page("ok", f"{len(known.files)} files", known.files, age=known.age_seconds)
                files = await self._ask(url, known)
            else:
                # In a thread, as all parsing: PyPI's largest pages take seconds.
                files = await anyio.to_thread.run_sync(lambda: read_local(path, flat=source == "find-links"))
        except FileNotFoundError as error:
            return page("absent", "it does not exist" if error.strerror else str(error))
        except (AttemptFailed, ListingInvalid, OSError) as error:
            reason = f"it can't be read ({error.strerror})" if isinstance(error, OSError) else str(error)
            if known is not None and known.is_fresh:
                detail = f"{len(known.files)} files; {reason}, so an earlier listing is used"
                return page("ok", detail, known.files, age=known.age_seconds)
            failed = page("failed", reason)
            if not isinstance(error, AttemptFailed):
                return failed
            return replace(failed, is_server_dead=error.is_unreachable, hint=error.hint)
        return page("ok", f"{len(files)} files", files, age=0.0)

    async def _ask(self, url: str, known: CachedListing | None) -> _Files:
        async with self._slots.setdefault(urlsplit(url).netloc, anyio.Semaphore(_CONNECTIONS)):
            remaining_seconds = self.deadline - anyio.current_time()
            if remaining_seconds <= 0:
                raise AttemptFailed("there was no time to ask it")
            with anyio.move_on_after(min(self.page_seconds, remaining_seconds)):
                return await self._fetch(url, known)
        raise AttemptFailed("it does not answer in time")

    async def _fetch(self, url: str, known: CachedListing | None) -> _Files:
        headers = {"Accept": ACCEPT}
        if known is not None and known.etag is not None:
            headers["If-None-Match"] = known.etag
        answer = await ask(self.client, url, self.patience, headers=headers)
        if answer.status in _ABSENT:
            raise FileNotFoundError(f"it has no such page (status {answer.status})")
        if answer.status == HTTPStatus.NOT_MODIFIED and known is not None:
            files, etag = known.files, known.etag
        elif answer.status == HTTPStatus.OK:
            content_type = answer.headers.get("Content-Type", "")
            parse = partial(parse_listing, answer.content, content_type=content_type, url=answer.url)
            files = await anyio.to_thread.run_sync(parse, abandon_on_cancel=True)
            etag = answer.headers.get("ETag")
        else:
            raise refusal(answer)
        if files:  # else perhaps a hotel's login page: not to be believed for a day
            await anyio.to_thread.run_sync(lambda: self.cache.write(url, files, etag=etag))
        return files
