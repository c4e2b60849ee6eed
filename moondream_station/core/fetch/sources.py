"""Where a file's missing bytes come from: a file on disk, or a server that is asked for a part.

The HTTP library is imported when a server is asked first, so that what fetches nothing starts at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anyio
import anyio.to_thread

from moondream_station.core.fetch.partial import PartialFile

if TYPE_CHECKING:
    import httpx2

_COPY_BYTES = 1 << 20


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
    from moondream_station.core.fetch.http_source import open_http  # noqa: PLC0415  see above

    return open_http(url, part, client, size_bytes)


def path_of(url: str) -> Path:
    """The path that a `file:` URL names."""
    return Path(url2pathname(urlsplit(url).path))


@asynccontextmanager
async def _open_file(path: Path, part: PartialFile, size_bytes: int | None) -> AsyncIterator[Source]:
    try:
        async with await anyio.open_file(path, "rb") as file:
            total = (await anyio.to_thread.run_sync(path.stat)).st_size
            check_total(total, size_bytes)
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


def check_total(total: int | None, wanted: int | None) -> None:
    """Make sure that a file announces the size it must have.

    Raises:
        WrongFile: It announces another.
    """
    if total is not None and wanted is not None and total != wanted:
        raise WrongFile(f"it has {total} bytes instead of {wanted}")
