"""Fetching wheels: resumed, checked, told truly, through every way in which servers fail."""

from __future__ import annotations

import hashlib
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import anyio
import httpx2
import pytest
import trustme
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

from moondream_station.core.facts.errors import (
    DownloadFailed,
    HashMismatch,
    HomeUnusable,
    IndexUnreachable,
    NoSpace,
)
from moondream_station.core.facts.events import DownloadProgressed
from moondream_station.core.fetch.download import fetch, fetch_unhashed, with_sizes
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.fetch.lock import Lock, RemoteFile
from moondream_station.core.home.layout import Home
from moondream_station.core.packaging.packaging_config import PackagingConfig
from moondream_station.core.resolve.pylock import write_pylock
from support.environments import HASTY, lock_of, locked_file, loopback_config, made_home, served_lock
from support.index_traffic import Fault
from support.torch_index import TorchIndex
from support.wheels import Wheel, module_wheel

pytestmark = pytest.mark.anyio

SIZE = 3_000_000
BIG = Wheel(name="big", version="1.0", filler_bytes=SIZE)
SMALL = module_wheel("small", "1.0")


@pytest.fixture
def index() -> Iterator[TorchIndex]:
    """A loopback index with a large and a small wheel."""
    with TorchIndex() as index:
        index.add_simple(BIG)
        index.add_simple(SMALL)
        yield index


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of the test's own."""
    return made_home(tmp_path)


@asynccontextmanager
async def client_of(index: TorchIndex) -> AsyncIterator[httpx2.AsyncClient]:
    """The station's client."""
    async with open_client(loopback_config(index)) as client:
        yield client


async def fetched(
    lock: Lock, home: Home, index: TorchIndex
) -> tuple[dict[str, Path], list[DownloadProgressed]]:
    """Fetch a lock; what came of it and what was told."""
    facts: list[DownloadProgressed] = []
    async with client_of(index) as client:
        found = await fetch(lock, home=home, client=client, publish=facts.append, patience=HASTY)
    return dict(found), facts


def facts_of(facts: list[DownloadProgressed], wheel: Wheel) -> list[DownloadProgressed]:
    """Those of one file."""
    return [fact for fact in facts if fact.file == wheel.filename]


def assert_true_progress(facts: list[DownloadProgressed]) -> None:
    """Bytes never go back, no file is told more than it has, and the sums are sums."""
    for name in {fact.file for fact in facts}:
        received = [fact.received_bytes for fact in facts if fact.file == name]
        assert received == sorted(received)
    overall = [fact.overall_received_bytes for fact in facts]
    assert overall == sorted(overall)
    assert all(fact.received_bytes <= (fact.total_bytes or SIZE * 2) for fact in facts)


def gets(index: TorchIndex, wheel: Wheel) -> list[str | None]:
    """The `Range` of every GET for a wheel."""
    return [
        request.range
        for request in index.requests
        if request.method == "GET" and request.path.endswith(wheel.filename)
    ]


async def test_every_wheel_arrives_whole(index: TorchIndex, home: Home) -> None:
    """All files are fetched, checked and named; every fact has the totals, from the first one on."""
    lock = served_lock(index, BIG, SMALL)
    found, facts = await fetched(lock, home, index)
    assert {name: path.read_bytes() for name, path in found.items()} == {
        BIG.filename: BIG.data,
        SMALL.filename: SMALL.data,
    }
    total = len(BIG.data) + len(SMALL.data)
    assert {fact.overall_total_bytes for fact in facts} == {total}
    assert facts[-1].overall_received_bytes == facts[-1].overall_transferred_bytes == total
    assert facts_of(facts, SMALL)[0].received_bytes == 0
    assert_true_progress(facts)
    assert not list(home.downloads.glob("*.partial*"))


async def test_a_finished_wheel_is_not_fetched_again(index: TorchIndex, home: Home) -> None:
    """What is here is told as received and not as transferred, and no request is made."""
    lock = served_lock(index, BIG)
    await fetched(lock, home, index)
    index.clear_requests()
    _, facts = await fetched(lock, home, index)
    assert index.requests == ()
    assert [(fact.received_bytes, fact.transferred_bytes) for fact in facts] == [(len(BIG.data), 0)]


async def test_a_finished_wheel_that_was_damaged_is_fetched_again(index: TorchIndex, home: Home) -> None:
    """A file that changed since it was checked is read again, thrown away and fetched."""
    lock = served_lock(index, BIG)
    found, _ = await fetched(lock, home, index)
    path = found[BIG.filename]
    path.write_bytes(b"\0" * len(BIG.data))
    found, _ = await fetched(lock, home, index)
    assert found[BIG.filename].read_bytes() == BIG.data


