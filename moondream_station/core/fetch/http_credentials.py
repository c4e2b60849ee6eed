"""Which name and password belong to which request."""

from __future__ import annotations

import base64
import netrc
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from moondream_station.core.facts.redact import Credentials, credentials_in
from moondream_station.core.packaging.packaging_config import PackagingConfig

if TYPE_CHECKING:
    import httpx2

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Authorizer:
    """Adds a user's name and password to requests for the places they belong to.

    A URL's own come first, then those of the index that the URL lies below, then those of an index on the
    same host (an index's files often lie beside it), then the netrc file's. The HTTP library takes them off
    again where a redirect leads to another host.
    """

    def __init__(self, config: PackagingConfig, *further_urls: str) -> None:
        self._places: list[tuple[str, str, Credentials]] = []
        for url in (*further_urls, *config.index_urls, *config.find_links):
            credentials = credentials_in(url)
            if credentials is not None:
                self._places.append((_origin(url), urlsplit(url).path, credentials))
        self._places.sort(key=lambda place: len(place[1]), reverse=True)
        self._netrc = _read_netrc(config.netrc) if config.netrc is not None else None

    def __call__(self, request: httpx2.Request) -> httpx2.Request:
        """The request with what belongs to its URL, unless it is authorized already."""
        if "Authorization" not in request.headers:
            credentials = self._find(request)
            if credentials is not None:
                request.headers["Authorization"] = _basic(credentials)
        return request

    def _find(self, request: httpx2.Request) -> Credentials | None:
        url = request.url
        if url.username or url.password:
            return Credentials(url.username, url.password)
        origin = _origin(str(url))
        here = [(path, known) for place, path, known in self._places if place == origin]
        below = [known for path, known in here if url.path.startswith(path)]
        for known in (*below, *(known for _, known in here)):
            return known
        entry = self._netrc.authenticators(url.host) if self._netrc is not None else None
        return Credentials(entry[0] or "", entry[2] or "") if entry else None


def _basic(credentials: Credentials) -> str:
    """RFC 7617, in UTF-8."""
    return "Basic " + base64.b64encode(":".join(credentials).encode()).decode()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or _DEFAULT_PORTS.get(parts.scheme)}"


def _read_netrc(path: Path) -> netrc.netrc | None:
    """The file, None for one that can't be understood.

    pip and uv go on without it too; a server that wanted its credentials then says so (status 401).
    """
    try:
        return netrc.netrc(path)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return None
