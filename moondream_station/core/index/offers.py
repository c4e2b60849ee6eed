"""Which wheels of torch are available: on PyTorch's index, in find-links, on the user's default index."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from moondream_station.core.builds.offers import Offer
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.facts.selection import Source
from moondream_station.core.home.layout import Home
from moondream_station.core.index.listing_cache import ListingCache
from moondream_station.core.index.page_source import PageSource, SourceReport
from moondream_station.core.index.torch_pages import TORCH, Found, TorchIndexPages, found_on
from moondream_station.core.packaging.packaging_config import PYPI_URL, PackagingConfig
from moondream_station.core.packaging.uv_environment import is_torch_index
from moondream_station.core.selection.request import BuildRequest

if TYPE_CHECKING:
    import httpx2

DEADLINE_SECONDS = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedOffers:
    """Real wheels, the index's first, then those of find-links, then the user's default index's.

    `tried` is what became of each place, in the same order.
    """

    offers: tuple[Offer, ...]
    tried: tuple[SourceReport, ...]


async def collect_offers(
    request: BuildRequest,
    *,
    torch_index: str,
    config: PackagingConfig,
    home: Home,
    client: httpx2.AsyncClient,
    deadline_seconds: float = DEADLINE_SECONDS,
    refresh: bool = False,
) -> CollectedOffers:
    """Looks in every place at the same time, within one deadline for all.

    A place that does not answer is reported, never raised. `torch_index` may hold credentials. An extra index
    is no place for torch: whoever lists a higher version there would decide what computes.
    """
    pages = PageSource(
        client,
        ListingCache(home.cache / "listings"),
        deadline=anyio.current_time() + deadline_seconds,
        refresh=refresh,
    )
    catalog = request.catalog
    index = TorchIndexPages(torch_index.rstrip("/"), request, pages)
    by_place: dict[int, Found] = {}

    async def keep(place: int, page_url: str, source: Source, url: str) -> None:
        page = await pages.get(page_url, source)
        offers, reports = await anyio.to_thread.run_sync(found_on, page, url, source, catalog)
        if source != "find-links" and url != PYPI_URL:
            offers = [replace(offer, is_from_users_index=True) for offer in offers]
        by_place[place] = offers, reports

    async with anyio.create_task_group() as tasks:
        if config.no_index and torch_index.rstrip("/") == catalog.index.rstrip("/"):
            by_place[0] = [], [_switched_off(torch_index)]
        else:
            tasks.start_soon(index.collect)
        places: list[tuple[str, Source, str]] = [(url, "find-links", url) for url in config.find_links]
        own = f"{config.index_url}/{TORCH}/"
        if not config.no_index and is_torch_index(config.index_url, torch_index):
            places.insert(0, (own, "index", config.index_url))
        elif not config.no_index:
            places.append((own, "default", config.index_url))
        for place, (page_url, source, url) in enumerate(places, start=1):
            tasks.start_soon(keep, place, page_url, source, url)
    if 0 not in by_place:  # in threads: PyTorch's own page lists some thousand wheels
        by_place[0] = await anyio.to_thread.run_sync(index.found)
    ordered = [by_place[place] for place in sorted(by_place)]
    return CollectedOffers(
        offers=_without_repetitions(offer for offers, _ in ordered for offer in offers),
        tried=tuple(report for _, reports in ordered for report in reports),
    )


def _switched_off(torch_index: str) -> SourceReport:
    detail = "not asked, because no-index is set"
    return SourceReport(source="index", url_redacted=redact_url(torch_index), outcome="absent", detail=detail)


def _without_repetitions(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    kept: dict[tuple[str, str | None, str | None], Offer] = {}
    for offer in offers:
        kept.setdefault((offer.source, offer.index_url, offer.filename), offer)
    return tuple(kept.values())
