"""Fetching the wheels of a lock: several at once, resumed after any interruption, told in true bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from moondream_station.core.builds.catalog import UNPACKED_FACTOR
from moondream_station.core.facts.events import DownloadProgressed
from moondream_station.core.fetch.ledger import Ledger
from moondream_station.core.fetch.lock import Lock, LockedFile
from moondream_station.core.fetch.transfer import Patience, RemoteFile, Transfer
from moondream_station.core.fetch.wheel_server import Arrival, Arrivals
from moondream_station.core.fetch.wheel_store import find_finished, settle
from moondream_station.core.home.layout import Home
from moondream_station.core.home.space import Need, check_space, writing_to
from moondream_station.core.home.together import accompanied, together

if TYPE_CHECKING:
    import httpx2

_AT_ONCE = 4


async def fetch(
    lock: Lock,
    *,
    home: Home,
    client: httpx2.AsyncClient,
    publish: Callable[[DownloadProgressed], object],
    patience: Patience | None = None,
    unpacked_factor: float = UNPACKED_FACTOR,
    arrivals: Arrivals | None = None,
) -> Mapping[str, Path]:
    """Bring every wheel of a lock into the home's downloads.

    What is there already is used, whole or in part. Cancelling keeps the bytes that are here.

    Args:
        lock: The wheels.
        home: Where downloads live.
        client: For `http` and `https`; it brings proxies, certificates and credentials.
        publish: Takes the facts; every file has a first and a last one.
        patience: How long to wait for servers, None for the usual.
        unpacked_factor: What the wheels unpack to, as a multiple of their size, for the check of space.
        arrivals: Told what is here and what is on its way, for whoever reads the wheels meanwhile. To make
            them durable and to note them (`settle`) is then left to that reader, beside what comes next.

    Returns:
        Where each wheel is, by file name.

    Raises:
        NoSpace: Wheels and environment would not fit, or the file system became full.
        HomeUnusable: Downloads can't be read or written.
        HashMismatch: A file is not the one that the lock names.
        IndexUnreachable: A server does not answer.
        DownloadFailed: A file can't be had.
    """
    with writing_to(home.downloads):
        readers = arrivals or Arrivals()
        fetched = await _fetch(
            lock,
            home,
            client,
            Ledger(publish, anyio.current_time),
            patience or Patience(),
            unpacked_factor,
            readers,
        )
        if arrivals is None:
            arrived = [path for name, path in fetched.items() if name not in readers.finished]
            await anyio.to_thread.run_sync(settle, arrived, abandon_on_cancel=True)
        return fetched


async def _fetch(
    lock: Lock,
    home: Home,
    client: httpx2.AsyncClient,
    ledger: Ledger,
    patience: Patience,
    unpacked_factor: float,
    arrivals: Arrivals,
) -> Mapping[str, Path]:
    finished = {file.filename: await find_finished(home, file) for file in lock.files}
    received = {
        file.filename: await anyio.to_thread.run_sync(_received, home, file, finished[file.filename])
        for file in lock.files
    }
    await anyio.to_thread.run_sync(_check_space, home, lock, received, unpacked_factor)
    ledger.open((file.filename, file.size_bytes, received[file.filename]) for file in lock.files)
    for file in lock.files:
        ledger.report(file.filename)
    found = {name: path for name, path in finished.items() if path is not None}
    missing = [file for file in lock.files if file.filename not in found]
    arrivals.expect(found, _arrivals(missing, home))
    fetched = await _fetch_all(
        missing, home=home, client=client, ledger=ledger, patience=patience, arrivals=arrivals
    )
    return {**found, **fetched}


def _arrivals(files: Iterable[LockedFile], home: Home) -> Mapping[str, Arrival]:
    """What can be handed out while it arrives: every file whose size is known."""
    return {
        file.filename: Arrival(
            file.size_bytes, _partial_of(home, _remote(file)), home.downloads / file.stored_name
        )
        for file in files
        if file.size_bytes is not None
    }


async def fetch_unhashed(
    file: RemoteFile,
    *,
    home: Home,
    client: httpx2.AsyncClient,
    publish: Callable[[DownloadProgressed], object],
    patience: Patience | None = None,
) -> tuple[Path, str]:
    """Bring one file into the home's downloads of which nobody said the hash.

    Returns:
        Where it is, and its sha256.

    Raises:
        StationError: As `fetch`.
    """
    ledger = Ledger(publish, anyio.current_time)
    part = _partial_of(home, file)
    transfer = Transfer(file, part, client=client, ledger=ledger, patience=patience or Patience())
    fetched: tuple[Path, str]

    async def fetch_it() -> None:
        nonlocal fetched
        fetched = await transfer.run(home.downloads)

    with writing_to(home.downloads):
        received = await anyio.to_thread.run_sync(_size_of, part)
        check_space([Need(home.downloads, max(0, (file.size_bytes or 0) - received))])
        ledger.open([(file.filename, file.size_bytes, received)])
        ledger.report(file.filename)
        await accompanied(fetch_it, ledger.keep_telling)
        path, sha256 = fetched
        await anyio.to_thread.run_sync(settle, [path])
    return path, sha256


async def _fetch_all(
    files: Iterable[LockedFile],
    *,
    home: Home,
    client: httpx2.AsyncClient,
    ledger: Ledger,
    patience: Patience,
    arrivals: Arrivals,
) -> dict[str, Path]:
    fetched: dict[str, Path] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def fetch_one(file: LockedFile) -> None:
        remote = _remote(file)
        async with limiter:
            transfer = Transfer(
                remote,
                _partial_of(home, remote),
                client=client,
                ledger=ledger,
                patience=patience,
                arrival=arrivals.of(file.filename),
            )
            path, _ = await transfer.run(home.downloads)
        fetched[file.filename] = path

    # The largest first: it decides how long all take.
    largest_first = sorted(files, key=lambda file: file.size_bytes or 0, reverse=True)
    fetching = partial(together, *(partial(fetch_one, file) for file in largest_first))
    await accompanied(fetching, ledger.keep_telling)
    return fetched


def _partial_of(home: Home, file: RemoteFile) -> Path:
    return home.downloads / f"{file.key}-{file.filename}.partial"


def _received(home: Home, file: LockedFile, finished: Path | None) -> int:
    """How much of a file is here; no more than its size, where that is known."""
    size = _size_of(finished or _partial_of(home, _remote(file)))
    return size if file.size_bytes is None else min(size, file.size_bytes)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _check_space(home: Home, lock: Lock, received: Mapping[str, int], unpacked_factor: float) -> None:
    sizes = {file.filename: file.size_bytes or 0 for file in lock.files}
    missing = sum(max(0, size - received[name]) for name, size in sizes.items())
    unpacked = int(sum(sizes.values()) * unpacked_factor)
    check_space([Need(home.downloads, missing), Need(home.environments, unpacked)])


def _remote(file: LockedFile) -> RemoteFile:
    return RemoteFile(filename=file.filename, url=file.url, sha256=file.sha256, size_bytes=file.size_bytes)
