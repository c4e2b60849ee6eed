"""Which packages of the family an index has, asked of servers that are large, busy or endless."""

from __future__ import annotations

import threading
from html.parser import HTMLParser

import anyio
import pytest
from packaging.tags import sys_tags

from moondream_station.core.facts.errors import IndexUnreachable
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.fetch.retry import PAGE_PATIENCE, Patience, patience_of
from moondream_station.core.home.storage import temporary_folder
from moondream_station.core.index.listing import ListingCache, PageSource
from moondream_station.core.packaging.packaging_config import PackagingConfig
from moondream_station.core.resolve.family import usable_names
from support.environments import page_server
from support.index_traffic import Fault
from support.torch_index import TorchIndex

pytestmark = pytest.mark.anyio


async def _present(
    url: str, *names: str, flat: bool = False, patience: Patience = PAGE_PATIENCE
) -> frozenset[str]:
    async with open_client(PackagingConfig()) as client, temporary_folder(None, "cache-") as cache:
        pages = PageSource(client=client, cache=ListingCache(cache), patience=patience, refresh=True)
        return await usable_names(url, names, pages, tags=sys_tags(), flat=flat)


async def test_a_listing_without_end_is_given_up() -> None:
    """A server that never stops sending fills no memory."""
    async with page_server(b" " * (1 << 20), is_endless=True) as url:
        with anyio.fail_after(60), pytest.raises(IndexUnreachable, match="larger than 64 MiB"):
            await _present(url, "torchvision")


async def test_a_large_listing_stops_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is parsed in a thread: the event loop goes on meanwhile."""
    threads: list[threading.Thread] = []
    feed = HTMLParser.feed

    def noticed(parser: HTMLParser, data: str) -> None:
        threads.append(threading.current_thread())
        feed(parser, data)

    monkeypatch.setattr(HTMLParser, "feed", noticed)
    page = "".join(f'<a href="torchvision-0.{n}.0-py3-none-any.whl">{n}</a>\n' for n in range(60_000))
    async with page_server(page.encode()) as url:
        assert await _present(url, "torchvision") == {"torchvision"}
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(("retries", "requests"), [(None, 3), (0, 1), (1, 2)])
async def test_an_index_is_asked_again_as_often_as_the_user_says(retries: int | None, requests: int) -> None:
    """`retries` of pip and uv counts for every page; three attempts without it."""
    patience = patience_of(PackagingConfig(retries=retries), PAGE_PATIENCE)
    with TorchIndex() as index:
        index.faults.append(Fault(match="*", status=503))
        with pytest.raises(IndexUnreachable, match="answers 503"):
            await _present(index.simple_url, "torchvision", patience=patience)
        assert len(index.requests) == requests


async def test_credentials_that_are_missing_are_named() -> None:
    """Status 401 is not asked again, and the hint says where they belong."""
    with TorchIndex(credentials=("me", "secret")) as index:
        with pytest.raises(IndexUnreachable, match="requires credentials") as caught:
            await _present(index.simple_url, "torchvision")
        assert "netrc" in (caught.value.hint or "")
        assert len(index.requests) == 1
