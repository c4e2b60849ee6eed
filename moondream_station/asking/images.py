"""The images that a command asks about: files, folders, patterns, stdin and URLs, which the command reads."""

from __future__ import annotations

import asyncio
import base64
import glob
import hashlib
import io
import mimetypes
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moondream_station.core.facts.errors import ArgumentInvalid, UsageError
from moondream_station.core.facts.redact import redact_url, without_credentials

STDIN: Final = "-"
_SUFFIXES: Final = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
"""What of a folder is an image: its other files are left out without a word."""
_MAX_BYTES: Final = 24 << 20
"""What fits into a request once it is encoded; the station takes 32 MiB."""
_HINT_ON_IMAGES: Final = "Give an image file, a folder, a pattern, - or a URL."


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image, by the name that it is shown and remembered by; its bytes are read when it is its turn."""

    name: str
    path: Path | None = None
    """The file, None for stdin and for a URL."""

    @property
    def public_name(self) -> str:
        """Its name as it was given, but for a URL's name and password."""
        return without_credentials(self.name) if is_url(self.name) else self.name

    @property
    def shown(self) -> str:
        """Its name for people: a URL without its query, too, which may be long."""
        if self.path is None:
            return "stdin" if self.name == STDIN else redact_url(self.name)
        return self.name

    @property
    def identity(self) -> list[str | int]:
        """What tells it from another one, and from itself once it has changed; empty where nothing does."""
        if self.path is None:
            return [] if self.name == STDIN else [hashlib.sha256(self.name.encode()).hexdigest()]
        seen = self.path.stat()
        return [str(self.path.resolve()), seen.st_size, seen.st_mtime_ns]

    async def read(self) -> bytes:
        """Its bytes; `ArgumentInvalid` where they can't be read, or are too many."""
        if self.path is None and self.name != STDIN:
            return await _fetch(self.name)
        try:
            content = await _in_background(self._read)
        except OSError as error:
            raise ArgumentInvalid(f"{self.shown} can't be read: {error.strerror or error}") from error
        return _checked(content, self.shown)

    def _read(self) -> bytes:
        if self.path is None:
            if sys.stdin is None:  # it is closed
                return b""
            # Not by sys.stdin, whose lock would be held while the interpreter ends.
            with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stream:
                return _read_all(stream)
        with self.path.open("rb") as file:
            return file.read(_MAX_BYTES + 1)


def _read_all(stream: io.FileIO) -> bytes:
    """All that comes, up to a byte more than may be."""
    content = bytearray()
    while len(content) <= _MAX_BYTES and (piece := stream.read(_MAX_BYTES + 1 - len(content))):
        content += piece
    return bytes(content)


async def _in_background(function: Callable[[], bytes]) -> bytes:
    """Call what may block for ever, as reading a FIFO: the command can end without it."""
    future: Future[bytes] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001  raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # one of anyio's would be waited for at the end
    return await asyncio.wrap_future(future)


def data_url(content: bytes, name: str) -> str:
    """An image as functions take it."""
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def is_url(text: str) -> bool:
    """Whether a word names an image on a server."""
    return text.startswith(("http://", "https://"))


def image_sources(words: Iterable[str]) -> list[ImageSource]:
    """The images that words name, in their order; UsageError where a word names none."""
    return [source for word in words for source in _named_by(word)]


def _named_by(word: str) -> Iterator[ImageSource]:
    if word == STDIN and sys.stdin is not None and sys.stdin.isatty():
        raise UsageError(
            "stdin is a terminal, which gives no image.",
            hint="Pipe an image: `cat photo.jpg | moondream-station caption -`.",
        )
    if word == STDIN or is_url(word):
        yield ImageSource(word)
        return
    if not word:
        raise UsageError("An image's name is empty.", hint=_HINT_ON_IMAGES)
    try:
        yield from _files_named_by(word)
    except OSError as error:
        raise UsageError(f"{word} can't be read: {error.strerror or error}.", hint=_HINT_ON_IMAGES) from error


def _files_named_by(word: str) -> Iterator[ImageSource]:
    path = Path(os.path.expanduser(word))  # noqa: PTH111  leaves a user whom there is not as it is
    if path.is_dir():
        # Links to nothing, folders and FIFOs (which could block for ever) are no images, by any name.
        paths = sorted(
            entry for entry in path.iterdir() if entry.suffix.lower() in _SUFFIXES and entry.is_file()
        )
        if not paths:
            raise UsageError(f"The folder {word} has no images.", hint=_hint_on_suffixes())
    elif path.exists() or not glob.has_magic(word):
        paths = [path]
    else:  # a pattern that the shell has left alone
        paths = sorted(path for path in map(Path, glob.glob(os.fspath(path))) if path.is_file())  # noqa: PTH207
        if not paths:
            raise UsageError(f"No file matches {word}.", hint="Check the pattern and the current folder.")
    for found in paths:
        if not found.exists():
            raise UsageError(f"There is no file {found}.", hint=_HINT_ON_IMAGES)
        yield ImageSource(os.fspath(found), found)


def _hint_on_suffixes() -> str:
    return f"Files that end in {', '.join(sorted(_SUFFIXES))} are taken; name others one by one."


async def _fetch(url: str) -> bytes:
    """An image from a server, by the proxies and certificates that packages are fetched with."""
    import httpx2  # noqa: PLC0415  only for URLs

    from moondream_station.core.fetch.http_client import open_client  # noqa: PLC0415
    from moondream_station.core.packaging.packaging_config import load_packaging_config  # noqa: PLC0415

    shown = redact_url(url)
    content = bytearray()
    try:
        async with (
            open_client(await load_packaging_config(os.environ)) as client,
            client.stream("GET", url) as response,
        ):
            if not response.is_success:
                raise ArgumentInvalid(f"{shown} answered with status {response.status_code}")
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > _MAX_BYTES:
                    break
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:  # ValueError: a port out of range
        reason = str(error) or type(error).__name__
        raise ArgumentInvalid(f"{shown} can't be fetched: {reason}") from error
    return _checked(bytes(content), shown)


def _checked(content: bytes, name: str) -> bytes:
    if len(content) > _MAX_BYTES:
        raise ArgumentInvalid(
            f"{name} is larger than {_MAX_BYTES >> 20} MiB, which is more than a request takes"
        )
    if not content:
        raise ArgumentInvalid(f"{name} is empty")
    return content
