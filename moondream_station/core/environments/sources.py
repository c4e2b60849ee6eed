"""Where a file's missing bytes come from: a server that is asked for a part, or a file on disk."""

from __future__ import annotations

import email.utils
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anyio
import anyio.to_thread
import httpx2

from moondream_station.core.environments.partial import PartialFile, Validator

_COPY_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}


class AttemptFailed(Exception):
    """An attempt brought not all; the message says why, in words that follow a colon.

    Args:
        reason: Those words.
        is_final: Whether a further attempt can't help.
        is_unreachable: Whether nobody answered at all.
        retry_after_seconds: How long the server asked to wait.
        hint: What to do, where this failure has a remedy of its own.
    """

    def __init__(
        self,
        reason: str,
        *,
        is_final: bool = False,
        is_unreachable: bool = False,
        retry_after_seconds: float = 0.0,
        hint: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.is_final = is_final
        self.is_unreachable = is_unreachable
        self.retry_after_seconds = retry_after_seconds
        self.hint = hint


class WrongFile(Exception):
    """What came is not what was wanted; the message says in what."""


class FileChanged(Exception):
    """The server no longer has the file that the part here was fetched of."""


@dataclass(slots=True, kw_only=True)
class Source:
    """An answer.

    Args:
        pieces: The bytes, as they come.
        total_bytes: Size of the whole file, None where the server does not say.
        known_bytes: How many of the first ones are here already, because the server sends the file from its
            beginning whatever it is asked for.
    """

    pieces: AsyncIterator[bytes]
    total_bytes: int | None
    known_bytes: int = 0

    def new_bytes_of(self, piece: bytes) -> bytes:
        """What of the next piece is not here yet."""
        skipped = min(self.known_bytes, len(piece))
        self.known_bytes -= skipped
        return piece[skipped:] if skipped else piece


def open_source(
    url: str, part: PartialFile, client: httpx2.AsyncClient, size_bytes: int | None
) -> AbstractAsyncContextManager[Source]:
    """Ask for what is missing of a file.

    Args:
        url: `https://`, `http://` or `file://`.
        part: What is here of it.
        client: For `http` and `https`.
        size_bytes: The size it must have, None where nobody said.

    Raises:
        AttemptFailed: It can't be had now, or ever.
        WrongFile: The server has a file of another size.
        FileChanged: What is here is of another file.
    """
    if urlsplit(url).scheme == "file":
        return _open_file(path_of(url), part, size_bytes)
    return _open_http(url, part, client, size_bytes)


def path_of(url: str) -> Path:
    """The path that a `file:` URL names."""
    return Path(url2pathname(urlsplit(url).path))


@asynccontextmanager
async def _open_file(path: Path, part: PartialFile, size_bytes: int | None) -> AsyncIterator[Source]:
    try:
        async with await anyio.open_file(path, "rb") as file:
            total = (await anyio.to_thread.run_sync(path.stat)).st_size
            _check_total(total, size_bytes)
            if part.size > total:
                raise FileChanged
            await file.seek(part.size)
            yield Source(pieces=_blocks(file), total_bytes=total)
    except FileNotFoundError as error:
        raise AttemptFailed("the file does not exist any more", is_final=True) from error


async def _blocks(file: anyio.AsyncFile[bytes]) -> AsyncIterator[bytes]:
    try:
        while block := await file.read(_COPY_BYTES):
            yield block
    except OSError as error:
        raise AttemptFailed(f"it can't be read ({error})", is_final=True) from error


@asynccontextmanager
async def _open_http(
    url: str, part: PartialFile, client: httpx2.AsyncClient, size_bytes: int | None
) -> AsyncIterator[Source]:
    url_sha256 = hashlib.sha256(url.encode()).hexdigest()
    request = client.build_request("GET", url, headers=_headers(part, url_sha256), timeout=None)
    try:
        response = await client.send(request, stream=True, follow_redirects=True)
        try:
            source = await _read_answer(response, part, size_bytes, url_sha256)
            yield source
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()
    except httpx2.TransportError as error:
        raise _translated(error) from error
    except (httpx2.TooManyRedirects, httpx2.InvalidURL, httpx2.DecodingError) as error:
        raise AttemptFailed(f"{error}", is_final=True) from error


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
    _check_total(total, size_bytes)
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
    return before.if_range != now.if_range


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


def _check_total(total: int | None, wanted: int | None) -> None:
    if total is not None and wanted is not None and total != wanted:
        raise WrongFile(f"it has {total} bytes instead of {wanted}")


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


def _translated(error: httpx2.TransportError) -> AttemptFailed:
    text = str(error) or type(error).__name__
    match error:
        case httpx2.ProxyError():
            return AttemptFailed(f"the proxy refuses ({text})", is_unreachable=True)
        case httpx2.UnsupportedProtocol():
            return AttemptFailed(text, is_final=True)
        case httpx2.ConnectError() if "CERTIFICATE_VERIFY_FAILED" in text:
            return AttemptFailed(
                f"its certificate is not trusted ({text})",
                is_final=True,
                is_unreachable=True,
                hint="Name the certificate authority's file with PIP_CERT, or add it to the system's store.",
            )
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            return AttemptFailed(f"no connection ({text})", is_unreachable=True)
        case _:
            return AttemptFailed(f"the connection broke ({text})")
