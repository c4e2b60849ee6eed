"""Sizes that a lock does not know, because an HTML listing has none: asked for one by one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from moondream_station.core.fetch.lock import Lock, LockedFile
from moondream_station.core.fetch.sources import path_of
from moondream_station.core.home.together import together

if TYPE_CHECKING:
    import httpx2

_AT_ONCE = 4
_ANSWER_SECONDS = 10.0
_PAUSE_SECONDS = 0.5


async def with_sizes(lock: Lock, client: httpx2.AsyncClient) -> Lock:
    """The lock with the size of every file whose place says it; others stay None."""
    sizes: dict[str, int | None] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def ask(file: LockedFile) -> None:
        async with limiter:
            sizes[file.filename] = await _size_of(file.url, client)

    await together(*(partial(ask, file) for file in lock.files if file.size_bytes is None))
    files = tuple(
        file if file.size_bytes is not None else replace(file, size_bytes=sizes[file.filename])
        for file in lock.files
    )
    return replace(lock, files=files)


async def _size_of(url: str, client: httpx2.AsyncClient) -> int | None:
    if urlsplit(url).scheme == "file":
        try:
            return (await anyio.Path(path_of(url)).stat()).st_size
        except OSError:
            return None  # fetching it will say so
    import httpx2  # noqa: PLC0415  65 ms that nothing which asks nobody should pay

    headers = {"Accept-Encoding": "identity"}
    with anyio.move_on_after(_ANSWER_SECONDS):
        try:
            response = await client.head(url, headers=headers, follow_redirects=True)
            if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:  # often passes
                await anyio.sleep(_PAUSE_SECONDS)
                response = await client.head(url, headers=headers, follow_redirects=True)
        except httpx2.RequestError:
            return None  # a size is a comfort; fetching the file will meet the same server and say so
        text = response.headers.get("Content-Length", "")
        if response.status_code == HTTPStatus.OK and text.isascii() and text.isdigit():
            return int(text) or None
    return None
