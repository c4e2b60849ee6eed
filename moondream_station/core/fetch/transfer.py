"""Fetching one file: resumed from what is here, hashed while it is written, checked before it counts."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from moondream_station.core.facts.errors import DownloadFailed, HashMismatch, IndexUnreachable
from moondream_station.core.fetch.ledger import Ledger
from moondream_station.core.fetch.lock import RemoteFile, stored_name
from moondream_station.core.fetch.retry import AttemptFailed, Patience, failure_of, head_of, refusal
from moondream_station.core.fetch.wheel_server import Arrival
from moondream_station.core.fetch.wheel_store import PartialFile, Validator, discard
from moondream_station.core.home.checkpoints import Point, reached
from moondream_station.core.home.storage import in_words, storage_failure
from moondream_station.core.packaging.packaging_config import local_path

if TYPE_CHECKING:
    import httpx2

_FLUSH_BYTES = 1 << 20
_FLUSH_SECONDS = 1.0
_CLOSE_SECONDS = 1.0
_DISK_SECONDS = 30.0
"""How long a disk may take to accept a MiB."""
_COPY_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)")


class _WrongFile(Exception):
    """What came is not what was asked for; the message says in what."""


class _FileChanged(Exception):
    """The server no longer has the file that the part here was fetched of."""


@dataclass(slots=True, kw_only=True)
class Transfer:
    """One file on its way into a folder."""

    file: RemoteFile
    folder: Path
    client: httpx2.AsyncClient
    ledger: Ledger
    patience: Patience
    arrival: Arrival
    _fruitless: int = 0
    _silent_since: float = math.inf
    _best: int = 0
    _wrong: str | None = None

    async def run(self) -> tuple[Path, str]:
        """Fetch the file: where it is, once it is whole and what it should be, and its sha256."""
        async with self._open() as part:
            self._silent_since = anyio.current_time()
            while True:
                try:
                    await self._attempt(part)
                    self._check(part)
                except _WrongFile as error:
                    await self._throw_away(part, str(error))
                    continue
                except _FileChanged:
                    await self._restart(part)
                    continue
                except AttemptFailed as error:
                    await self._pause(part, error)
                    continue
                final = self.folder / stored_name(part.sha256, self.file.filename)
                reached(Point.FETCHED)
                named = await anyio.to_thread.run_sync(part.finish, final)
                # Another process may have been quicker; what has that name has been checked for it.
                if named or await anyio.Path(final).exists():
                    self.ledger.report(self.file.filename)
                    return final, part.sha256
                raise DownloadFailed(
                    f"{self.file.filename} was removed by another process during its download.",
                    hint="Run the command again.",
                )

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[PartialFile]:
        try:
            part = await anyio.to_thread.run_sync(PartialFile, self.folder / self.file.partial_name)
            try:
                await anyio.to_thread.run_sync(part.resume)
                self._best = part.size
                self.arrival.grew(part.size)
                yield part
            finally:
                part.close()
        except OSError as error:
            raise storage_failure(error, self.folder) from error

    async def _attempt(self, part: PartialFile) -> None:
        """Fetch what is missing.

        The scope's deadline is the clock for the first byte, then for a stall; while our own disk is written
        to, no clock runs.
        """
        name, size_bytes = self.file.filename, self.file.size_bytes
        if size_bytes is not None and part.size >= size_bytes:
            return  # whole already, or longer than it may be: the check tells which
        stall_seconds = self.patience.stall_seconds
        with anyio.CancelScope(deadline=anyio.current_time() + stall_seconds) as scope:
            path, url = local_path(self.file.url), self.file.url
            opening = partial(_open_file, path) if path else partial(_open_http, self.client, url)
            async with opening(part, size_bytes) as source:
                if size_bytes is None and source.total_bytes is not None:
                    self.ledger.learn_size(name, source.total_bytes)
                async with _buffered(part, scope, self.arrival) as buffer:
                    async for piece in source.pieces:
                        self._silent_since = anyio.current_time()
                        await buffer.add(source.new_bytes_of(piece))
                        received = part.size + buffer.size
                        if size_bytes is not None and received > size_bytes:  # it might send for ever
                            raise _WrongFile(f"it is longer than {size_bytes} bytes")
                        self.ledger.transferred(name, len(piece), received_bytes=received)
                        scope.deadline = anyio.current_time() + stall_seconds
                if source.total_bytes is not None and part.size < source.total_bytes:
                    raise AttemptFailed("the server closed the connection before the end of the file")
        if scope.cancelled_caught:
            raise AttemptFailed(f"the server sent nothing for {stall_seconds:g} seconds")

    def _check(self, part: PartialFile) -> None:
        if self.file.size_bytes is not None and part.size != self.file.size_bytes:
            raise _WrongFile(f"it has {part.size} bytes instead of {self.file.size_bytes}")
        if self.file.sha256 is not None and part.sha256 != self.file.sha256:
            raise _WrongFile(f"its sha256 is {part.sha256} instead of {self.file.sha256}")

    async def _throw_away(self, part: PartialFile, reason: str) -> None:
        await self._restart(part)
        self._best = 0
        if self._wrong is not None:
            discard(part.path)
            raise HashMismatch(
                f"{self.file.filename} from {_place(self.file.url)} is not the file that the lock names: "
                f"{reason}, also after a second download.",
                hint="The index, or something on the way, alters files: try another mirror or --upgrade.",
            )
        self._wrong = reason

    async def _restart(self, part: PartialFile) -> None:
        self.arrival.spoil()
        await anyio.to_thread.run_sync(part.restart)
        self.ledger.restarted(self.file.filename)

    async def _pause(self, part: PartialFile, failure: AttemptFailed) -> None:
        if part.size > self._best:
            self._best = part.size
            self._fruitless = 0
        self._fruitless += 1
        try:
            await self.patience.pause(self._fruitless, failure, silent_since=self._silent_since)
        except AttemptFailed:
            raise self._last_word(part, failure) from failure

    def _last_word(self, part: PartialFile, failure: AttemptFailed) -> DownloadFailed | IndexUnreachable:
        attempts = "" if failure.is_final else f" ({self._fruitless} attempts)"
        what = f"{self.file.filename} can't be downloaded from {_place(self.file.url)}"
        hint = failure.hint or "Check the network, the proxy and the index's address; then try again."
        if part.size:
            hint = f"{in_words(part.size)} are already downloaded; run the command again to resume."
        kind = IndexUnreachable if failure.is_unreachable else DownloadFailed
        return kind(f"{what}: {failure}{attempts}.", hint=hint)


@dataclass(slots=True)
class _Buffer:
    """Gathers pieces for the disk; writes them out when they are many or old. No clock runs meanwhile."""

    part: PartialFile
    scope: anyio.CancelScope
    arrival: Arrival
    pieces: list[bytes] = field(default_factory=list)
    flushed_at: float = field(default_factory=anyio.current_time)
    size: int = 0

    async def add(self, piece: bytes) -> None:
        if piece:
            self.pieces.append(piece)
            self.size += len(piece)
        is_old = anyio.current_time() - self.flushed_at >= _FLUSH_SECONDS
        if self.size >= _FLUSH_BYTES or (self.size and is_old):
            await self.flush(_DISK_SECONDS)

    async def flush(self, limit_seconds: float) -> None:
        self.scope.deadline = math.inf
        pieces, self.pieces, self.size = self.pieces, [], 0
        if pieces:
            # Shielded: cancelled here, the pieces would be lost, and the client's generators left standing.
            # A disk that hangs is left to its thread, and the file is closed when that is done.
            with anyio.move_on_after(limit_seconds, shield=True) as limit:
                await anyio.to_thread.run_sync(self.part.write, pieces, abandon_on_cancel=True)
            if limit.cancelled_caught:
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str(self.part.path))
            self.arrival.grew(self.part.size)
        self.flushed_at = anyio.current_time()


@asynccontextmanager
async def _buffered(part: PartialFile, scope: anyio.CancelScope, arrival: Arrival) -> AsyncIterator[_Buffer]:
    """A buffer that is written out on every way out."""
    buffer = _Buffer(part, scope, arrival)
    try:
        yield buffer
    finally:
        with anyio.move_on_after(_CLOSE_SECONDS * 2, shield=True):  # `flush` gives up after half of it
            await buffer.flush(_CLOSE_SECONDS)


def _place(url: str) -> str:
    """Where a file is, without anything private."""
    parts = urlsplit(url)
    return parts.hostname or str(Path(parts.path).parent)


@dataclass(slots=True, kw_only=True)
class _Source:
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


@asynccontextmanager
async def _open_file(path: Path, part: PartialFile, size_bytes: int | None) -> AsyncIterator[_Source]:
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
            raise _FileChanged
        await file.seek(part.size)
        yield _Source(pieces=_blocks(file), total_bytes=total)


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
    client: httpx2.AsyncClient, url: str, part: PartialFile, size_bytes: int | None
) -> AsyncIterator[_Source]:
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
) -> _Source:
    answer = head_of(response)
    etag, last_modified = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified")
    now = replace(before, etag=None if etag.startswith("W/") else etag or None, last_modified=last_modified)
    is_another = before.if_range and now.if_range and before.if_range != now.if_range
    known_bytes = 0
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        if match is None:
            raise AttemptFailed("the server did not say which part it sent")
        if int(match[1]) != part.size:
            raise AttemptFailed("the server sent a different part than requested")
        total = None if match[2] == "*" else int(match[2])
        if is_another:
            raise _FileChanged  # it does not heed `If-Range`
        # With a part a server need not repeat what it said before.
        now = replace(
            now, etag=now.etag or before.etag, last_modified=now.last_modified or before.last_modified
        )
    elif answer.status == HTTPStatus.OK:
        total = answer.announced_bytes
        known_bytes = part.size
        if part.size and is_another:
            raise _FileChanged
    elif answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.size:
        if answer.headers.get("Content-Range", "").strip() != f"bytes */{part.size}":
            raise _FileChanged
        return _Source(pieces=_nothing(), total_bytes=part.size)  # all of it is here already
    else:
        raise refusal(answer)
    _check_total(total, size_bytes)
    await anyio.to_thread.run_sync(part.note, now)
    return _Source(pieces=response.aiter_raw(), total_bytes=total, known_bytes=known_bytes)


async def _nothing() -> AsyncIterator[bytes]:
    for piece in tuple[bytes, ...]():
        yield piece


def _check_total(total: int | None, expected: int | None) -> None:
    if total is not None and expected is not None and total != expected:
        raise _WrongFile(f"it has {total} bytes instead of {expected}")
