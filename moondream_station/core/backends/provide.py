"""Brings a backend's code into the home, from a folder, an archive on disk or one on the network."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

import anyio
import anyio.to_thread
import httpx2

from moondream_station.core.backends.archive import DEFAULT_LIMITS, Unpacking, copy_folder
from moondream_station.core.backends.archive_formats import unpack_archive
from moondream_station.core.backends.backend_code import BackendCode
from moondream_station.core.backends.code_store import (
    CodeRecord,
    digest_of,
    new_folder,
    put,
    read_backend,
    read_record,
)
from moondream_station.core.backends.manifest import BackendInfo, Manifest
from moondream_station.core.backends.manifest_loader import announced_bytes, path_of
from moondream_station.core.facts.errors import BackendUnavailable, HashMismatch
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.fetch.http_failures import explain_failure
from moondream_station.core.home.layout import Home
from moondream_station.core.home.space import storage_failure

MAX_ARCHIVE_BYTES: Final = 256 << 20
_AS_IT_IS: Final = {"Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a backend's code is: a path on this computer or a URL, one of them.

    Args:
        shown: As it may be shown.
    """

    shown: str
    path: Path | None = None
    url: str | None = None


def locate(backend_id: str, info: BackendInfo, manifest: Manifest) -> Location:
    """Where the manifest's `download_url` points.

    Relative to the manifest's own folder or URL. One from the network can't name a file on this computer.

    Raises:
        BackendUnavailable: It points nowhere that can be read.
    """
    text = info.download_url
    scheme = urlsplit(text).scheme.lower()
    if manifest.url is not None and scheme in {"", "http", "https"}:
        text = urljoin(manifest.url, text)
        scheme = urlsplit(text).scheme.lower()
    if scheme in {"http", "https"}:
        return Location(shown=redact_url(text), url=text)
    if manifest.url is not None:
        raise _unavailable(
            backend_id, f"a manifest from the network names {redact_url(text)} on this computer"
        )
    if scheme == "file":
        path = path_of(text)
    elif "://" in text:
        raise _unavailable(
            backend_id, f"{redact_url(text)} is neither a path nor a file:, http: or https: URL"
        )
    else:
        path = (manifest.folder or Path()).joinpath(Path(text).expanduser())
    return Location(shown=str(path), path=path)


async def provide_backend(
    backend_id: str, info: BackendInfo, *, manifest: Manifest, home: Home, client: httpx2.AsyncClient
) -> BackendCode:
    """A backend's code, ready to be loaded.

    An archive from the network is fetched once a version; a folder or a file on this computer is compared
    with what was taken before, and taken anew where it changed.

    Args:
        backend_id: Its id in the manifest.
        info: Its entry there.
        manifest: What its location is relative to.
        home: Keeps it.
        client: Fetches it.

    Raises:
        BackendUnavailable: It can't be had, or is no backend.
        ArchiveUnsafe: It holds something that must not be unpacked.
        HashMismatch: It is not the archive that the manifest names.
        NoSpace: The disk is full.
        HomeUnusable: The home can't be written.
    """
    location = locate(backend_id, info, manifest)
    provider = _Provider(backend_id, info, location, home)
    if location.url is None:
        return await anyio.to_thread.run_sync(provider.take_local)
    kept = await anyio.to_thread.run_sync(provider.kept, provider.source_of_url)
    if kept is not None:
        return kept
    with _translated(backend_id, location, home), new_folder(home, backend_id) as workplace:
        archive = workplace / "archive"
        await _fetch(location, backend_id, info, archive, client)
        return await anyio.to_thread.run_sync(
            partial(provider.take_archive, archive, workplace, source=provider.source_of_url)
        )


