"""Fetching one file: resumed from what is here, hashed while it is written, checked before it counts."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from moondream_station.core.facts.errors import DownloadFailed, HashMismatch, IndexUnreachable
from moondream_station.core.fetch.ledger import Ledger
from moondream_station.core.fetch.lock import RemoteFile, stored_name
from moondream_station.core.fetch.partial import PartialFile
from moondream_station.core.fetch.range_source import FileChanged, WrongFile, open_source
from moondream_station.core.fetch.retry import AttemptFailed, Patience
from moondream_station.core.fetch.wheel_server import Arrival
from moondream_station.core.home.checkpoints import Point, reached
from moondream_station.core.home.space import in_words, storage_failure

if TYPE_CHECKING:
    import httpx2

_FLUSH_BYTES = 1 << 20
_FLUSH_SECONDS = 1.0
_CLOSE_SECONDS = 1.0
_DISK_SECONDS = 30.0
"""How long a disk may take to accept a MiB."""


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
                except WrongFile as error:
                    await self._throw_away(part, str(error))
                    continue
                except FileChanged:
                    await self._restart(part)
                    continue
                except AttemptFailed as error:
                    await self._pause(part, error)
                    continue
                final = self.folder / stored_name(part.sha256, self.file.filename)
                sha256 = part.sha256
                reached(Point.FETCHED)
                named = await anyio.to_thread.run_sync(part.finish, final)
                # Another process may have been quicker; what has that name has been checked for it.
                if named or await anyio.Path(final).exists():
                    self.ledger.report(self.file.filename)
                    return final, sha256
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
            async with open_source(self.file.url, part, self.client, size_bytes) as source:
                if size_bytes is None and source.total_bytes is not None:
                    self.ledger.learn_size(name, source.total_bytes)
                async with _buffered(part, scope, self.arrival) as buffer:
                    async for piece in source.pieces:
                        self._silent_since = anyio.current_time()
                        await buffer.add(source.new_bytes_of(piece))
                        received = part.size + buffer.size
                        if size_bytes is not None and received > size_bytes:  # it might send for ever
                            raise WrongFile(f"it is longer than {size_bytes} bytes")
                        self.ledger.transferred(name, len(piece), received_bytes=received)
                        scope.deadline = anyio.current_time() + stall_seconds
                if source.total_bytes is not None and part.size < source.total_bytes:
                    raise AttemptFailed("the server ended the answer before its end")
        if scope.cancelled_caught:
            raise AttemptFailed(f"the server sent nothing for {stall_seconds:g} seconds")

    def _check(self, part: PartialFile) -> None:
        if self.file.size_bytes is not None and part.size != self.file.size_bytes:
            raise WrongFile(f"it has {part.size} bytes instead of {self.file.size_bytes}")
        if self.file.sha256 is not None and part.sha256 != self.file.sha256:
            raise WrongFile(f"its sha256 is {part.sha256} instead of {self.file.sha256}")

    async def _throw_away(self, part: PartialFile, reason: str) -> None:
        await self._restart(part)
        self._best = 0
        if self._wrong is not None:
            part.discard()
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
        place = _place(self.file.url)
        message = f"{self.file.filename} can't be downloaded from {place}: {failure}{attempts}."
        hint = failure.hint or "Check the network, the proxy and the index's address; then try again."
        if part.size:
            hint = f"{in_words(part.size)} are already downloaded; run the command again to resume."
        kind = IndexUnreachable if failure.is_unreachable else DownloadFailed
        return kind(message, hint=hint)


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
