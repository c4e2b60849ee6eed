"""Where a file's missing bytes come from: a file on disk, or a server that is asked for a part."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from moondream_station.core.fetch.partial import PartialFile, Validator
from moondream_station.core.fetch.retry import Answer, AttemptFailed, failure_of, head_of, refusal
from moondream_station.core.packaging.file_urls import local_path

if TYPE_CHECKING:
    import httpx2

_COPY_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_CLOSE_SECONDS = 1.0


class WrongFile(Exception):
    """What came is not what was asked for; the message says in what."""


class FileChanged(Exception):
    """The server no longer has the file that the part here was fetched of."""


@dataclass(slots=True, kw_only=True)
class Source:
    """The bytes as they come, and the size of the whole file, None where the server does not say.

    `known_bytes` of the first ones are here already: the server sends the file from its beginning whatever it
    is asked for.
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
    """Ask for what is missing of a file, of which `part` is here, and which must have this size."""
    path = local_path(url)
    return _open_http(url, part, client, size_bytes) if path is None else _open_file(path, part, size_bytes)


@asynccontextmanager
async def _open_file(path: Path, part: PartialFile, size_bytes: int | None) -> AsyncIterator[Source]:
    try:
        file = await anyio.open_file(path, "rb")
        total = (await anyio.Path(path).stat()).st_size
    except FileNotFoundError as error:
        raise AttemptFailed("the file no longer exists", is_final=True) from error
    except OSError as error:
        raise _unreadable(error) from error
    async with file:
        _check_total(total, size_bytes)
        if part.size > total:
            raise FileChanged
        await file.seek(part.size)
        yield Source(pieces=_blocks(file), total_bytes=total)


async def _blocks(file: anyio.AsyncFile[bytes]) -> AsyncIterator[bytes]:
    try:
        while block := await file.read(_COPY_BYTES):
            yield block
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> AttemptFailed:
    reason = f"it can't be read ({error.strerror or error})"
    return AttemptFailed(reason, is_final=True, hint="Check the file, its permissions and its disk.")


@asynccontextmanager
async def _open_http(
    url: str, part: PartialFile, client: httpx2.AsyncClient, size_bytes: int | None
) -> AsyncIterator[Source]:
    import httpx2  # noqa: PLC0415  as in `ask`

    is_answered = False
    url_sha256 = hashlib.sha256(url.encode()).hexdigest()
    # Without a validator nobody can say whether the file is still the same: the hash at the end decides.
    before = Validator(url_sha256=url_sha256)
    if part.validator is not None and part.validator.url_sha256 == url_sha256:
        before = part.validator
    headers = {"Accept-Encoding": "identity", "Accept": "*/*"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        headers |= {"If-Range": before.if_range} if before.if_range else {}
    try:
        request = client.build_request("GET", url, headers=headers, timeout=None)
        response = await client.send(request, stream=True, follow_redirects=True)
        is_answered = True
        try:
            yield await _read_answer(response, part, size_bytes, before)
        finally:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await response.aclose()
    except (httpx2.RequestError, httpx2.InvalidURL) as error:
        raise failure_of(error, is_answered=is_answered) from error


async def _read_answer(
    response: httpx2.Response, part: PartialFile, size_bytes: int | None, before: Validator
) -> Source:
    answer = head_of(response)
    etag, last_modified = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified")
    now = replace(before, etag=None if etag.startswith("W/") else etag or None, last_modified=last_modified)
    is_another = before.if_range and now.if_range and before.if_range != now.if_range
    known_bytes = 0
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        start, total = _content_range(answer)
        if start != part.size:
            raise AttemptFailed("the server sent another part than it was asked for")
        if is_another:
            raise FileChanged  # it does not heed `If-Range`
        # With a part a server need not repeat what it said before.
        now = replace(
            now, etag=now.etag or before.etag, last_modified=now.last_modified or before.last_modified
        )
    elif answer.status == HTTPStatus.OK:
        total = answer.announced_bytes
        known_bytes = part.size
        if part.size and is_another:
            raise FileChanged
    elif answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.size:
        if answer.headers.get("Content-Range", "").strip() != f"bytes */{part.size}":
            raise FileChanged
        return Source(pieces=_nothing(), total_bytes=part.size)  # all of it is here already
    else:
        raise refusal(answer)
    _check_total(total, size_bytes)
    await anyio.to_thread.run_sync(part.note, now)
    return Source(pieces=response.aiter_raw(), total_bytes=total, known_bytes=known_bytes)


async def _nothing() -> AsyncIterator[bytes]:
    for piece in tuple[bytes, ...]():
        yield piece


def _content_range(answer: Answer) -> tuple[int, int | None]:
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if match is None:
        raise AttemptFailed("the server sent a part and did not say which")
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _check_total(total: int | None, expected: int | None) -> None:
    if total is not None and expected is not None and total != expected:
        raise WrongFile(f"it has {total} bytes instead of {expected}")
