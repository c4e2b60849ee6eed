"""Gets the pages that list wheels, from servers, disk or the cache, and says what became of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from moondream_station.core.facts.redact import redact_url
from moondream_station.core.facts.selection import Source
from moondream_station.core.fetch.retry import AttemptFailed, Patience, ask, refusal
from moondream_station.core.index.listing import ACCEPT, ListedFile, ListingInvalid, listed_in, read_local
from moondream_station.core.index.listing_cache import CachedListing, ListingCache
from moondream_station.core.packaging.file_urls import local_path

if TYPE_CHECKING:
    import httpx2

PAGE_SECONDS = 5.0
"""How long one page may take."""

ABSENT = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_CONNECTIONS = 4
_ONCE = Patience(connect_seconds=3.0, attempts=1)
"""Less time for a connection: a server that nobody reaches is given up while there is some for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """What became of one place that wheels were looked for in.

    Args:
        source: What kind of place it is.
        url_redacted: Where, as it may be shown.
        outcome: "ok" it listed something; "absent" it has no such page or no wheel; "failed" nobody knows.
        detail: The same in words that follow a colon ("12 wheels", "the connection is refused").
        age_seconds: How old the listing is, 0 for one fetched now, None where there is none.
    """

    source: Source
    url_redacted: str
    outcome: Literal["ok", "absent", "failed"]
    detail: str
    age_seconds: float | None = None

    @property
    def sentence(self) -> str:
        """For an error that says what was tried."""
        return f"{self.url_redacted}: {self.detail}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A listing, and what became of it; it lists nothing unless the outcome is "ok".

    `is_server_dead` says that nobody answered, so that its other pages need not be asked for.
    """

    report: SourceReport
    files: tuple[ListedFile, ...] = ()
    is_server_dead: bool = False


class PageSource:
    """Gets pages within one deadline, on anyio's clock, for all of them; `refresh` asks despite the cache."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        cache: ListingCache,
        *,
        deadline: float,
        refresh: bool = False,
    ) -> None:
        self._client = client
        self._cache = cache
        self._deadline = deadline
        self._refresh = refresh
        self._slots: dict[str, anyio.Semaphore] = {}

    async def get(self, url: str, source: Source) -> Page:
        """A page of an index or of find-links; a local folder is its own page."""
        path = local_path(url)
        known = None
        try:
            if path is not None:
                flat = source == "find-links"
                return _page(await anyio.to_thread.run_sync(lambda: read_local(path, flat=flat)), url, source)
            known = await anyio.to_thread.run_sync(self._cache.read, url)
            if known is not None and known.is_fresh and not self._refresh:
                return _page(known.files, url, source, age_seconds=known.age_seconds)
            return await self._ask(url, source, known)
        except FileNotFoundError:
            return _no_page(url, source, "absent", "it does not exist")
        except (AttemptFailed, ListingInvalid, OSError) as error:
            if known is not None and known.is_fresh:
                return _page(known.files, url, source, age_seconds=known.age_seconds, note=str(error))
            reason = f"it can't be read ({error.strerror})" if isinstance(error, OSError) else str(error)
            is_dead = isinstance(error, AttemptFailed) and error.is_unreachable
            return replace(_no_page(url, source, "failed", reason), is_server_dead=is_dead)

    async def _ask(self, url: str, source: Source, known: CachedListing | None) -> Page:
        headers = {"Accept": ACCEPT}
        if known is not None and known.etag is not None:
            headers["If-None-Match"] = known.etag
        async with self._slots.setdefault(urlsplit(url).netloc, anyio.Semaphore(_CONNECTIONS)):
            remaining_seconds = self._deadline - anyio.current_time()
            if remaining_seconds <= 0:
                raise AttemptFailed("there was no time to ask it")
            answer = None
            with anyio.move_on_after(min(PAGE_SECONDS, remaining_seconds)):
                answer = await ask(self._client, url, _ONCE, headers=headers)
        if answer is None:
            raise AttemptFailed("it does not answer in time")
        if answer.status == HTTPStatus.NOT_MODIFIED and known is not None:
            await self._keep(url, known.files, known.etag)
            return _page(known.files, url, source)
        if answer.status in ABSENT:
            return _no_page(url, source, "absent", f"it has no such page (status {answer.status})")
        if answer.status != HTTPStatus.OK:
            raise refusal(answer)
        files = await anyio.to_thread.run_sync(listed_in, answer)
        if files:  # else perhaps a hotel's login page: not to be believed for a day
            await self._keep(url, files, answer.headers.get("ETag"))
        return _page(files, url, source)

    async def _keep(self, url: str, files: tuple[ListedFile, ...], etag: str | None) -> None:
        await anyio.to_thread.run_sync(lambda: self._cache.write(url, files, etag=etag))


def _page(
    files: tuple[ListedFile, ...],
    url: str,
    source: Source,
    *,
    age_seconds: float = 0.0,
    note: str | None = None,
) -> Page:
    detail = f"{len(files)} files" + (f"; {note}, so an earlier listing is used" if note is not None else "")
    report = SourceReport(
        source=source, url_redacted=redact_url(url), outcome="ok", detail=detail, age_seconds=age_seconds
    )
    return Page(files=files, report=report)


def _no_page(url: str, source: Source, outcome: Literal["absent", "failed"], detail: str) -> Page:
    report = SourceReport(source=source, url_redacted=redact_url(url), outcome=outcome, detail=detail)
    return Page(report=report)
