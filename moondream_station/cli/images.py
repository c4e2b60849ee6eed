"""The images that a command asks about: files, folders, patterns, stdin and URLs, which the command reads."""

from __future__ import annotations

import base64
import glob
import mimetypes
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio.to_thread

from moondream_station.core.facts.errors import ArgumentInvalid, UsageError
from moondream_station.core.facts.redact import redact_url

STDIN: Final = "-"
_SUFFIXES: Final = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
"""What of a folder is an image: its other files are left out without a word."""
_MAX_BYTES: Final = 24 << 20
"""What fits into a request once it is encoded; the station takes 32 MiB."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image, by the name that it is shown and remembered by; its bytes are read when it is its turn."""

    name: str
    path: Path | None = None
    """The file, None for stdin and for an URL."""

    @property
    def identity(self) -> list[str | int]:
        """What tells it from another one, and from itself once it has changed; empty where nothing does."""
        if self.path is None:
            return [] if self.name == STDIN else [self.name]
        seen = self.path.stat()
        return [str(self.path.resolve()), seen.st_size, seen.st_mtime_ns]

    async def read(self) -> bytes:
        """Its bytes; `ArgumentInvalid` where they can't be read, or are too many."""
        if self.path is None and self.name != STDIN:
            return await _fetch(self.name)
        try:
            content = await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        except OSError as error:
            raise ArgumentInvalid(f"{self.name} can't be read: {error.strerror or error}") from error
        return _checked(content, self.name)

    def _read(self) -> bytes:
        if self.path is None:
            return sys.stdin.buffer.read(_MAX_BYTES + 1)
        with self.path.open("rb") as file:
            return file.read(_MAX_BYTES + 1)


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
    if word == STDIN or is_url(word):
        yield ImageSource(word)
        return
    path = Path(word).expanduser()
    if path.is_dir():
        paths = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in _SUFFIXES)
        if not paths:
            raise UsageError(f"There is no image in the folder {word}.", hint=_hint_on_suffixes())
    elif path.exists() or not glob.has_magic(word):
        paths = [path]
    else:  # a pattern that the shell has left alone
        paths = sorted(path for path in map(Path, glob.glob(os.fspath(path))) if path.is_file())  # noqa: PTH207
        if not paths:
            raise UsageError(f"No file matches {word}.", hint="Check the pattern and the current folder.")
    for found in paths:
        if not found.exists():
            raise UsageError(
                f"There is no file {found}.", hint="Give an image file, a folder, a pattern, - or an URL."
            )
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
                _checked(content, shown)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise ArgumentInvalid(f"{shown} can't be fetched: {reason}") from error
    return bytes(content)


def _checked(content: bytes | bytearray, name: str) -> bytes:
    if len(content) > _MAX_BYTES:
        raise ArgumentInvalid(
            f"{name} is larger than {_MAX_BYTES >> 20} MiB, which is more than a request takes"
        )
    if not content:
        raise ArgumentInvalid(f"{name} is empty")
    return bytes(content)
