"""What an index's pages list (PEP 503 and 691), from servers, disk or the cache of a day."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import anyio
import anyio.to_thread

from moondream_station.core.facts.errors import NetworkFault
from moondream_station.core.facts.redact import redact_url, without_credentials
from moondream_station.core.facts.selection import Source
from moondream_station.core.fetch.retry import MAX_PAGE_BYTES, AttemptFailed, Patience, ask, refusal
from moondream_station.core.home.storage import open_file, read_json, write_atomically
from moondream_station.core.packaging.packaging_config import local_path

if TYPE_CHECKING:
    import httpx2

FRESH_SECONDS = 24 * 3600.0
"""How long a listing is used without asking again."""

_FORMAT = "moondream-station/listing/1"
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
"""JSON where the index has it, because only that has sizes."""

_Outcome: TypeAlias = Literal["ok", "absent", "failed"]
_ABSENT = {403: NetworkFault.FORBIDDEN, 404: NetworkFault.NO_SUCH_PAGE, 410: NetworkFault.NO_SUCH_PAGE}
_CONNECTIONS = 4
_ONCE = Patience(connect_seconds=3.0, attempts=1)
"""Less time for a connection: a server that nobody reaches is given up while there is some for others."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ListingInvalid(ValueError):
    """A page that is not a listing, or not one that uv could read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """One file that a page lists; None where it does not say, as HTML never says a size.

    The name is decoded ("torch-2.9.0+cu128-…"), and the URL (`https:`, `http:` or `file:`) has neither
    credentials nor a fragment.
    """

    filename: str
    url: str
    sha256: str | None = None
    requires_python: str | None = None
    size_bytes: int | None = None
    yanked: bool = False


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
    fault: NetworkFault | None = None
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
        path, known, age, note = local_path(url), None, 0.0, ""
        report = partial(SourceReport, source=source, url_redacted=redact_url(url))
        try:
            if path is None:
                known = await anyio.to_thread.run_sync(self.cache.read, url)
                if known is not None and known.is_fresh and not self.refresh:
                    files, age = known.files, known.age_seconds
                else:
                    files = await self._ask(url, known)
            else:
                # In a thread, as all parsing: PyPI's largest pages take seconds.
                files = await anyio.to_thread.run_sync(lambda: read_local(path, flat=source == "find-links"))
        except FileNotFoundError:
            detail, fault = "it does not exist", NetworkFault.NO_SUCH_PAGE
            return Page(report=report(outcome="absent", detail=detail, fault=fault))
        except (AttemptFailed, ListingInvalid, OSError) as error:
            reason = f"it can't be read ({error.strerror})" if isinstance(error, OSError) else str(error)
            failure = error if isinstance(error, AttemptFailed) else AttemptFailed(reason)
            if failure.fault in _ABSENT.values():
                return Page(report=report(outcome="absent", detail=reason, fault=failure.fault))
            if known is None or not known.is_fresh:
                failed = report(outcome="failed", detail=reason, fault=failure.fault)
                return Page(report=failed, is_server_dead=failure.is_unreachable, hint=failure.hint)
            files, age = known.files, known.age_seconds
            note = f"; {reason}, so an earlier listing is used"
        listed = report(outcome="ok", detail=f"{len(files)} files{note}", age_seconds=age)
        return Page(report=listed, files=files)

    async def _ask(self, url: str, known: CachedListing | None) -> tuple[ListedFile, ...]:
        async with self._slots.setdefault(urlsplit(url).netloc, anyio.Semaphore(_CONNECTIONS)):
            remaining_seconds = self.deadline - anyio.current_time()
            if remaining_seconds <= 0:
                raise AttemptFailed("no time was left to ask it")
            with anyio.move_on_after(min(self.page_seconds, remaining_seconds)):
                return await self._fetch(url, known)
        raise AttemptFailed("it does not answer in time", fault=NetworkFault.SILENT)

    async def _fetch(self, url: str, known: CachedListing | None) -> tuple[ListedFile, ...]:
        headers = {"Accept": ACCEPT}
        if known is not None and known.etag is not None:
            headers["If-None-Match"] = known.etag
        answer = await ask(self.client, url, self.patience, headers=headers)
        if fault := _ABSENT.get(answer.status):
            raise AttemptFailed(f"it has no such page (status {answer.status})", is_final=True, fault=fault)
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


def parse_listing(content: bytes, *, content_type: str, url: str) -> tuple[ListedFile, ...]:
    """The files that a page links to, in its order; `url` is its own after redirects."""
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        raise ListingInvalid(f"the page is in {encoding.upper()}, not in UTF-8")
    if "json" in content_type.lower():
        return _parse_json(content, url)
    page = _Parser(url)
    page.feed(content.decode(errors="replace"))
    page.close()
    return tuple(page.files)


def read_local(path: Path, *, flat: bool) -> tuple[ListedFile, ...]:
    """The files of an index's page on disk; where it is `flat`, of a page or a folder of files."""
    page = path if flat else path / "index.html"
    if page.is_dir():
        return tuple(
            ListedFile(filename=entry.name, url=entry.as_uri(), size_bytes=entry.stat().st_size)
            for entry in sorted(page.iterdir())
            if entry.suffix == ".whl" and entry.is_file()
        )
    with open_file(page) as file:
        content = file.read(MAX_PAGE_BYTES + 1)
    if len(content) > MAX_PAGE_BYTES:
        raise ListingInvalid(f"it is larger than {MAX_PAGE_BYTES >> 20} MiB")
    return parse_listing(content, content_type="text/html", url=page.as_uri())


