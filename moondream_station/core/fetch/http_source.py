"""The missing bytes of a file from a server: asked for as a part, taken where it still has that file."""

from __future__ import annotations

import email.utils
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus

import anyio
import anyio.to_thread
import httpx2

from moondream_station.core.fetch.http_failures import explain_failure, is_of_tls, is_unreachable
from moondream_station.core.fetch.partial import PartialFile, Validator
from moondream_station.core.fetch.sources import AttemptFailed, FileChanged, Source, check_total

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_CLOSE_SECONDS = 1.0


@asynccontextmanager
async def open_http(
    url: str, part: PartialFile, client: httpx2.AsyncClient, size_bytes: int | None
) -> AsyncIterator[Source]:
    """Ask a server for what is missing of a file; arguments and errors as in `open_source`."""
    url_sha256 = hashlib.sha256(url.encode()).hexdigest()
    request = client.build_request("GET", url, headers=_headers(part, url_sha256), timeout=None)
    try:
        response = await client.send(request, stream=True, follow_redirects=True)
        try:
            source = await _read_answer(response, part, size_bytes, url_sha256)
            yield source
        finally:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await response.aclose()
    except httpx2.RequestError as error:
        raise _translated(error) from error
    except httpx2.InvalidURL as error:
        raise AttemptFailed(f"its address can't be used ({error})", is_final=True) from error


def _headers(part: PartialFile, url_sha256: str) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "Accept": "*/*"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator is not None and part.validator.url_sha256 == url_sha256 and part.validator.if_range:
            headers["If-Range"] = part.validator.if_range
    return headers


async def _read_answer(
    response: httpx2.Response, part: PartialFile, size_bytes: int | None, url_sha256: str
) -> Source:
    validator = _validator_of(response, url_sha256)
    known_bytes = 0
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        start, total = _content_range(response)
        if start != part.size:
            raise AttemptFailed("the server sent another part than it was asked for")
        if _is_another(validator, part.validator):
            raise FileChanged  # it does not heed `If-Range`
        validator = _completed(validator, part.validator)
    elif response.status_code == HTTPStatus.OK:
        total = _content_length(response)
        known_bytes = part.size
        if part.size and _is_another(validator, part.validator):
            raise FileChanged
    elif response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.size:
        if response.headers.get("Content-Range", "").strip() != f"bytes */{part.size}":
            raise FileChanged
        return Source(pieces=_nothing(), total_bytes=part.size)  # it is here whole already
    else:
        raise _refused(response)
    check_total(total, size_bytes)
    await anyio.to_thread.run_sync(part.note, validator)
    return Source(pieces=response.aiter_raw(), total_bytes=total, known_bytes=known_bytes)


async def _nothing() -> AsyncIterator[bytes]:
    for piece in tuple[bytes, ...]():
        yield piece


def _is_another(now: Validator, before: Validator | None) -> bool:
    """Whether the server says that its file is another one than that of which a part is here.

    Without a validator nobody can say. Then the part is kept: the hash at the end decides.
    """
    if before is None or before.url_sha256 != now.url_sha256 or before.if_range is None:
        return False
    return now.if_range is not None and before.if_range != now.if_range


def _completed(now: Validator, before: Validator | None) -> Validator:
    """The validators after a part was sent, with which a server need not repeat what it said before."""
    if before is None or before.url_sha256 != now.url_sha256:
        return now
    return replace(now, etag=now.etag or before.etag, last_modified=now.last_modified or before.last_modified)


def _validator_of(response: httpx2.Response, url_sha256: str) -> Validator:
    etag = response.headers.get("ETag")
    strong = etag if etag is not None and not etag.startswith("W/") else None
    return Validator(url_sha256=url_sha256, etag=strong, last_modified=response.headers.get("Last-Modified"))


def _content_range(response: httpx2.Response) -> tuple[int, int | None]:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if match is None:
        raise AttemptFailed("the server sent a part and did not say which")
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _content_length(response: httpx2.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _refused(response: httpx2.Response) -> AttemptFailed:
    status = response.status_code
    reason = f"the server answers {status} {response.reason_phrase}".rstrip()
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING:
        return AttemptFailed(reason, retry_after_seconds=_retry_after(response))
    hint = {
        HTTPStatus.UNAUTHORIZED: "The index wants credentials: put them into its URL or into netrc.",
        HTTPStatus.FORBIDDEN: "The file may not exist any more (the PyTorch index says 403 for that), or the "
        "index wants credentials. `--upgrade` locks anew.",
        HTTPStatus.NOT_FOUND: "The file does not exist any more. `--upgrade` locks anew.",
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "The proxy wants credentials: put them into its URL.",
    }.get(HTTPStatus(status) if status in set(HTTPStatus) else HTTPStatus.OK)
    return AttemptFailed(reason, is_final=True, hint=hint)


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    if not text:
        return 0.0
    try:
        at = email.utils.parsedate_to_datetime(text)
        sent = email.utils.parsedate_to_datetime(response.headers.get("Date", ""))
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, (at - sent).total_seconds()) if (at.tzinfo is None) == (sent.tzinfo is None) else 0.0


def _translated(error: httpx2.RequestError) -> AttemptFailed:
    hint = None
    if is_of_tls(error):
        hint = "Name the certificate authority's file with PIP_CERT, or add it to the system's store."
    return AttemptFailed(
        explain_failure(error),
        is_final=is_of_tls(error) or isinstance(error, httpx2.UnsupportedProtocol | httpx2.TooManyRedirects),
        is_unreachable=is_unreachable(error),
        hint=hint,
    )
