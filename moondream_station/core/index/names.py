"""Which packages of torch's family an index really has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from moondream_station.core.facts.errors import IndexUnreachable
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.fetch.sources import path_of
from moondream_station.core.home.together import together
from moondream_station.core.index.listing import ListingInvalid, parse_listing

if TYPE_CHECKING:
    import httpx2

_ATTEMPTS = 3
_PAUSE_SECONDS = 0.3


class FamilyNames:
    """Asks an index, or a find-links location, for names; asks for no name twice.

    Args:
        url: The index, or the page or folder of files.
        client: For `http` and `https`.
        tags: What the interpreter accepts. A name without any wheel for it counts as absent: locked for no
            other reason than that it is there, it would make the lock impossible.
        flat: Whether it is a page or folder of files.
    """

    def __init__(self, url: str, client: httpx2.AsyncClient, *, tags: Sequence[Tag], flat: bool) -> None:
        self._url = url.rstrip("/")
        self._client = client
        self._flat = flat
        self._tags = frozenset(tags)
        self._known: dict[str, bool] = {}

    async def present(self, names: Iterable[str]) -> frozenset[str]:
        """Those of the names that it has a wheel of for the interpreter.

        Raises:
            IndexUnreachable: It does not answer, or wants credentials.
        """
        wanted = frozenset(names)
        missing = wanted - self._known.keys()
        if missing and self._flat:
            there = await self._flat_names()
            self._known.update({name: name in there for name in missing})
        elif missing:
            await together(*(partial(self._ask, name) for name in missing))
        return frozenset(name for name in wanted if self._known[name])

    async def _ask(self, name: str) -> None:
        url = f"{self._url}/{name}/"
        response = await self._get(url)
        there = _files_on(response) if response.status_code == HTTPStatus.OK else ()
        self._known[name] = name in self._usable(there)

    async def _flat_names(self) -> frozenset[str]:
        if urlsplit(self._url).scheme == "file":
            return self._usable(await anyio.to_thread.run_sync(_files_in, path_of(self._url)))
        return self._usable(_files_on(await self._get(self._url)))

    def _usable(self, filenames: Iterable[str]) -> frozenset[str]:
        found = set()
        for filename in filenames:
            try:
                name, _, _, tags = parse_wheel_filename(filename)
            except InvalidWheelFilename:
                continue  # whatever else lies there is not asked for
            if not self._tags.isdisjoint(tags):
                found.add(str(name))
        return frozenset(found)

    async def _get(self, url: str) -> httpx2.Response:
        """A page, whether it exists or not. What passes by itself is tried again."""
        import httpx2  # noqa: PLC0415  65 ms that nothing which asks nobody should pay

        from moondream_station.core.fetch.http_failures import explain_failure  # noqa: PLC0415  it too

        reason = ""
        for attempt in range(_ATTEMPTS):
            try:
                response = await self._client.get(url, follow_redirects=True)
            except httpx2.RequestError as error:
                reason = explain_failure(error)
            else:
                if response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                    return _checked(response, url)
                reason = f"it answers {response.status_code}"
            if attempt + 1 < _ATTEMPTS:
                await anyio.sleep(_PAUSE_SECONDS * 2**attempt)
        raise IndexUnreachable(
            f"The index {redact_url(url)} can't be reached: {reason}",
            hint="Check the network, the proxy and the index's address.",
        )


def _checked(response: httpx2.Response, url: str) -> httpx2.Response:
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        raise IndexUnreachable(
            f"The index {redact_url(url)} wants credentials, or others than it got.",
            hint="Put them into its URL or into netrc.",
        )
    return response


def _files_in(folder: Path) -> tuple[str, ...]:
    return tuple(path.name for path in folder.glob("*.whl"))


def _files_on(response: httpx2.Response) -> tuple[str, ...]:
    content_type, url = response.headers.get("Content-Type", ""), str(response.url)
    try:
        page = parse_listing(response.content, content_type=content_type, url=url)
    except ListingInvalid as error:
        raise IndexUnreachable(
            f"{redact_url(url)} is no list of files: {error}",
            hint="Check the index's address: it may lead to a page for people, or to a proxy's.",
        ) from error
    return tuple(file.filename for file in page)