def _parse_json(content: bytes, url: str) -> tuple[ListedFile, ...]:
    try:
        page = json.loads(content)
        version = str(page["meta"]["api-version"])
        entries = [entry for entry in page["files"] if isinstance(entry, dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ListingInvalid("the page is not a listing as PEP 691 describes it") from error
    if not version.startswith("1."):
        raise ListingInvalid(f"the page is a listing of version {version}, only 1.x is supported")
    files = (_from_json(entry, url) for entry in entries)
    return tuple(file for file in files if file is not None)


def _from_json(entry: Mapping[str, Any], base: str) -> ListedFile | None:
    filename, address, size = entry.get("filename"), entry.get("url"), entry.get("size")
    hashes, requires_python = entry.get("hashes"), entry.get("requires-python")
    if not isinstance(filename, str) or not isinstance(address, str) or not _is_filename(filename):
        return None
    located = _locate(base, address)
    if located is None:
        return None
    return ListedFile(
        filename=filename,
        url=located,
        sha256=_sha256(hashes.get("sha256")) if isinstance(hashes, dict) else None,
        requires_python=requires_python if isinstance(requires_python, str) else None,
        size_bytes=size if type(size) is int and 0 < size < 1 << 60 else None,
        yanked=entry.get("yanked", False) is not False,
    )


class _Parser(HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.files: list[ListedFile] = []
        self._base = url

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        address = attributes.get("href")
        if address is None:
            return
        if tag == "base":
            self._base = _locate(self._base, address) or self._base
        elif tag == "a":
            file = self._from_anchor(address, attributes)
            if file is not None:
                self.files.append(file)

    def _from_anchor(self, address: str, attributes: Mapping[str, str | None]) -> ListedFile | None:
        located = _locate(self._base, address)
        if located is None:
            return None
        filename = unquote(PurePosixPath(urlsplit(located).path).name)
        if not _is_filename(filename) or urlsplit(located).path.endswith("/"):
            return None
        algorithm, _, digest = urldefrag(address).fragment.partition("=")
        return ListedFile(
            filename=filename,
            url=located,
            sha256=_sha256(digest.partition("&")[0]) if algorithm == "sha256" else None,
            requires_python=attributes.get("data-requires-python") or None,
            yanked="data-yanked" in attributes,
        )


def _locate(base: str, address: str) -> str | None:
    """The absolute URL, None for what can't be fetched (`mailto:`, `javascript:`, a broken address)."""
    try:
        located = urldefrag(urljoin(base, address.strip())).url
        scheme = urlsplit(located).scheme
    except ValueError:
        return None
    if scheme not in {"https", "http", "file"}:
        return None
    if scheme == "file" and not base.startswith("file:"):
        return None  # a page from elsewhere has no say about this computer's files
    return without_credentials(located)


def _is_filename(name: str) -> bool:
    return bool(name) and name not in {".", ".."} and not set(name) & set("/\\\0")


def _sha256(digest: object) -> str | None:
    text = digest.lower() if isinstance(digest, str) else ""
    return text if _SHA256.fullmatch(text) else None
