"""Which wheels of torch are available: on PyTorch's index, in find-links, on the user's default index."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import is_amds, parse_build
from moondream_station.core.builds.offers import Offer, offer_from_wheel
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.facts.redact import redact_url, without_credentials
from moondream_station.core.facts.selection import Source, Verdict
from moondream_station.core.home.layout import Home
from moondream_station.core.index.listing import ListedFile, ListingCache, Page, PageSource, SourceReport
from moondream_station.core.packaging.packaging_config import PYPI_URL, PackagingConfig, is_torch_index
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import select

if TYPE_CHECKING:
    import httpx2

_TORCH = "torch"
DEADLINE_SECONDS = 8.0
_PAGE_SECONDS = 5.0

_Found: TypeAlias = tuple[list[Offer], list[SourceReport]]
"""What was found in one place, and what became of looking there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedOffers:
    """Real wheels, the index's first, then those of find-links, then the user's default index's.

    `tried` is what became of each place, in the same order.
    """

    offers: tuple[Offer, ...]
    tried: tuple[SourceReport, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every place answered."""
        return all(report.outcome != "failed" for report in self.tried)


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
        client=client,
        cache=ListingCache(home.cache / "listings"),
        deadline=anyio.current_time() + deadline_seconds,
        page_seconds=_PAGE_SECONDS,
        refresh=refresh,
    )
    catalog = request.catalog
    index = _TorchIndexPages(torch_index.rstrip("/"), request, pages)
    by_place: dict[int, _Found] = {}

    async def keep(place: int, page_url: str, source: Source, url: str) -> None:
        page = await pages.get(page_url, source)
        offers, reports = await anyio.to_thread.run_sync(_found_on, page, url, source, catalog)
        if source not in {"vendor", "find-links"} and url != PYPI_URL:
            offers = [replace(offer, is_from_users_index=True) for offer in offers]
        by_place[place] = offers, reports

    async with anyio.create_task_group() as tasks:
        if config.no_index and torch_index.rstrip("/") == catalog.index.rstrip("/"):
            detail, shown = "not asked, because no-index is set", redact_url(torch_index)
            report = SourceReport(source="index", url_redacted=shown, outcome="absent", detail=detail)
            by_place[0] = [], [report]
        else:
            tasks.start_soon(index.collect)
        places: list[tuple[str, Source, str]] = [(url, "find-links", url) for url in config.find_links]
        own = f"{config.index_url}/{_TORCH}/"
        if not config.no_index and is_torch_index(config.index_url, torch_index):
            places.insert(0, (own, "index", config.index_url))
        elif not config.no_index:
            places.append((own, "default", config.index_url))
        if not config.no_index:
            places += [(f"{url}/{_TORCH}/", "vendor", url) for url in _vendor_indexes(request)]
        for place, (page_url, source, url) in enumerate(places, start=1):
            tasks.start_soon(keep, place, page_url, source, url)
    if 0 not in by_place:  # in threads: PyTorch's own page lists some thousand wheels
        by_place[0] = await anyio.to_thread.run_sync(index.found)
    ordered = [by_place[place] for place in sorted(by_place)]
    kept: dict[tuple[str, str | None, str | None], Offer] = {}
    for offer in (offer for offers, _ in ordered for offer in offers):
        kept.setdefault((offer.source, offer.index_url, offer.filename), offer)
    tried = tuple(report for _, reports in ordered for report in reports)
    return CollectedOffers(offers=tuple(kept.values()), tried=tried)


class _TorchIndexPages:
    """PyTorch's index: the page of all builds, and those of the builds that the selection may choose.

    The page of all builds tells of builds and versions that the catalog does not know. A build's own page is
    what the lock will be made from, so it has the last word on that build. Both are asked for at the same
    time; once nobody answers, no further page is asked for.
    """

    def __init__(self, base: str, request: BuildRequest, pages: PageSource) -> None:
        self._base = base
        self._request = request
        self._pages = pages
        # The pages of each build, as the catalog knows them; previews had others.
        self._known_pages: dict[str, set[str]] = {}
        for offer in request.catalog_offers(index=base):
            if offer.source == "index" and offer.index_url is not None:
                self._known_pages.setdefault(offer.build, set()).add(offer.index_url)
        self._by_build: dict[str, Page] = {}
        self._all: Page | None = None
        self._dead: Page | None = None

    async def collect(self) -> None:
        """Asks for the pages."""
        async with anyio.create_task_group() as tasks:

            async def ask(index_url: str) -> None:
                page = await self._pages.get(f"{index_url}/{_TORCH}/", "index")
                self._by_build[without_credentials(index_url)] = page
                give_up_if_dead(page)

            def give_up_if_dead(page: Page) -> None:
                if page.is_server_dead:
                    self._dead = page
                    tasks.cancel_scope.cancel()

            first = _builds_worth_asking(self._request)
            for index_url in self._indexes_of(first):
                tasks.start_soon(ask, index_url)
            self._all = await self._pages.get(f"{self._base}/{_TORCH}/", "index")
            give_up_if_dead(self._all)
            more = await anyio.to_thread.run_sync(
                lambda: _builds_worth_asking(self._request, self._offers_of_all())
            )
            for index_url in self._indexes_of(more - first):
                tasks.start_soon(ask, index_url)

    def found(self) -> _Found:
        """What came of it; one report where nobody answers, else one for each page."""
        pages = (self._all, *self._by_build.values())
        if self._dead is not None and not any(page and page.report.outcome == "ok" for page in pages):
            return [], [replace(self._dead.report, url_redacted=redact_url(self._base))]
        offers: list[Offer] = []
        reports = [self._all.report] if self._all is not None else []
        for url, page in sorted(self._by_build.items()):
            on_page, of_page = _found_on(page, url, "index", self._request.catalog)
            offers += on_page
            reports += of_page
        asked = {url for url, page in self._by_build.items() if page.report.outcome != "failed"}
        return offers + [offer for offer in self._offers_of_all() if offer.index_url not in asked], reports

    def _indexes_of(self, builds: Iterable[str]) -> list[str]:
        return sorted(
            url
            for build in builds
            if not is_amds(build)  # those have indexes of their own
            for url in self._known_pages.get(build, {f"{self._base}/{build}"})
        )

    def _offers_of_all(self) -> list[Offer]:
        """The offers on the page of all builds, each with the index of its build."""
        offers: list[Offer] = []
        for file in self._all.files if self._all is not None else ():
            offer = _offer(file, "index", self._base, self._request.catalog)
            if offer is not None:
                folder = unquote(urlsplit(file.url).path).rpartition("/")[0]
                name = folder.rpartition("/")[2]
                build = name if parse_build(name) is not None else offer.build
                # Of a build's indexes it is the one whose own path the folder ends with.
                known = self._indexes_of([build])
                fitting = [url for url in known if folder.endswith(url.removeprefix(self._base))]
                index_url = max(fitting, key=len, default=f"{self._base}/{build}")
                offers.append(replace(offer, index_url=without_credentials(index_url)))
        return offers


def _vendor_indexes(request: BuildRequest) -> tuple[str, ...]:
    """AMD's own indexes, where they may be asked and the machine may run what they have."""
    if not request.asks_amd:
        return ()
    is_worth = any(map(is_amds, _builds_worth_asking(request)))
    return tuple(request.catalog.vendor_indexes.values()) if is_worth else ()


def _builds_worth_asking(request: BuildRequest, seen: Iterable[Offer] = ()) -> frozenset[str]:
    """Builds that the selection does not reject; a named one alone.

    Where it rejects all (the requirement may ask for a torch that is newer than the catalog), those that the
    machine could run.
    """
    if parse_build(request.strategy) is not None:
        return frozenset({request.strategy})
    offers = (*request.catalog_offers(), *seen)
    for asked in (request, replace(request, requirements=parse_requirement_args([_TORCH]))):
        candidates = select(asked, offers).selection.candidates
        if builds := {each.build for each in candidates if each.verdict is not Verdict.REJECTED}:
            return frozenset(builds)
    return frozenset()


def _found_on(page: Page, url: str, source: Source, catalog: Catalog) -> _Found:
    """The offers on a page; a page without any is reported as absent.

    On the user's default index only PyPI's own builds count: a local version is no name that PyPI has. On
    AMD's only AMD's do.
    """
    offers = [
        offer
        for file in page.files
        if (offer := _offer(file, source, url, catalog)) is not None
        and (source != "default" or offer.local is None)
        and (source != "vendor" or is_amds(offer.build))
    ]
    report = page.report
    if report.outcome == "ok" and not offers:
        report = replace(report, outcome="absent", detail="it lists no known wheel of torch")
    elif report.outcome == "ok":
        wheels = "1 wheel" if len(offers) == 1 else f"{len(offers)} wheels"
        note = report.detail.partition("; ")[2]
        report = replace(report, detail=f"{wheels} of torch" + (f"; {note}" if note else ""))
    return offers, [report]


def _offer(file: ListedFile, source: Source, url: str, catalog: Catalog) -> Offer | None:
    offer = offer_from_wheel(file.filename, catalog=catalog, source=source)
    return offer and replace(
        offer,
        index_url=without_credentials(url) if source != "find-links" and url != PYPI_URL else None,
        find_links=without_credentials(url) if source == "find-links" else None,
        url=file.url,
        requires_python=file.requires_python,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        yanked=file.yanked,
    )
