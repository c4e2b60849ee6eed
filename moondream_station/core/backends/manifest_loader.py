"""Where a manifest comes from: the package, a file, or the network with the last good copy behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from moondream_station.core.backends.manifest import Manifest, differences, parse_manifest, with_warning
from moondream_station.core.backends.manifest_places import BUILT_IN, copy_of, is_on_network, local_path
from moondream_station.core.facts.errors import ManifestInvalid
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.home.layout import Home
from moondream_station.core.home.log import Log
from moondream_station.core.home.settings import Settings
from moondream_station.core.home.storage import read_file, write_atomically

if TYPE_CHECKING:
    import httpx2

MAX_MANIFEST_BYTES: Final = 1 << 20
_FETCH_SECONDS: Final = 15.0
_HINT = "Check MOONDREAM_STATION_MANIFEST, or `manifest` in config.json; the default is built in."

_log = Log()


async def open_manifest(home: Home, settings: Settings, environ: Mapping[str, str]) -> Manifest:
    """The manifest that the settings name; the network, and what is set up for it, only where it is there."""
    if settings.manifest is None:
        return read_built_in()
    if not is_on_network(settings.manifest):
        return await read_manifest(settings.manifest)
    from moondream_station.core.fetch.http_client import open_client  # noqa: PLC0415
    from moondream_station.core.packaging.packaging_config import load_packaging_config  # noqa: PLC0415

    async with open_client(await load_packaging_config(environ)) as client:
        return await fetch_manifest(settings.manifest, home=home, client=client)


def read_built_in() -> Manifest:
    """The built-in manifest, without an event loop."""
    return _read(BUILT_IN, origin="the built-in manifest")


async def read_manifest(source: str | Path) -> Manifest:
    """Read a manifest from this computer's disk, where no set-up of the network matters."""
    return await anyio.to_thread.run_sync(_read, local_path(source))


class ManifestFile:
    """A manifest on this computer's disk, which is read again once it has changed."""

    def __init__(self, source: str | Path) -> None:
        self._path = local_path(source)
        self._stamp: tuple[int, ...] | None = ()  # of no file: what was read before is compared with once

    def reread(self, before: Manifest) -> Manifest | None:
        """The manifest where its file has changed since the last call and says something else, else None.

        Each change is logged; one that can't be used leaves the manifest as it was before, with a warning.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            after = _read(self._path)
        except ManifestInvalid as error:
            _log.warning("changed_manifest_not_used", file=str(self._path), reason=error.message)
            warning = f"It has changed since, and can't be used now: {error.message}"
            return with_warning(before.model_copy(), warning)
        if after == before:
            return None
        _log.info("manifest_changed", file=str(self._path), **differences(before, after))
        return after

    def _look(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path, origin: str | None = None) -> Manifest:
    origin = origin or str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ManifestInvalid(
            f"The manifest {origin} can't be read: {error.strerror or error}.", hint=_HINT
        ) from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise _too_large(origin)
    return parse_manifest(content, origin=origin, folder=path.absolute().parent)


def announced_bytes(response: httpx2.Response) -> int:
    """The size of a body as the server announces it, 0 where it does not."""
    announced = response.headers.get("Content-Length", "")
    return int(announced) if re.fullmatch(r"\d{1,18}", announced) else 0


async def fetch_manifest(url: str, *, home: Home, client: httpx2.AsyncClient, keep: bool = True) -> Manifest:
    """Fetch a manifest; the last good copy stands in where it can't be fetched or read."""
    origin = redact_url(url)
    copy = copy_of(url, home)
    try:
        content = await _get(url, origin, client)
        manifest = parse_manifest(content, origin=origin, url=url)
    except ManifestInvalid as error:
        return await _last_good(copy, origin, url, error)
    if keep:
        await anyio.to_thread.run_sync(_keep, copy, content)
    return manifest


async def _get(url: str, origin: str, client: httpx2.AsyncClient) -> bytes:
    import httpx2  # noqa: PLC0415  what reads a manifest from the disk does without

    from moondream_station.core.fetch.http_client import explain_failure  # noqa: PLC0415  likewise

    content = bytearray()
    try:
        with anyio.fail_after(_FETCH_SECONDS):
            async with client.stream("GET", url, follow_redirects=True) as response:
                if response.status_code != httpx2.codes.OK:
                    raise ManifestInvalid(f"{origin} answered {response.status_code}.", hint=_HINT)
                if announced_bytes(response) > MAX_MANIFEST_BYTES:
                    raise _too_large(origin)
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_MANIFEST_BYTES:
                        raise _too_large(origin)
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
        raise ManifestInvalid(
            f"The manifest {origin} could not be fetched: {explain_failure(error)}.", hint=_HINT
        ) from error
    return bytes(content)


async def _last_good(copy: Path, origin: str, url: str, error: ManifestInvalid) -> Manifest:
    try:
        content = await anyio.to_thread.run_sync(read_file, copy)
        manifest = parse_manifest(content, origin=origin, url=url)
    except (OSError, ManifestInvalid):
        raise error from None
    return with_warning(manifest, f"The last good copy of the manifest is used: {error.message}")


def _keep(copy: Path, content: bytes) -> None:
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, content)
    except OSError as error:  # a full disk must not keep a good manifest from being used
        _log.warning("manifest_not_kept", path=str(copy), reason=error.strerror)


def _too_large(origin: str) -> ManifestInvalid:
    return ManifestInvalid(f"The manifest {origin} is larger than {MAX_MANIFEST_BYTES} bytes.", hint=_HINT)
