"""Gets the pages that list wheels, from servers, disk or the cache, and says what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from moondream_station.core.facts.redact import redact_url, without_credentials
from moondream_station.core.facts.selection import Source
from moondream_station.core.fetch.retry import CREDENTIALS_REFUSED, AttemptFailed, read_bounded
from moondream_station.core.index.listing import ACCEPT, ListedFile, ListingInvalid, parse_listing
from moondream_station.core.index.listing_cache import CachedListing, ListingCache
from moondream_station.core.packaging.file_urls import local_path

if TYPE_CHECKING:
    import httpx2

PAGE_SECONDS = 5.0
"""How long one page may take."""

_CONNECT_SECONDS = 3.0
"""Shorter, so that a server that nobody reaches is given up while there is time for others."""

_ABSENT = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE}


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
    """A listing, where it is available, and what became of it.

    Args:
        files: What it lists; empty unless the outcome is "ok".
        report: What became of it.
        is_server_dead: Whether nobody answered, so that its other pages need not be asked for.
    """

    files: tuple[ListedFile, ...]
    report: SourceReport
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
        connections: int = 4,
    ) -> None:
        self._client = client
        self._cache = cache
        self._deadline = deadline
        self._refresh = refresh
        self._connections = connections
        self._slots: dict[str, anyio.Semaphore] = {}

    async def get(self, url: str, source: Source) -> Page:
        """A page of an index or of find-links; a local folder is its own page."""
        path = local_path(url)
        if path is not None:
            return await anyio.to_thread.run_sync(_read_local, path, url, source)
        known = await anyio.to_thread.run_sync(self._cache.read, url)
        if known is not None and known.is_fresh and not self._refresh:
            return _page(known.files, url, source, age_seconds=known.age_seconds)
        page = await self._ask(url, source, known)
        if page.report.outcome == "failed" and known is not None and known.is_fresh:
            return _page(known.files, url, source, age_seconds=known.age_seconds, note=page.report.detail)
        return page

    async def _ask(self, url: str, source: Source, known: CachedListing | None) -> Page:
        import httpx2  # noqa: PLC0415  only where something is fetched

        from moondream_station.core.fetch.http_failures import (  # noqa: PLC0415  it imports the library
            explain_failure,
            is_unreachable,
        )

        async with self._slots.setdefault(urlsplit(url).netloc, anyio.Semaphore(self._connections)):
            remaining_seconds = self._deadline - anyio.current_time()
            if remaining_seconds <= 0:
                return _no_page(url, source, "failed", "there was no time to ask it")
            try:
                with anyio.fail_after(min(PAGE_SECONDS, remaining_seconds)):
                    return await self._fetch(url, source, known)
            except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
                page = _no_page(url, source, "failed", explain_failure(error))
                return Page(files=(), report=page.report, is_server_dead=is_unreachable(error))
            except (AttemptFailed, ListingInvalid) as error:
                return _no_page(url, source, "failed", str(error))

    async def _fetch(self, url: str, source: Source, known: CachedListing | None) -> Page:
        import httpx2  # noqa: PLC0415  as above

        headers = {"Accept": ACCEPT}
        if known is not None and known.etag is not None:
            headers["If-None-Match"] = known.etag
        timeout = httpx2.Timeout(PAGE_SECONDS, connect=_CONNECT_SECONDS)
        async with self._client.stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code == HTTPStatus.NOT_MODIFIED and known is not None:
                await self._keep(url, known.files, known.etag)
                return _page(known.files, url, source)
            if response.status_code in _ABSENT:
                return _no_page(url, source, "absent", f"it has no such page (status {response.status_code})")
            if response.status_code != HTTPStatus.OK:
                return _no_page(url, source, "failed", _status_in_words(response))
            content = await read_bounded(response)
            content_type = response.headers.get("Content-Type", "")
            final = without_credentials(str(response.url))
            etag = response.headers.get("ETag")
        files = await anyio.to_thread.run_sync(
            lambda: parse_listing(content, content_type=content_type, url=final)
        )
        if files:  # else perhaps a hotel's login page: not to be believed for a day
            await self._keep(url, files, etag)
        return _page(files, url, source)

    async def _keep(self, url: str, files: tuple[ListedFile, ...], etag: str | None) -> None:
        await anyio.to_thread.run_sync(lambda: self._cache.write(url, files, etag=etag))


def _status_in_words(response: httpx2.Response) -> str:
    status = response.status_code
    if status == HTTPStatus.UNAUTHORIZED:
        return f"it {CREDENTIALS_REFUSED} (status 401)"
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return "the proxy requires credentials (status 407)"
    return f"it answers {status} {response.reason_phrase}".rstrip()


def _read_local(path: Path, url: str, source: Source) -> Page:
    """Find-links name a folder of files, or a page; an index on disk has its page in each name's folder."""
    if source != "find-links":
        path = path / "index.html"
    try:
        if path.is_dir():
            files = tuple(
                ListedFile(filename=entry.name, url=entry.as_uri(), size_bytes=entry.stat().st_size)
                for entry in sorted(path.iterdir())
                if entry.suffix == ".whl" and entry.is_file()
            )
        else:
            files = parse_listing(path.read_bytes(), content_type="text/html", url=path.as_uri())
    except FileNotFoundError:
        return _no_page(url, source, "absent", "it does not exist")
    except OSError as error:
        return _no_page(url, source, "failed", f"it can't be read ({error.strerror or error})")
    return _page(files, url, source)


def _page(
    files: tuple[ListedFile, ...],
    url: str,
    source: Source,
    *,
    age_seconds: float = 0.0,
    note: str | None = None,
) -> Page:
    detail = f"{len(files)} files" + (f"; {note}, so an earlier listing is used" if note is not None else "")
    shown = redact_url(url)
    report = SourceReport(
        source=source, url_redacted=shown, outcome="ok", detail=detail, age_seconds=age_seconds
    )
    return Page(files=files, report=report)


def _no_page(url: str, source: Source, outcome: Literal["absent", "failed"], detail: str) -> Page:
    shown = redact_url(url)
    report = SourceReport(source=source, url_redacted=shown, outcome=outcome, detail=detail)
    return Page(files=(), report=report)
