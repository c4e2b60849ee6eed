"""Which packages of torch's family an index really has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import anyio.to_thread
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from moondream_station.core.facts.errors import IndexUnreachable
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.fetch.retry import AttemptFailed, Patience, ask, refusal
from moondream_station.core.home.task_groups import together
from moondream_station.core.index.listing import ListedFile, ListingInvalid, listed_in, read_local
from moondream_station.core.index.page_source import ABSENT
from moondream_station.core.packaging.file_urls import local_path

if TYPE_CHECKING:
    import httpx2


class FamilyNames:
    """Asks an index, or a page or folder of files (`flat`), for names; asks for no name twice.

    A name without any wheel for these tags counts as absent: locked for no other reason than that it is
    there, it would make the lock impossible.
    """

    def __init__(
        self, url: str, client: httpx2.AsyncClient, *, tags: Sequence[Tag], flat: bool, patience: Patience
    ) -> None:
        self._url = url.rstrip("/")
        self._client = client
        self._flat = flat
        self._patience = patience
        self._tags = frozenset(tags)
        self._known: dict[str, bool] = {}

    async def present(self, names: Iterable[str]) -> frozenset[str]:
        """Those of the names that it has a wheel of for the interpreter.

        Raises:
            IndexUnreachable: It does not answer, or requires credentials.
        """
        asked = frozenset(names)
        unknown = asked - self._known.keys()
        if unknown and self._flat:
            usable = await self._names_on(self._url)
            self._known.update({name: name in usable for name in unknown})
        elif unknown:
            await together(*(partial(self._ask, name) for name in unknown))
        return frozenset(name for name in asked if self._known[name])

    async def _ask(self, name: str) -> None:
        self._known[name] = name in await self._names_on(f"{self._url}/{name}/")

    async def _names_on(self, url: str) -> frozenset[str]:
        """The packages that a page, or a folder, has a usable wheel of."""
        path = local_path(url)
        try:
            if path is not None:
                read = partial(read_local, path, flat=self._flat)
            else:
                answer = await ask(self._client, url, self._patience)
                if answer.status in ABSENT and not self._flat:
                    return frozenset()
                if answer.status != HTTPStatus.OK:
                    raise refusal(answer)
                read = partial(listed_in, answer)
            # In a thread: PyPI's largest pages take seconds to parse.
            return await anyio.to_thread.run_sync(lambda: self._usable(read()), abandon_on_cancel=True)
        except FileNotFoundError:
            return frozenset()
        except AttemptFailed as failure:
            raise IndexUnreachable(
                f"The index {redact_url(url)} can't be reached: {failure}.",
                hint=failure.hint or "Check the network, the proxy and the index's address.",
            ) from failure
        except (ListingInvalid, OSError) as error:
            raise IndexUnreachable(
                f"{redact_url(url)} is not a list of files: {error}.",
                hint="Check the index's address: it may lead to a page for people, or to a proxy's.",
            ) from error

    def _usable(self, files: Iterable[ListedFile]) -> frozenset[str]:
        names = set()
        for file in files:
            try:
                name, _, _, tags = parse_wheel_filename(file.filename)
            except InvalidWheelFilename:
                continue  # whatever else lies there is not asked for
            if not self._tags.isdisjoint(tags):
                names.add(str(name))
        return frozenset(names)