async def test_a_finished_wheel_without_a_note_is_read_again(index: TorchIndex, home: Home) -> None:
    """Where nothing says that a file was checked, its hash is taken; right ones are used."""
    lock = served_lock(index, BIG)
    found, _ = await fetched(lock, home, index)
    found[BIG.filename].with_name(f"{found[BIG.filename].name}.json").unlink()
    index.clear_requests()
    await fetched(lock, home, index)
    assert index.requests == ()


@pytest.mark.parametrize("kind", ["reset_after_bytes", "close_after_bytes"])
async def test_a_broken_connection_is_resumed(index: TorchIndex, home: Home, kind: str) -> None:
    """Two breaks in the middle cost two more requests for what is missing, and no byte twice."""
    index.faults.append(Fault(match="*big*", times=2, **{kind: 1_100_000}))  # type: ignore[arg-type]
    found, facts = await fetched(served_lock(index, BIG), home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert [range_ is None for range_ in gets(index, BIG)] == [True, False, False]
    assert_true_progress(facts)
    assert facts[-1].transferred_bytes == len(BIG.data)


async def test_what_was_fetched_outlives_a_cancellation(index: TorchIndex, home: Home) -> None:
    """A cancelled download keeps its bytes, and the next one asks for the rest alone."""
    index.faults.append(Fault(match="*big*", times=1, hang_after_bytes=2_000_000))
    lock = served_lock(index, BIG)
    facts: list[DownloadProgressed] = []
    async with client_of(index) as client, anyio.create_task_group() as tasks:

        async def fetch_it() -> None:
            await fetch(lock, home=home, client=client, publish=facts.append)

        tasks.start_soon(fetch_it)
        await anyio.to_thread.run_sync(lambda: index.wait_for(BIG.filename, bytes_sent=2_000_000))
        tasks.cancel_scope.cancel()
    (part,) = home.downloads.glob("*.partial")
    kept = part.stat().st_size
    assert part.read_bytes() == BIG.data[:kept]
    index.clear_requests()
    found, facts = await fetched(lock, home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert gets(index, BIG) == ([f"bytes={kept}-"] if kept else [None])
    assert (facts[0].resumed_from, facts[0].received_bytes) == (kept, kept)
    assert facts[-1].transferred_bytes == len(BIG.data) - kept


async def test_what_was_about_to_be_written_outlives_a_cancellation(index: TorchIndex, home: Home) -> None:
    """Also one that comes when they are on their way to the disk, and have not begun to go there."""
    received = 1_300_000

    async def body() -> AsyncIterator[bytes]:
        yield BIG.data[: received // 2]
        scope.cancel()
        yield BIG.data[received // 2 : received]
        await anyio.sleep_forever()

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"Content-Length": str(len(BIG.data))}, content=body())

    with anyio.CancelScope() as scope:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
            await fetch(served_lock(index, BIG), home=home, client=client, publish=lambda _: None)
    (part,) = home.downloads.glob("*.partial")
    assert part.stat().st_size > received - (1 << 18)
    assert part.read_bytes() == BIG.data[: part.stat().st_size]


DOWNLOADER = """
import sys
from pathlib import Path
import anyio
from moondream_station.core.fetch.download import fetch
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.packaging.packaging_config import PackagingConfig
from moondream_station.core.resolve.pylock import read_stored_pylock
from moondream_station.core.home.layout import Home

async def main():
    lock = read_stored_pylock(sys.stdin.read())
    async with open_client(PackagingConfig()) as client:
        await fetch(lock, home=Home(Path(sys.argv[1])), client=client, publish=lambda fact: None)

anyio.run(main)
"""


def _size(home: Home) -> int:
    """How much of a download is on disk."""
    return sum(path.stat().st_size for path in home.downloads.glob("*.partial"))


async def test_what_was_fetched_outlives_a_kill(index: TorchIndex, home: Home) -> None:
    """A process that is killed in the middle of a download leaves good bytes, and the next one goes on."""
    index.faults.append(Fault(match="*big*", times=1, hang_after_bytes=2_500_000))
    lock = served_lock(index, BIG)
    command = [sys.executable, "-c", DOWNLOADER, str(home.root)]
    async with await anyio.open_process(command, stdout=None, stderr=None) as process:
        assert process.stdin is not None
        await process.stdin.send(write_pylock(lock).encode())
        await process.stdin.aclose()
        await anyio.to_thread.run_sync(lambda: index.wait_for(BIG.filename, bytes_sent=2_500_000))
        while _size(home) < 1_000_000:  # noqa: ASYNC110  it is another process that writes
            await anyio.sleep(0.01)
        process.kill()
    (part,) = home.downloads.glob("*.partial")
    kept = part.stat().st_size
    assert part.read_bytes() == BIG.data[:kept]
    index.clear_requests()
    found, facts = await fetched(lock, home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert gets(index, BIG) == [f"bytes={kept}-"]
    assert facts[-1].transferred_bytes == len(BIG.data) - kept


def leave_part(home: Home, content: bytes, wheel: Wheel = BIG) -> Path:
    """What an earlier process left of a wheel."""
    path = home.downloads / f"{wheel.sha256[:16]}-{wheel.filename}.partial"
    path.write_bytes(content)
    return path


async def test_a_part_of_another_process_is_resumed(index: TorchIndex, home: Home) -> None:
    """Bytes that an earlier process left are hashed and gone on from."""
    leave_part(home, BIG.data[:1_234_567])
    found, facts = await fetched(served_lock(index, BIG), home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert gets(index, BIG) == ["bytes=1234567-"]
    assert facts[0].resumed_from == 1_234_567


async def test_a_whole_part_needs_no_request(index: TorchIndex, home: Home) -> None:
    """A process that was killed between the last byte and the name leaves nothing to fetch."""
    leave_part(home, BIG.data)
    found, facts = await fetched(served_lock(index, BIG), home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert index.requests == ()
    assert facts[-1].transferred_bytes == 0


@pytest.mark.parametrize("content", [b"\0" * 1_000_000, BIG.data + b"more"], ids=["damaged", "too long"])
async def test_a_bad_part_is_thrown_away_once(index: TorchIndex, home: Home, content: bytes) -> None:
    """A part that turns out wrong costs one whole fetch; a fact says that nothing of it counts."""
    leave_part(home, content)
    found, facts = await fetched(served_lock(index, BIG), home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert gets(index, BIG)[-1] is None
    assert any(fact.received_bytes == 0 and fact.resumed_from == 0 for fact in facts)
    assert facts[-1].received_bytes == len(BIG.data)


async def test_a_server_without_ranges_loses_no_good_bytes(index: TorchIndex, home: Home) -> None:
    """Where a server sends the file from its beginning, what is here stays, and progress does not go back."""
    index.ranges = False
    leave_part(home, BIG.data[:1_000_000])
    found, facts = await fetched(served_lock(index, BIG), home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert facts[-1].transferred_bytes == len(BIG.data)
    assert facts[-1].resumed_from == 1_000_000
    assert_true_progress(facts)


@pytest.mark.parametrize("hang_after_bytes", [0, 2_000_000])
async def test_a_silent_server_is_given_up_when_its_silence_lasts(
    index: TorchIndex, home: Home, hang_after_bytes: int
) -> None:
    """The silence of all attempts together counts, not their number."""
    index.faults.append(Fault(match="*big*", times=1, hang_after_bytes=hang_after_bytes))
    index.faults.append(Fault(match="*big*", skip=1, hang_after_bytes=0))
    patience = replace(HASTY, stall_seconds=0.4, silence_seconds=0.6, attempts=20)
    lock = served_lock(index, BIG)
    async with client_of(index) as client:
        with pytest.raises(DownloadFailed, match=r"sent nothing for 0.4 seconds \(2 attempts\)"):
            await fetch(lock, home=home, client=client, publish=lambda _: None, patience=patience)


async def test_a_file_that_changed_on_the_server_starts_over(index: TorchIndex, home: Home) -> None:
    """`If-Range` keeps parts of two files apart; the new one is fetched whole, and is not the lock's."""
    index.faults.append(Fault(match="*big*", times=1, close_after_bytes=2_000_000))
    index.faults.append(Fault(match="*big*", skip=1, times=1, status=404))
    lock = served_lock(index, BIG)
    with pytest.raises(DownloadFailed):
        await fetched(lock, home, index)
    other = hashlib.shake_256(b"other").digest(len(BIG.data))
    index.replace(BIG.filename, other)
    index.clear_requests()
    with pytest.raises(HashMismatch):
        await fetched(lock, home, index)
    asked = [request for request in index.requests if request.method == "GET"]
    assert asked[0].headers.get("if-range") is not None
    assert asked[0].status == 200
    assert not list(home.downloads.iterdir())


async def test_a_part_of_another_file_is_not_taken(index: TorchIndex, home: Home) -> None:
    """A server that sends the rest of a file although it is another one by now is not believed."""
    right = BIG.data
    index.replace(BIG.filename, hashlib.shake_256(b"other").digest(len(right)))
    index.faults.append(Fault(match="*big*", times=1, close_after_bytes=2_000_000))
    index.faults.append(Fault(match="*big*", skip=1, times=1, status=404))
    lock = served_lock(index, BIG)
    with pytest.raises(DownloadFailed):
        await fetched(lock, home, index)
    index.replace(BIG.filename, right)
    index.faults.append(Fault(match="*big*", ignore_if_range=True))
    index.clear_requests()
    found, facts = await fetched(lock, home, index)
    assert found[BIG.filename].read_bytes() == right
    assert [request.status for request in index.requests if request.method == "GET"] == [206, 200]
    assert facts[-1].transferred_bytes == len(right)


async def test_a_corrupt_file_is_fetched_once_more(index: TorchIndex, home: Home) -> None:
    """A byte that flipped on the way costs one more fetch, and the right file comes out."""
    index.faults.append(Fault(match="*big*", times=1, corrupt_byte=1_500_000))
    found, _ = await fetched(served_lock(index, BIG), home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert gets(index, BIG) == [None, None]


async def test_a_file_that_stays_corrupt_is_refused(index: TorchIndex, home: Home) -> None:
    """After two wrong files the download ends, names file and host, and leaves nothing of it."""
    index.faults.append(Fault(match="*big*", corrupt_byte=1_500_000))
    with pytest.raises(HashMismatch) as caught:
        await fetched(served_lock(index, BIG), home, index)
    assert BIG.filename in caught.value.message
    assert "127.0.0.1" in caught.value.message
    assert gets(index, BIG) == [None, None]
    assert not list(home.downloads.glob("*big*"))


async def test_a_file_of_another_size_is_refused_at_its_head(index: TorchIndex, home: Home) -> None:
    """A server that announces another size than the lock's is not listened to any further."""
    index.faults.append(Fault(match="*big*", size_delta=1))
    with pytest.raises(HashMismatch, match=rf"has {len(BIG.data) + 1} bytes instead of {len(BIG.data)}"):
        await fetched(served_lock(index, BIG), home, index)


async def test_a_silent_server_is_left_after_its_time(index: TorchIndex, home: Home) -> None:
    """A stall ends an attempt; the bytes before it stay, and the next attempts go on from there."""
    index.faults.append(Fault(match="*big*", times=1, hang_after_bytes=1_200_000))
    found, facts = await fetched(served_lock(index, BIG), home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert len(gets(index, BIG)) == 2
    assert_true_progress(facts)
    assert 1_200_000 in [fact.received_bytes for fact in facts]


async def test_a_server_that_never_sends_is_named_at_last(index: TorchIndex, home: Home) -> None:
    """Attempts that bring nothing are counted; the last word says how many and why."""
    index.faults.append(Fault(match="*big*", hang_after_bytes=0))
    with pytest.raises(DownloadFailed, match=r"sent nothing for 0\.4 seconds \(3 attempts\)"):
        await fetched(served_lock(index, BIG), home, index)
    assert len(gets(index, BIG)) == 3


async def test_attempts_count_only_while_nothing_comes(index: TorchIndex, home: Home) -> None:
    """A server that breaks off again and again is borne with as long as each attempt brings something."""
    index.faults.append(Fault(match="*big*", reset_after_bytes=500_000))
    found, facts = await fetched(served_lock(index, BIG), home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert len(gets(index, BIG)) > HASTY.attempts
    assert_true_progress(facts)


async def test_a_passing_error_is_waited_out(index: TorchIndex, home: Home) -> None:
    """503 and 429 are tried again."""
    index.faults.append(Fault(match="*big*", times=1, status=503, headers={"Retry-After": "0"}))
    index.faults.append(Fault(match="*big*", times=1, status=429, headers={"Retry-After": "3600"}))
    found, _ = await fetched(served_lock(index, BIG), home, index)
    assert found[BIG.filename].read_bytes() == BIG.data


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_lasting_error_is_told_at_once(index: TorchIndex, home: Home, status: int) -> None:
    """What a further attempt can't cure is not tried again."""
    index.faults.append(Fault(match="*big*", status=status))
    with pytest.raises(DownloadFailed, match=str(status)) as caught:
        await fetched(served_lock(index, BIG), home, index)
    assert caught.value.hint is not None
    assert len(gets(index, BIG)) == 1


async def test_a_long_name_fits_the_file_system(index: TorchIndex, home: Home) -> None:
    """A name of 250 bytes is one that a server's disk takes, and what stands before and after it fits too."""
    wheel = module_wheel("m" * 220, "1.0.0")
    assert 240 < len(wheel.filename) <= 255
    index.add_simple(wheel)
    found, _ = await fetched(served_lock(index, wheel), home, index)
    assert found[wheel.filename].read_bytes() == wheel.data


async def test_nobody_there_is_an_unreachable_index(home: Home) -> None:
    """A refused connection is told as such, with the host."""
    with TorchIndex() as gone:
        lock = served_lock(gone, BIG)
    with pytest.raises(IndexUnreachable, match=r"127\.0\.0\.1"):
        await fetched(lock, home, gone)


async def test_redirects_are_followed(index: TorchIndex, home: Home) -> None:
    """A file that its index keeps elsewhere is fetched from there, and resumed there."""
    lock = lock_of([locked_file(BIG, f"{index.address}/moved/{BIG.filename}")])
    index.faults.append(Fault(match="/moved/*", redirect=f"{index.simple_url}/files/{BIG.filename}"))
    index.faults.append(Fault(match="/simple/files/*", times=1, reset_after_bytes=1_500_000))
    found, _ = await fetched(lock, home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert any(request.range for request in index.requests if request.path.startswith("/simple/files"))


async def test_an_unknown_size_is_learnt_from_the_server(index: TorchIndex, home: Home) -> None:
    """Where a lock has no size, totals are unknown until the server's answer."""
    _, facts = await fetched(served_lock(index, BIG, SMALL, with_sizes=False), home, index)
    assert facts[0].overall_total_bytes is None
    assert facts[-1].overall_total_bytes == len(BIG.data) + len(SMALL.data)


async def test_a_file_on_disk_is_copied_and_hashed(index: TorchIndex, home: Home, tmp_path: Path) -> None:
    """A `file:` source goes the same way: copied with the same facts, checked, resumed."""
    folder = tmp_path / "with ä and +"
    folder.mkdir()
    lock = lock_of([locked_file(BIG, BIG.write_to(folder).as_uri())])
    leave_part(home, BIG.data[:1_000_000])
    found, facts = await fetched(lock, home, index)
    assert found[BIG.filename].read_bytes() == BIG.data
    assert (facts[0].resumed_from, facts[-1].transferred_bytes) == (1_000_000, len(BIG.data) - 1_000_000)


async def test_a_file_on_disk_that_is_gone_is_told(index: TorchIndex, home: Home, tmp_path: Path) -> None:
    """A find-links folder that was emptied since is a download that is not available."""
    lock = lock_of([locked_file(BIG, (tmp_path / BIG.filename).as_uri())])
    with pytest.raises(DownloadFailed, match="no longer exists"):
        await fetched(lock, home, index)


async def test_a_file_on_disk_that_can_t_be_read_is_named(
    index: TorchIndex, home: Home, tmp_path: Path
) -> None:
    """It is the file that has to be looked at, not the home's disk."""
    path = tmp_path / BIG.filename
    path.mkdir()  # what opens for nobody, not even for root
    with pytest.raises(DownloadFailed, match=f"{BIG.filename}.*can't be read") as caught:
        await fetched(lock_of([locked_file(BIG, path.as_uri())]), home, index)
    assert "permissions" in (caught.value.hint or "")


@asynccontextmanager
async def broken_tls(tmp_path: Path) -> AsyncIterator[tuple[str, PackagingConfig]]:
    """A server whose secure connection breaks in the middle of a body; its address, and who trusts it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def answer(stream: SocketStream) -> None:
        async with stream:
            tls = await TLSStream.wrap(stream, server_side=True, ssl_context=context)
            await tls.receive()
            await tls.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(BIG.data)}\r\n\r\n".encode())
            await tls.send(BIG.data[:1000])
            await stream.send(b"no record of TLS" * 1000)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610  no Django here
        yield f"https://127.0.0.1:{port}", PackagingConfig(cert=tmp_path / "ca.pem")
        tasks.cancel_scope.cancel()


async def test_a_secure_connection_that_breaks_is_the_networks_fault(home: Home, tmp_path: Path) -> None:
    """`ssl.SSLError` is an OSError, and not the disk's; what came before it is kept."""
    async with broken_tls(tmp_path) as (url, config), open_client(config) as client:
        lock = lock_of([locked_file(BIG, f"{url}/{BIG.filename}")])
        with pytest.raises(IndexUnreachable, match="no secure connection") as caught:
            await fetch(lock, home=home, client=client, publish=lambda _: None, patience=HASTY)
    assert "already downloaded" in (caught.value.hint or "")


async def test_a_wrong_file_on_disk_is_refused(index: TorchIndex, home: Home, tmp_path: Path) -> None:
    """The lock's hash counts for copies too."""
    path = tmp_path / BIG.filename
    path.write_bytes(b"\0" * len(BIG.data))
    with pytest.raises(HashMismatch):
        await fetched(lock_of([locked_file(BIG, path.as_uri())]), home, index)


async def test_two_at_once_harm_nothing(index: TorchIndex, home: Home) -> None:
    """Two that fetch the same file into the same home both get it, whole."""
    index.faults.append(Fault(match="*big*", bytes_per_second=20_000_000))
    lock = served_lock(index, BIG)
    results: list[Path] = []

    async def fetch_it() -> None:
        found, _ = await fetched(lock, home, index)
        results.append(found[BIG.filename])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetch_it)
        tasks.start_soon(fetch_it)
    assert [path.read_bytes() == BIG.data for path in results] == [True, True]


async def test_a_whole_part_of_unknown_size_is_known_by_the_server(index: TorchIndex, home: Home) -> None:
    """A server that says that nothing is missing is believed; the hash decides as ever."""
    leave_part(home, BIG.data)
    _, facts = await fetched(served_lock(index, BIG, with_sizes=False), home, index)
    assert gets(index, BIG) == [f"bytes={len(BIG.data)}-"]
    assert facts[-1].transferred_bytes == 0


async def test_a_home_that_can_t_be_written_is_told(index: TorchIndex, home: Home) -> None:
    """Where downloads can't be put anywhere, the home is what is named."""
    home.downloads.rmdir()
    home.downloads.write_text("in the way")
    with pytest.raises(HomeUnusable, match="downloads"):
        await fetched(served_lock(index, BIG), home, index)


async def test_one_failure_ends_all_and_keeps_what_is_here(index: TorchIndex, home: Home) -> None:
    """Where one file can't be had, the others stop, and their bytes stay."""
    index.faults.append(Fault(match="*small*", status=404))
    index.faults.append(Fault(match="*big*", hang_after_bytes=1_500_000))
    with pytest.raises(DownloadFailed, match="small"):
        await fetched(served_lock(index, BIG, SMALL), home, index)


async def test_what_can_t_fit_is_not_begun(index: TorchIndex, home: Home) -> None:
    """Space is looked at before the first byte is asked for; the message says how much is needed and free."""
    facts: list[DownloadProgressed] = []
    async with client_of(index) as client:
        with pytest.raises(NoSpace, match=r"Not enough space .* GB needed .* free"):
            await fetch(
                served_lock(index, BIG), home=home, client=client, publish=facts.append, unpacked_factor=1e12
            )
    assert facts == []
    assert index.requests == ()


async def test_a_file_whose_hash_nobody_knows_is_found_again(index: TorchIndex, home: Home) -> None:
    """A wheel fetched for the sake of its metadata is a finished download for the lock that then names it."""
    file = RemoteFile(
        filename=BIG.filename, url=f"{index.simple_url}/files/{BIG.filename}", sha256=None, size_bytes=None
    )
    async with client_of(index) as client:
        _, sha256 = await fetch_unhashed(file, home=home, client=client, publish=lambda _: None)
    assert sha256 == BIG.sha256
    index.clear_requests()
    await fetched(served_lock(index, BIG), home, index)
    assert index.requests == ()


async def test_a_silent_host_is_not_asked_for_every_size(index: TorchIndex) -> None:
    """As many files as are asked for at once wait for it, no other; another host's sizes are known."""
    lock = served_lock(index, BIG, with_sizes=False)
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        place = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (known,) = lock.files
        names = [f"silent{number}" for number in range(9)]
        unknown = (replace(known, name=name, filename=name, url=f"{place}/{name}") for name in names)
        async with client_of(index) as client:
            sized = await with_sizes(replace(lock, files=(*unknown, known)), client, host_seconds=0.3)
        silent.settimeout(0.1)
        connections = 0
        with suppress(TimeoutError):
            while True:
                silent.accept()[0].close()
                connections += 1
    assert connections == 4
    assert [file.size_bytes for file in sized.files] == [None] * len(names) + [len(BIG.data)]
