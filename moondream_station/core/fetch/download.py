"""The wheels of a lock, downloaded: several at once, resumed after any interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from moondream_station.core.builds.catalog import UNPACKED_FACTOR
from moondream_station.core.facts.events import DownloadProgressed
from moondream_station.core.fetch.ledger import Ledger
from moondream_station.core.fetch.lock import Lock, LockedFile, RemoteFile
from moondream_station.core.fetch.retry import FILE_PATIENCE, AttemptFailed, Patience, ask
from moondream_station.core.fetch.transfer import Transfer
from moondream_station.core.fetch.wheel_server import Arrival, Arrivals
from moondream_station.core.fetch.wheel_store import find_finished, settle
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import Need, check_space, writing_to
from moondream_station.core.home.task_groups import accompanied, together
from moondream_station.core.packaging.packaging_config import local_path

if TYPE_CHECKING:
    import httpx2

_AT_ONCE = 4
_SIZE_PATIENCE = Patience(attempts=2)


async def fetch(
    lock: Lock,
    *,
    home: Home,
    client: httpx2.AsyncClient,
    publish: Callable[[DownloadProgressed], object],
    patience: Patience = FILE_PATIENCE,
    unpacked_factor: float = UNPACKED_FACTOR,
    also: Iterable[Need] = (),
    arrivals: Arrivals | None = None,
) -> Mapping[str, Path]:
    """Bring every wheel of a lock into the home's downloads, and say where each is by its file name.

    What is there already is used, whole or in part. Cancelling keeps the bytes that are here. Every file has
    a first and a last fact. There must be space for wheels, `unpacked_factor` times their size, and `also`.
    `arrivals` learns what is here and what is on its way, for whoever reads the wheels meanwhile: to make
    them durable and to note them (`settle`) is then left to that reader, beside what comes next.
    """
    ledger = Ledger(publish, anyio.current_time)
    readers = arrivals or Arrivals()
    with writing_to(home.downloads):
        finished = {
            file.filename: await anyio.to_thread.run_sync(find_finished, home, file) for file in lock.files
        }
        received = {file.filename: _received(home, file, finished[file.filename]) for file in lock.files}
        sizes = {file.filename: file.size_bytes or 0 for file in lock.files}
        missing_bytes = sum(max(0, size - received[name]) for name, size in sizes.items())
        unpacked_bytes = int(sum(sizes.values()) * unpacked_factor)
        needs = Need(home.downloads, missing_bytes), Need(home.environments, unpacked_bytes), *also
        await anyio.to_thread.run_sync(check_space, needs)
        ledger.open((file.filename, file.size_bytes, received[file.filename]) for file in lock.files)
        for file in lock.files:
            ledger.report(file.filename)
        present = {name: path for name, path in finished.items() if path is not None}
        missing = [file for file in lock.files if file.filename not in present]
        # What can be handed out while it arrives: every file whose size is known.
        arriving = {
            file.filename: Arrival(
                file.size_bytes, home.downloads / file.partial_name, home.downloads / file.stored_name
            )
            for file in missing
            if file.size_bytes is not None
        }
        readers.expect(present, arriving)
        came = await _fetch_all(missing, home, client, ledger, patience, readers)
        fetched = {name: path for name, (path, _) in came.items()}
        if arrivals is None:
            await anyio.to_thread.run_sync(settle, list(fetched.values()), abandon_on_cancel=True)
    return {**present, **fetched}


async def fetch_unhashed(
    file: RemoteFile,
    *,
    home: Home,
    client: httpx2.AsyncClient,
    publish: Callable[[DownloadProgressed], object],
    patience: Patience = FILE_PATIENCE,
) -> tuple[Path, str]:
    """Bring one file into the home's downloads whose hash is unknown: where it is, and its sha256."""
    ledger = Ledger(publish, anyio.current_time)
    with writing_to(home.downloads):
        received = _received(home, file, None)
        check_space([Need(home.downloads, max(0, (file.size_bytes or 0) - received))])
        ledger.open([(file.filename, file.size_bytes, received)])
        ledger.report(file.filename)
        fetched = await _fetch_all([file], home, client, ledger, patience, Arrivals())
        path, sha256 = fetched[file.filename]
        await anyio.to_thread.run_sync(settle, [path])
    return path, sha256


async def _fetch_all(
    files: Iterable[RemoteFile],
    home: Home,
    client: httpx2.AsyncClient,
    ledger: Ledger,
    patience: Patience,
    arrivals: Arrivals,
) -> dict[str, tuple[Path, str]]:
    """Where each is by its file name, and its sha256."""
    fetched: dict[str, tuple[Path, str]] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def fetch_one(file: RemoteFile) -> None:
        async with limiter:
            transfer = Transfer(
                file=file,
                folder=home.downloads,
                client=client,
                ledger=ledger,
                patience=patience,
                arrival=arrivals.of(file.filename),
            )
            fetched[file.filename] = await transfer.run()

    # The largest first: it decides how long all take.
    largest_first = sorted(files, key=lambda file: file.size_bytes or 0, reverse=True)
    fetching = partial(together, *(partial(fetch_one, file) for file in largest_first))
    await accompanied(fetching, ledger.keep_reporting)
    return fetched


def _received(home: Home, file: RemoteFile, finished: Path | None) -> int:
    """How much of a file is here; no more than its size, where that is known."""
    try:
        size = (finished or home.downloads / file.partial_name).stat().st_size
    except FileNotFoundError:
        return 0
    return size if file.size_bytes is None else min(size, file.size_bytes)


async def with_sizes(lock: Lock, client: httpx2.AsyncClient, *, host_seconds: float = 10.0) -> Lock:
    """The lock with the sizes that a listing in HTML does not have, where the files' places tell them."""
    sizes, silent = dict[str, int | None](), set[str]()
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def ask_size(file: LockedFile) -> None:
        host = urlsplit(file.url).netloc
        async with limiter:
            with anyio.move_on_after(0 if host in silent else host_seconds) as scope:
                sizes[file.filename] = await _announced_size(file.url, client)
            if scope.cancelled_caught:
                silent.add(host)

    await together(*(partial(ask_size, file) for file in lock.files if file.size_bytes is None))
    files = (replace(file, size_bytes=file.size_bytes or sizes.get(file.filename)) for file in lock.files)
    return replace(lock, files=tuple(files))


async def _announced_size(url: str, client: httpx2.AsyncClient) -> int | None:
    """None for every failure: a size is a comfort; fetching the file meets the same server and says so."""
    path = local_path(url)
    if path is not None:
        try:
            return (await anyio.Path(path).stat()).st_size
        except OSError:
            return None
    with suppress(AttemptFailed):
        answer = await ask(client, url, _SIZE_PATIENCE, method="HEAD")
        return (answer.announced_bytes or None) if answer.status == HTTPStatus.OK else None
    return None
