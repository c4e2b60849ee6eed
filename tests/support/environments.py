"""What tests of environments share: a home, a client, and locks of wheels that a loopback index serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import SocketAttribute, SocketStream

from moondream_station.core.fetch.lock import Lock, LockedFile
from moondream_station.core.fetch.retry import Patience
from moondream_station.core.home.layout import Home
from moondream_station.core.packaging.packaging_config import PackagingConfig
from support.torch_index import TorchIndex
from support.wheels import Wheel

_PAGE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n"

HASTY = Patience(stall_seconds=0.4, attempts=3, pause_seconds=0.01, longest_pause_seconds=0.02)
"""For servers that are known to be slow, silent or broken."""


def made_home(folder: Path) -> Home:
    """A home in a folder of the test's own."""
    home = Home(root=folder / "home")
    home.create()
    return home


def loopback_config(index: TorchIndex, **changes: object) -> PackagingConfig:
    """A packaging set-up that knows the loopback index and nothing else."""
    fields: dict[str, object] = {"index_url": index.simple_url, "retries": 0, **changes}
    return PackagingConfig(**fields)  # type: ignore[arg-type]


def locked_file(wheel: Wheel, url: str, *, with_size: bool = True, sha256: str | None = None) -> LockedFile:
    """A wheel as a lock names it."""
    return LockedFile(
        name=wheel.project,
        version=wheel.version,
        filename=wheel.filename,
        url=url,
        index=None,
        sha256=sha256 or wheel.sha256,
        size_bytes=len(wheel.data) if with_size else None,
    )


def lock_of(files: Iterable[LockedFile]) -> Lock:
    """A lock of these files."""
    return Lock(files=tuple(sorted(files, key=lambda file: file.name)), requires_python=">=3.11")


def served_lock(index: TorchIndex, *wheels: Wheel, with_sizes: bool = True) -> Lock:
    """A lock of wheels that the loopback index serves among its ordinary packages."""
    return lock_of(
        locked_file(wheel, f"{index.simple_url}/files/{wheel.filename}", with_size=with_sizes)
        for wheel in wheels
    )


@asynccontextmanager
async def page_server(body: bytes, *, is_endless: bool = False) -> AsyncIterator[str]:
    """A page, sent once or without end; its address."""

    async def answer(stream: SocketStream) -> None:
        async with stream:
            try:
                await stream.receive()
                await stream.send(_PAGE_HEAD + body)
                while is_endless:
                    await stream.send(body)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                pass

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610  no Django here
        tasks.cancel_scope.cancel()