class _Provider:
    """One backend, one location. Its methods block, and run in a thread."""

    def __init__(self, backend_id: str, info: BackendInfo, location: Location, home: Home) -> None:
        self._id = backend_id
        self._info = info
        self._location = location
        self._home = home

    @property
    def source_of_url(self) -> str:
        """What stands for a place on the network."""
        return _sha256_of_text(f"{self._location.url}\n{self._info.sha256}")

    def kept(self, source: str) -> BackendCode | None:
        """What is in the home, where it was taken from `source` and the manifest still says the same."""
        code = read_backend(self._home, self._id, self._info.version)
        record = None if code is None else read_record(code.folder)
        if record is None or record.source != source:
            return None
        wanted = self._info.sha256
        if wanted is not None and record.archive_sha256 != wanted.lower():
            return None
        same = (record.entry_module, record.functions) == (
            self._info.entry_module,
            self._info.served_functions,
        )
        return code if same else None

    def take_local(self) -> BackendCode:
        """Take a folder or an archive on this computer."""
        path = self._location.path
        assert path is not None  # noqa: S101  the caller's other branch
        with _translated(self._id, self._location, self._home):
            if not path.exists():
                raise _unavailable(self._id, f"{path} does not exist")
            with new_folder(self._home, self._id) as workplace:
                if path.is_dir():
                    return self._take_folder(path, workplace)
                source = _sha256_of_file(path)
                return self.kept(source) or self.take_archive(path, workplace, source=source)

    def take_archive(self, archive: Path, workplace: Path, *, source: str) -> BackendCode:
        """Unpack an archive and put it into its place."""
        digest = _sha256_of_file(archive)
        wanted = self._info.sha256
        if wanted is not None and digest != wanted.lower():
            raise HashMismatch(
                f"{self._location.shown} has sha256 {digest}, the manifest says {wanted.lower()}.",
                hint="Ask whoever publishes the manifest: one of the two is wrong, or was changed since.",
            )
        unpacked = workplace / "unpacked"
        unpacked.mkdir()
        unpack_archive(archive, unpacked, origin=self._location.shown)
        return self._put(self._top(unpacked), source, digest)

    def _take_folder(self, folder: Path, workplace: Path) -> BackendCode:
        copied = workplace / "copied"
        copied.mkdir()
        copy_folder(
            folder, Unpacking(copied, origin=self._location.shown, limits=DEFAULT_LIMITS, packed_bytes=None)
        )
        source = digest_of(copied)
        return self.kept(source) or self._put(copied, source, None)

    def _top(self, folder: Path) -> Path:
        """Where the entry module is: at the top, or in the only folder there, as 0.1 had it."""
        entry = f"{self._info.entry_module}.py"
        folders = [path for path in folder.iterdir() if path.is_dir()]
        if not (folder / entry).exists() and len(folders) == 1:
            return folders[0]
        return folder

    def _put(self, folder: Path, source: str, archive_sha256: str | None) -> BackendCode:
        record = CodeRecord(
            source=source,
            archive_sha256=archive_sha256,
            digest=digest_of(folder),
            entry_module=self._info.entry_module,
            functions=self._info.served_functions,
        )
        return put(self._home, folder, record, self._id, self._info.version)


async def _fetch(
    location: Location, backend_id: str, info: BackendInfo, target: Path, client: httpx2.AsyncClient
) -> None:
    url = str(location.url)
    most = MAX_ARCHIVE_BYTES if info.size is None else min(info.size, MAX_ARCHIVE_BYTES)
    received = 0
    try:
        async with (
            client.stream("GET", url, headers=_AS_IT_IS, follow_redirects=True) as response,
            await anyio.open_file(target, "xb") as file,
        ):
            if response.status_code != httpx2.codes.OK:
                raise _unavailable(backend_id, f"{location.shown} answers {response.status_code}")
            if url.startswith("https:") and response.url.scheme != "https":
                raise _unavailable(backend_id, f"{location.shown} redirects to a place without encryption")
            if announced_bytes(response) > most:
                raise _unavailable(backend_id, f"{location.shown} has more than {most} bytes")
            async for chunk in response.aiter_raw():
                received += len(chunk)
                if received > most:
                    raise _unavailable(backend_id, f"{location.shown} has more than {most} bytes")
                # Cancelled in here, the client's generators would be left standing; while they wait they end.
                with anyio.CancelScope(shield=True):
                    await file.write(chunk)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _unavailable(
            backend_id, f"{location.shown} can't be fetched: {explain_failure(error)}"
        ) from error
    if info.size is not None and received < info.size:
        raise _unavailable(
            backend_id, f"{location.shown} has {received} bytes, the manifest says {info.size}"
        )


@contextmanager
def _translated(backend_id: str, location: Location, home: Home) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        if is_full or (isinstance(error.filename, str | Path) and home.root in Path(error.filename).parents):
            raise storage_failure(error, home.backends) from error
        raise _unavailable(backend_id, f"{location.shown}: {error.strerror or error}") from error


def _unavailable(backend_id: str, why: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"The backend {backend_id} can't be had: {why}.",
        hint="The manifest's `download_url` says where it is; `moondream-station doctor` checks the network.",
    )


def _sha256_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
