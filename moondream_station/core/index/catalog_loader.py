"""Which catalog of builds counts: the one that the user names, or, on any doubt about it, the bundled one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anyio
import anyio.to_thread

from moondream_station.core.builds.catalog import Catalog, load_catalog
from moondream_station.core.facts.errors import StationError
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.home.layout import Home, expanded
from moondream_station.core.home.log import Log
from moondream_station.core.home.settings import Settings
from moondream_station.core.home.storage import read_file, write_atomically

if TYPE_CHECKING:
    import httpx2

_MAX_BYTES = 1 << 20
_FETCH_SECONDS = 8.0
_DIGEST = re.compile(r"#sha256=([0-9a-f]{64})\Z", re.IGNORECASE)

_log = Log()


class _Doubt(Exception):
    """Why a catalog is not used, as a clause."""


async def open_catalog(
    settings: Settings,
    *,
    home: Home,
    environ: Mapping[str, str],
    is_offline: bool = False,
    keep: bool = True,
) -> Catalog:
    """The catalog that the settings name, checked; else the bundled one, whose `doubt` says why.

    One from the network is what its digest says, so a copy in the home is as good; without `keep` none is
    made.
    """
    named = (settings.catalog or "").strip()
    if not named:
        return load_catalog()
    digest = match[1].lower() if (match := _DIGEST.search(named)) else None
    place = named.removesuffix(match[0]) if match else named
    try:
        content = await _content(place, digest, home, environ, is_offline=is_offline, keep=keep)
        return await anyio.to_thread.run_sync(_parsed, content, digest)
    except _Doubt as doubt:
        reason = f"The catalog {redact_url(place)} is not used: {doubt}. The bundled one is used instead."
        return load_catalog().in_place_of_another(reason)


async def _content(
    place: str,
    digest: str | None,
    home: Home,
    environ: Mapping[str, str],
    *,
    is_offline: bool,
    keep: bool,
) -> bytes:
    scheme = place.partition("://")[0].lower() if "://" in place else ""
    if scheme in {"", "file"}:
        if digest is None and "#sha256=" in place.lower():
            raise _Doubt("what follows #sha256= must be the 64 hexadecimal digits of the file's SHA-256")
        return await anyio.to_thread.run_sync(_read, _path(place))
    if scheme != "https":
        raise _Doubt("it must be a file or an https: URL")
    if digest is None:
        raise _Doubt("its URL must end in #sha256= and the 64 hexadecimal digits of the file's SHA-256")
    copy = home.cache / "catalogs" / f"{digest}.toml"
    kept = await anyio.to_thread.run_sync(_kept, copy, digest)
    if kept is not None:
        return kept
    if is_offline:
        raise _Doubt("it was not fetched before, and no network is to be used")
    content = await _fetch(place, environ)
    if keep and hashlib.sha256(content).hexdigest() == digest:
        await anyio.to_thread.run_sync(_keep, copy, content)
    return content


def _path(place: str) -> Path:
    if not place.lower().startswith("file:"):
        return expanded(place)
    parts = urlsplit(place)
    if parts.netloc not in {"", "localhost"}:
        raise _Doubt(f"it is on {parts.netloc}, not on this computer")
    return Path(url2pathname(parts.path))


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise _Doubt("it is not a file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise _Doubt(f"it can't be read ({getattr(error, 'strerror', None) or error})") from error
    return content


def _parsed(content: bytes, digest: str | None) -> Catalog:
    from moondream_station.core.builds.catalog_schema import checked  # noqa: PLC0415  for another catalog alone

    if len(content) > _MAX_BYTES:
        raise _Doubt(f"it is larger than {_MAX_BYTES} bytes")
    found = hashlib.sha256(content).hexdigest()
    if digest not in {None, found}:
        raise _Doubt(f"its SHA-256 is {found}, not the one that was given")
    try:
        return Catalog(checked(content))
    except (ValueError, KeyError) as error:
        raise _Doubt(str(error)) from error


def _kept(copy: Path, digest: str) -> bytes | None:
    try:
        content = read_file(copy)
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None


def _keep(copy: Path, content: bytes) -> None:
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, content)
    except OSError as error:  # it is fetched again
        _log.warning("catalog_not_kept", path=str(copy), reason=error.strerror)


async def _fetch(url: str, environ: Mapping[str, str]) -> bytes:
    import httpx2  # noqa: PLC0415  with what it needs 65 ms, for a catalog from the network alone

    from moondream_station.core.fetch.http_client import explain_failure, open_client  # noqa: PLC0415
    from moondream_station.core.packaging.packaging_config import load_packaging_config  # noqa: PLC0415

    try:
        with anyio.fail_after(_FETCH_SECONDS):
            async with (
                open_client(await load_packaging_config(environ)) as client,
                client.stream("GET", url) as response,
            ):
                return await _body(response)
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
        raise _Doubt(f"it could not be fetched ({explain_failure(error)})") from error
    except StationError as error:  # the settings of pip or uv can't be used
        raise _Doubt(f"it could not be fetched ({error.message.rstrip('.')})") from error


async def _body(response: httpx2.Response) -> bytes:
    if response.status_code != 200:  # noqa: PLR2004  HTTP's OK
        raise _Doubt(f"its server answered {response.status_code}")
    if response.url.scheme != "https":
        raise _Doubt("its server leads to an address that is not https:")
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > _MAX_BYTES:
            break
    return bytes(content)
