"""Brings a backend's code into the home, from a folder, an archive on disk or one on the network."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urljoin, urlsplit

import anyio
import anyio.to_thread

from moondream_station.core.backends.code_store import (
    BackendCode,
    CodeRecord,
    code_in,
    digest_of,
    find_code,
    put,
    read_backend,
    read_requirements,
    requirements_of,
)
from moondream_station.core.backends.manifest import BackendInfo, Manifest
from moondream_station.core.backends.manifest_loader import announced_bytes
from moondream_station.core.backends.manifest_places import path_of
from moondream_station.core.builds.requirements import Requirements, decode_requirements
from moondream_station.core.facts.errors import BackendUnavailable, HashMismatch, StationError
from moondream_station.core.facts.redact import is_malformed, redact_url
from moondream_station.core.home.layout import TEMPORARY, Home, expanded
from moondream_station.core.home.storage import storage_failure, temporary_folder

if TYPE_CHECKING:
    import httpx2

MAX_ARCHIVE_BYTES: Final = 256 << 20
_AS_IT_IS: Final = {"Accept-Encoding": "identity"}

Connect: TypeAlias = "Callable[[], Awaitable[httpx2.AsyncClient]]"
"""Opens the HTTP client, for who fetches something: that takes 50 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a backend's code is: a path on this computer or a URL, one of them."""

    shown: str
    """Without secrets."""
    path: Path | None = None
    url: str | None = None


def locate(backend_id: str, info: BackendInfo, manifest: Manifest) -> Location:
    """Where the manifest's `download_url` points.

    Relative to the manifest's own folder or URL. One from the network can't name a file on this computer.
    """
    text = info.download_url
    if is_malformed(text):
        why = "its `download_url` is malformed; it is not shown, because it may hold a password"
        raise _unavailable(backend_id, why)
    scheme = urlsplit(text).scheme.lower()
    if manifest.provenance.url is not None and scheme in {"", "http", "https"}:
        text = urljoin(manifest.provenance.url, text)
        scheme = urlsplit(text).scheme.lower()
    if scheme in {"http", "https"}:
        return Location(shown=redact_url(text), url=text)
    if manifest.provenance.url is not None:
        why = f"a manifest from the network may not name {redact_url(text)} on this computer"
        raise _unavailable(backend_id, why)
    if scheme == "file":
        path = path_of(text)
    elif "://" in text:
        raise _unavailable(backend_id, f"{redact_url(text)} is neither a path nor a file: or http(s): URL")
    else:
        path = (manifest.provenance.folder or Path()).joinpath(expanded(text))
    return Location(shown=str(path), path=path)


async def provide_backend(
    backend_id: str, info: BackendInfo, *, manifest: Manifest, home: Home, connect: Connect
) -> BackendCode:
    """A backend's code in the home, ready to be loaded. Code of another content that is there stays.

    An archive from the network is fetched once a version; a folder or a file on this computer is compared
    with what was taken before.
    """
    provider = _Provider(backend_id, info, manifest, home, keeps=True)
    parent = home.backends / backend_id
    with provider.translated():
        await anyio.to_thread.run_sync(partial(parent.mkdir, parents=True, exist_ok=True))
        async with temporary_folder(parent, TEMPORARY) as workplace:
            return await provider.provide(workplace, connect)


async def backend_requirements(
    backend_id: str, info: BackendInfo, *, manifest: Manifest, home: Home, client: httpx2.AsyncClient
) -> Requirements:
    """The requirements of the code that `provide_backend` would provide; nothing in the home is changed."""
    provider = _Provider(backend_id, info, manifest, home)

    async def connect() -> httpx2.AsyncClient:
        return client

    with provider.translated():
        async with temporary_folder(None, "moondream-station-") as workplace:
            code = await provider.provide(workplace, connect)
            return await anyio.to_thread.run_sync(requirements_of, code, info)


def known_requirements(model_id: str, *, manifest: Manifest, home: Home) -> Requirements | None:
    """A model's requirements, where they are on this computer already.

    An archive that must be fetched first, and requirements that are refused, show later: nothing fails here.
    """
    model = manifest.models.get(model_id)
    info = manifest.backends.get(model.backend) if model else None
    if model is None or info is None:
        return None
    try:
        folder = locate(model.backend, info, manifest).path
        if folder is not None and folder.is_dir():
            text = decode_requirements((folder / info.requirements).read_bytes())
            return read_requirements(text, info, folder=folder, backend=model.backend)
        code = _Provider(model.backend, info, manifest, home).kept_archive()
        return requirements_of(code, info) if code else None
    except (OSError, ValueError, StationError):
        return None


