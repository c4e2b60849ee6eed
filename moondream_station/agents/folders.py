"""The folders whose files an agent may name, and its images as functions take them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anyio.to_thread

from moondream_station.asking.images import ImageSource, data_url, is_url
from moondream_station.core.facts.errors import ArgumentInvalid, UsageError


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders, without links in their paths."""

    paths: tuple[Path, ...] = ()

    @classmethod
    def of(cls, named: Iterable[str | Path]) -> Self:
        """The folders that the user has named; `UsageError` where one is none."""
        paths = []
        for name in named:
            path = Path(name).expanduser()
            if not path.is_dir():
                raise UsageError(f"{name} is not a folder.", hint="Name the folder that has the images.")
            paths.append(path.resolve())
        return cls(tuple(dict.fromkeys(paths)))

    @property
    def shown(self) -> str:
        """Their names for people and agents."""
        return " or ".join(map(str, self.paths))

    async def image(self, named: object) -> str:
        """An image as a data URL; `ArgumentInvalid` says what to do where it can't be had."""
        if not isinstance(named, str) or not named.strip():
            raise ArgumentInvalid("image is missing", hint=self._hint())
        if named[:5].lower() == "data:":
            return named
        if is_url(named.lower()):
            raise ArgumentInvalid(
                "image is on a server, and nothing is fetched", hint=self._hint("Save it in a file. ")
            )
        path = await anyio.to_thread.run_sync(self._find, named)
        content = await ImageSource(named, path).read()
        return data_url(content, path.name)

    def _find(self, named: str) -> Path:
        """The file of this name, once links are followed; a name alone is looked for in each folder."""
        text = url2pathname(urlsplit(named).path) if named[:5].lower() == "file:" else named
        is_outside = True
        try:
            for path in self._candidates(text):
                real = path.resolve()
                if any(real.is_relative_to(folder) for folder in self.paths):
                    is_outside = False
                    if real.is_file():
                        return real
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link to itself, before 3.13
            raise ArgumentInvalid(f"{named!r} can't be found: {error}", hint=self._hint()) from error
        if is_outside:  # it may be there or not: an agent is not to find out
            place = f"outside of {self.shown}" if self.paths else "a file"
            raise ArgumentInvalid(f"{named!r} is {place}, and may not be read", hint=self._hint())
        raise ArgumentInvalid(f"There is no file {named!r}", hint=self._hint())

    def _candidates(self, text: str) -> Iterator[Path]:
        path = Path(os.path.expanduser(text))  # noqa: PTH111  leaves a user whom there is not as it is
        if path.is_absolute():
            yield path
        else:
            yield from (folder / path for folder in self.paths)

    def _hint(self, before: str = "") -> str:
        if self.paths:
            return f"{before}Give the path of an image file in {self.shown}, or a data: URL."
        return f"{before}Give the image as a data: URL. (The user can allow folders; none is.)"