class _Provider:
    """One backend, one location; what it provides is kept in the home, or left where it is unpacked."""

    def __init__(
        self, backend_id: str, info: BackendInfo, manifest: Manifest, home: Home, *, keeps: bool = False
    ) -> None:
        self._id = backend_id
        self._info = info
        self._location = locate(backend_id, info, manifest)
        self._home = home
        self._keeps = keeps

    async def provide(self, workplace: Path, connect: Connect) -> BackendCode:
        """What is in the home already, else what is copied, or fetched and unpacked, into a fresh folder."""
        path = self._location.path
        if path is not None:
            return await anyio.to_thread.run_sync(self._take_local, path, workplace)
        kept = await anyio.to_thread.run_sync(self.kept_archive)
        if kept is not None:
            return kept
        archive = workplace / "archive"
        await self._fetch(archive, await connect())
        return await anyio.to_thread.run_sync(self._take_archive, archive, workplace)

    def kept_archive(self) -> BackendCode | None:
        """What is in the home of an archive, where that and what the manifest says are still the same."""
        path = self._location.path
        return self._kept(self._archive_source("" if path is None else _sha256_of_file(path)))

    def _archive_source(self, digest: str) -> str:
        """A file is known by its content; a place on the network, which is not asked twice, by its name."""
        if self._location.path is not None:
            return digest
        return hashlib.sha256(f"{self._location.url}\n{self._info.sha256}".encode()).hexdigest()

    def _kept(self, source: str) -> BackendCode | None:
        sha256 = self._info.sha256
        for place, record in find_code(self._home, self._id, self._info.version):
            if (
                record.source == source
                and (sha256 is None or record.archive_sha256 == sha256.lower())
                and record.entry_module == self._info.entry_module
                and record.functions == self._info.served_functions
                and record.requirements == self._info.requirements
                and (code := read_backend(self._home, place)) is not None
            ):
                return code
        return None

    def _take_local(self, path: Path, workplace: Path) -> BackendCode:
        if not path.exists():
            raise _unavailable(self._id, f"{path} does not exist")
        if not path.is_dir():
            return self.kept_archive() or self._take_archive(path, workplace)
        from moondream_station.core.backends.archive import copy_folder  # noqa: PLC0415  unlike `kept_archive`

        copied = workplace / "copied"
        copied.mkdir()
        copy_folder(path, copied, origin=self._location.shown)
        source = digest_of(copied)
        return self._kept(source) or self._finish(copied, source, None)

    def _take_archive(self, archive: Path, workplace: Path) -> BackendCode:
        from moondream_station.core.backends.archive import unpack_archive  # noqa: PLC0415  likewise

        digest = _sha256_of_file(archive)
        expected = self._info.sha256
        if expected is not None and digest != expected.lower():
            raise HashMismatch(
                f"{self._location.shown} has sha256 {digest}, but the manifest says {expected.lower()}.",
                hint="Ask whoever publishes the manifest: the archive or the manifest was changed.",
            )
        unpacked = workplace / "unpacked"
        unpacked.mkdir()
        unpack_archive(archive, unpacked, origin=self._location.shown)
        folder = self._top(unpacked)
        return self._finish(folder, self._archive_source(digest), digest)

    async def _fetch(self, target: Path, client: httpx2.AsyncClient) -> None:
        import httpx2  # noqa: PLC0415  likewise

        from moondream_station.core.fetch.http_client import explain_failure  # noqa: PLC0415  likewise

        url, shown, size = str(self._location.url), self._location.shown, self._info.size
        limit = MAX_ARCHIVE_BYTES if size is None else min(size, MAX_ARCHIVE_BYTES)
        received = 0
        try:
            async with (
                client.stream("GET", url, headers=_AS_IT_IS, follow_redirects=True) as response,
                await anyio.open_file(target, "xb") as file,
            ):
                if response.status_code != httpx2.codes.OK:
                    raise _unavailable(self._id, f"{shown} answered {response.status_code}")
                if url.startswith("https:") and response.url.scheme != "https":
                    raise _unavailable(self._id, f"{shown} redirects to a place without encryption")
                if announced_bytes(response) > limit:
                    raise _unavailable(self._id, f"{shown} has more than {limit} bytes")
                async for chunk in response.aiter_raw():
                    received += len(chunk)
                    if received > limit:
                        raise _unavailable(self._id, f"{shown} has more than {limit} bytes")
                    # Cancelled in here, the client's generators would be left standing.
                    with anyio.CancelScope(shield=True):
                        await file.write(chunk)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = explain_failure(error)
            raise _unavailable(self._id, f"{shown} could not be fetched: {reason}") from error
        if size is not None and received < size:
            raise _unavailable(self._id, f"{shown} has {received} bytes, but the manifest says {size}")

    def _top(self, folder: Path) -> Path:
        """Where the entry module is: at the top, or in the only folder there, as 0.1 had it."""
        entry = f"{self._info.entry_module}.py"
        folders = [path for path in folder.iterdir() if path.is_dir()]
        if not (folder / entry).exists() and len(folders) == 1:
            return folders[0]
        return folder

    def _finish(self, folder: Path, source: str, archive_sha256: str | None) -> BackendCode:
        """Make a backend of a filled folder."""
        record = CodeRecord(
            source=source,
            archive_sha256=archive_sha256,
            digest=digest_of(folder),
            entry_module=self._info.entry_module,
            functions=self._info.served_functions,
            requirements=self._info.requirements,
        )
        if self._keeps:
            return put(self._home, folder, record, self._id, self._info.version)
        return code_in(folder, record, self._id, self._info.version)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """What the file system says, as an error of the home's or of where the code comes from."""
        try:
            yield
        except OSError as error:
            home = self._home
            is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            names = [name for name in (error.filename, error.filename2) if isinstance(name, str | Path)]
            if is_full or any(home.root in Path(name).parents for name in names):
                raise storage_failure(error, home.backends) from error
            raise _unavailable(self._id, f"{self._location.shown}: {error.strerror or error}") from error


def _unavailable(backend_id: str, why: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"The backend {backend_id} is not available: {why}.",
        hint="The manifest's `download_url` says where it is; `moondream-station doctor` checks the network.",
    )


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
