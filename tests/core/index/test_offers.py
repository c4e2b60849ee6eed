"""Which wheels can be had, asked of real servers on loopback, of folders and of dead places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.facts.capabilities import Capabilities, Gpu
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.home.layout import Home
from moondream_station.core.index.listing import FRESH_SECONDS, ListedFile, ListingCache, SourceReport
from moondream_station.core.index.offers import CollectedOffers, collect_offers
from moondream_station.core.packaging.packaging_config import PackagingConfig
from moondream_station.core.selection.request import BuildRequest
from support.index_traffic import Fault
from support.torch_index import TorchIndex
from support.wheels import Wheel, torch_wheel

pytestmark = pytest.mark.anyio

_LINUX: dict[str, Any] = {"python": "cp311", "abi": "cp311", "platform": "manylinux_2_28_x86_64"}
_CPU = Capabilities(
    system="Linux", release="6.8.0", machine="x86_64", python="3.11.7", libc=("glibc", "2.39")
)
_NVIDIA = replace(
    _CPU,
    gpus=(Gpu(vendor="nvidia", index=0, name="NVIDIA GeForce RTX 4090", architecture="8.9"),),
    nvidia_driver="580.65.06",
)


def _torch(version: str, build: str | None) -> Wheel:
    return torch_wheel(version, build, **_LINUX)


_REQUEST_FIELDS = {field.name for field in fields(BuildRequest)}


class _Place:
    """Where offers are looked for: a home, an index, a user's set-up."""

    def __init__(self, home: Home, index: TorchIndex) -> None:
        self.home, self.index = home, index
        self.config = PackagingConfig(index_url=index.simple_url)

    async def collect(self, *, requirement: str = "torch", **changes: Any) -> CollectedOffers:
        """What can be had, by default on a machine without a GPU."""
        request: dict[str, Any] = {
            "capabilities": _CPU,
            "requirements": parse_requirement_args([requirement]),
            "python": "3.11.7",
        }
        request |= {name: changes.pop(name) for name in _REQUEST_FIELDS & changes.keys()}
        places: dict[str, Any] = {
            "torch_index": self.index.torch_url,
            "config": self.config,
            "home": self.home,
            **changes,
        }
        async with open_client(places["config"]) as client:
            return await collect_offers(BuildRequest(**request), client=client, **places)

    def asked(self) -> list[str]:
        """The pages asked for since the last time, sorted."""
        paths = sorted(request.path for request in self.index.requests)
        self.index.clear_requests()
        return paths


@pytest.fixture
def place(tmp_path: Path) -> Iterator[_Place]:
    """An index with three torch versions for Linux, and an ordinary index with one."""
    with TorchIndex() as index:
        for version, builds in (("2.8.0", ("cpu", "cu126")), ("2.9.0", ("cpu", "cu126", "cu130"))):
            for build in builds:
                index.add_torch(version, build, **_LINUX)
        index.add_simple(_torch("2.9.0", None))
        yield _Place(Home(tmp_path / "home"), index)


def _seen(collected: CollectedOffers) -> set[tuple[str, str, str]]:
    return {(offer.source, offer.build, offer.torch) for offer in collected.offers}


def _by_outcome(collected: CollectedOffers, outcome: str) -> list[SourceReport]:
    return [report for report in collected.tried if report.outcome == outcome]


async def test_offers_come_from_the_index_and_from_the_users_own(place: _Place, tmp_path: Path) -> None:
    """All builds the index has, then find-links, then the user's own index, whose wheel the catalog knows."""
    links = tmp_path / "links"
    links.mkdir()
    _torch("2.7.1", "cpu").write_to(links)
    (links / "notes.txt").touch()
    place.config = replace(place.config, find_links=(links.as_uri(),))
    collected = await place.collect()
    assert _seen(collected) == {
        *(("index", build, "2.8.0") for build in ("cpu", "cu126")),
        *(("index", build, "2.9.0") for build in ("cpu", "cu126", "cu130")),
        ("find-links", "cpu", "2.7.1"),
        ("default", "cu128", "2.9.0"),
    }
    assert [offer.source for offer in collected.offers] == ["index"] * 5 + ["find-links", "default"]
    assert [report.source for report in collected.tried] == ["index", "index", "find-links", "default"]
    assert {report.outcome for report in collected.tried} == {"ok"}
    assert [report.age_seconds for report in collected.tried] == [0, 0, 0, 0]


async def test_an_offer_says_all_that_its_page_says(place: _Place, tmp_path: Path) -> None:
    """Index, address, hash and Python; the size where the page is JSON."""
    wheel = _torch("2.9.0", "cu126")
    collected = await place.collect()
    (offer,) = (one for one in collected.offers if one.build == "cu126" and one.torch == "2.9.0")
    assert offer.index_url == f"{place.index.torch_url}/cu126"
    assert offer.filename == wheel.filename
    assert offer.url == f"{place.index.torch_url}/cu126/{wheel.filename.replace('+', '%2B')}"
    assert (offer.sha256, offer.requires_python, offer.size_bytes) == (wheel.sha256, ">=3.10", None)
    (own,) = (one for one in collected.offers if one.source == "default")
    assert own.index_url == place.index.simple_url
    assert own.size_bytes == len(_torch("2.9.0", None).data)
    place.index.json = True
    with_sizes = await place.collect(refresh=True)
    assert all(one.size_bytes for one in with_sizes.offers)


async def test_only_builds_that_can_be_chosen_have_their_page_asked(place: _Place) -> None:
    """A machine without a GPU asks for one page, one with a new driver for those it carries."""
    await place.collect()
    assert place.asked() == ["/simple/torch/", "/whl/cpu/torch/", "/whl/torch/"]
    await place.collect(capabilities=_NVIDIA, refresh=True)
    asked = place.asked()
    assert {"/whl/cpu/torch/", "/whl/cu126/torch/", "/whl/cu130/torch/"} <= set(asked)
    assert not [path for path in asked if "rocm" in path or "xpu" in path]
    await place.collect(capabilities=_NVIDIA, strategy="cu126", refresh=True)
    assert place.asked() == ["/simple/torch/", "/whl/cu126/torch/", "/whl/torch/"]


async def test_an_old_requirement_narrows_what_is_asked(place: _Place) -> None:
    """Builds whose torch the requirement forbids are not asked for."""
    await place.collect(capabilities=_NVIDIA, requirement="torch==2.9.0")
    asked = place.asked()
    assert "/whl/cu130/torch/" in asked
    assert "/whl/cu132/torch/" not in asked


async def test_a_torch_and_a_build_of_tomorrow_are_found(place: _Place) -> None:
    """What the catalog has never heard of is offered, also where only it satisfies the requirement."""
    place.index.add_torch("2.99.0", "cpu", **_LINUX)
    place.index.add_torch("2.99.0", "cu139", **_LINUX)
    collected = await place.collect(capabilities=_NVIDIA, requirement="torch>=2.99")
    assert {("index", "cpu", "2.99.0"), ("index", "cu139", "2.99.0")} <= _seen(collected)
    assert "/whl/cpu/torch/" in place.asked()


async def test_what_is_forbidden_or_not_there_is_absent(place: _Place) -> None:
    """The real index answers 403, others 404; neither is a failure."""
    place.index.faults.append(Fault(match="/whl/torch/", status=404))
    place.index.faults.append(Fault(match="/simple/torch/", status=410))
    collected = await place.collect(capabilities=_NVIDIA)
    assert ("index", "cu126", "2.9.0") in _seen(collected)
    assert not _by_outcome(collected, "failed")
    absent = {report.url_redacted for report in _by_outcome(collected, "absent")}
    assert f"{place.index.torch_url}/cu132/torch/" in absent
    assert f"{place.index.torch_url}/torch/" in absent
    assert f"{place.index.simple_url}/torch/" in absent


async def test_a_builds_own_page_has_the_last_word(place: _Place) -> None:
    """What the page of all builds still lists, but the build's page does not, can't be locked."""
    place.index.faults.append(Fault(match="/whl/cpu/torch/", status=403))
    assert "cpu" not in {offer.build for offer in (await place.collect()).offers}
    place.index.faults[:] = [Fault(match="/whl/cpu/torch/", status=503)]
    collected = await place.collect(refresh=True)
    assert "cpu" in {offer.build for offer in collected.offers}
    assert [report.detail for report in _by_outcome(collected, "failed")] == [
        "it answers 503 Service Unavailable"
    ]


async def test_a_dead_index_is_reported_once_and_stops_nothing(place: _Place, tmp_path: Path) -> None:
    """Nobody answers there: one sentence, and what other places have."""
    with TorchIndex() as gone:
        dead = gone.torch_url
    collected = await place.collect(torch_index=dead, capabilities=_NVIDIA)
    assert _seen(collected) == {("default", "cu128", "2.9.0")}
    (failed,) = _by_outcome(collected, "failed")
    assert failed.sentence == f"{dead}: the connection is refused."
    assert failed.source == "index"


async def test_a_silent_server_costs_no_more_than_the_deadline(place: _Place) -> None:
    """Each page that nobody answered in time is reported, what came is used."""
    place.index.faults.append(Fault(match="/whl/*", hang_after_bytes=0))
    collected = await place.collect(deadline_seconds=0.5)
    assert _seen(collected) == {("default", "cu128", "2.9.0")}
    assert {report.detail for report in _by_outcome(collected, "failed")} == {"it does not answer in time"}
    late = await place.collect(deadline_seconds=0)
    assert {report.detail for report in _by_outcome(late, "failed")} == {"no time was left to ask it"}


async def test_cancelling_ends_the_asking(place: _Place) -> None:
    """A user who gives up does not wait for servers."""
    place.index.faults.append(Fault(match="*", hang_after_bytes=0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.collect)
        await anyio.to_thread.run_sync(lambda: place.index.wait_for("/whl/torch/"))
        tasks.cancel_scope.cancel()


async def test_a_listing_of_the_last_day_is_not_asked_for_again(place: _Place) -> None:
    """Its age is told; `refresh` asks whether it changed, and an unchanged page does not come again."""
    first = await place.collect()
    place.asked()
    second = await place.collect()
    assert place.asked() == []
    assert second.offers == first.offers
    assert all(report.age_seconds is not None for report in second.tried)
    refreshed = await place.collect(refresh=True)
    assert [request.status for request in place.index.requests] == [304, 304, 304]
    assert refreshed.offers == first.offers


async def test_a_listing_of_the_last_day_stands_in_for_a_dead_server(place: _Place) -> None:
    """Asked to refresh, the station uses what it has, and says why."""
    first = await place.collect()
    place.index.faults.append(Fault(match="*", status=503))
    again = await place.collect(refresh=True)
    assert again.offers == first.offers
    assert {report.outcome for report in again.tried} == {"ok"}
    assert "503" in again.tried[0].detail


async def test_credentials_are_used_and_never_shown(tmp_path: Path) -> None:
    """In no report, no offer and no file of the cache."""
    with TorchIndex(credentials=("me", "secret")) as index:
        index.add_torch("2.9.0", "cpu", **_LINUX)
        place = _Place(Home(tmp_path / "home"), index)
        place.config = PackagingConfig(index_url=index.simple_url.replace("://", "://me:secret@"))
        torch_index = index.torch_url.replace("://", "://me:secret@")
        collected = await place.collect(torch_index=torch_index)
        assert _seen(collected) == {("index", "cpu", "2.9.0")}
        assert "secret" not in repr(collected)
        assert _files_with("secret", tmp_path) == []
        stranger = _Place(Home(tmp_path / "other"), index)
        stranger.config = PackagingConfig(index_url=index.simple_url)
        asked = await stranger.collect()
        assert all("401" in report.detail for report in asked.tried)


def _files_with(text: str, folder: Path) -> list[Path]:
    files = list(folder.rglob("*.json"))
    assert files
    return [path for path in files if text in path.read_text()]


async def test_no_index_leaves_find_links_and_a_named_mirror(place: _Place, tmp_path: Path) -> None:
    """PyTorch's own index is an index too; a mirror that the user named for the station is meant."""
    _torch("2.7.1", "cpu").write_to(tmp_path)
    config = PackagingConfig(no_index=True, find_links=(tmp_path.as_uri(),))
    official = await place.collect(config=config, torch_index="https://download.pytorch.org/whl/")
    assert _seen(official) == {("find-links", "cpu", "2.7.1")}
    assert official.tried[0].detail == "not asked, because no-index is set"
    mirror = await place.collect(config=config)
    assert ("index", "cpu", "2.9.0") in _seen(mirror)
    assert "default" not in {offer.source for offer in mirror.offers}


async def test_a_page_of_find_links_and_an_index_on_disk(place: _Place, tmp_path: Path) -> None:
    """An HTML page on a server, one on disk, and a folder in the form of an index."""
    wheel = _torch("2.7.1", "cpu")
    page = tmp_path / "links.html"
    page.write_text(f'<a href="wheels/{wheel.filename.replace("+", "%2B")}#sha256={wheel.sha256}">x</a>')
    project = tmp_path / "simple" / "torch"
    project.mkdir(parents=True)
    (project / "index.html").write_text(f'<a href="../../{_torch("2.8.0", None).filename}">x</a>')
    config = PackagingConfig(
        index_url=(tmp_path / "simple").as_uri(),
        find_links=(page.as_uri(), f"{place.index.torch_url}/cu126/torch/"),
    )
    collected = await place.collect(config=config, strategy="cpu")
    found = [offer for offer in collected.offers if offer.source != "index"]
    assert {(offer.source, offer.build, offer.torch) for offer in found} == {
        ("find-links", "cpu", "2.7.1"),
        ("find-links", "cu126", "2.8.0"),
        ("find-links", "cu126", "2.9.0"),
        ("default", "cu128", "2.8.0"),
    }
    assert found[0].find_links == page.as_uri()
    assert found[0].url == (tmp_path / "wheels" / wheel.filename).as_uri()


async def test_a_pytorch_index_among_the_users_own_is_one(place: _Place) -> None:
    """Its wheels can be locked from it alone, so they count as an index's."""
    config = PackagingConfig(index_url=f"{place.index.torch_url}/cu126")
    with TorchIndex() as gone:
        dead = gone.torch_url
    collected = await place.collect(config=config, torch_index=dead)
    assert _seen(collected) == {("index", "cu126", "2.8.0"), ("index", "cu126", "2.9.0")}
    assert {offer.index_url for offer in collected.offers} == {f"{place.index.torch_url}/cu126"}


@pytest.mark.parametrize("path", ["simple", "whl/cpu"])
async def test_an_extra_index_is_no_source_of_torch(place: _Place, path: str) -> None:
    """Whatever it lists, and whatever it is called: it is not even asked."""
    with TorchIndex() as stranger:
        stranger.add_torch("99.0", "cpu", **_LINUX)
        stranger.add_simple(_torch("99.0", "cpu"))
        stranger.add_simple(_torch("2.8.0", None))
        extra = stranger.simple_url if path == "simple" else f"{stranger.torch_url}/cpu"
        collected = await place.collect(config=replace(place.config, extra_index_urls=(extra,)))
        assert _seen(collected) == _seen(await place.collect())
        assert stranger.requests == ()


async def test_of_the_default_index_pypis_own_builds_alone_count(place: _Place) -> None:
    """A local version, or a release that the catalog does not know, is nothing that PyPI has."""
    for version, build in (("99.0", "cpu"), ("2.9.1", "cpu"), ("99.0", None)):
        place.index.add_simple(_torch(version, build))
    own = [offer for offer in (await place.collect()).offers if offer.source == "default"]
    assert [(offer.torch, offer.local, offer.index_url) for offer in own] == [
        ("2.9.0", None, place.index.simple_url)
    ]


async def test_a_page_that_is_no_listing_fails(place: _Place) -> None:
    """JSON of another kind is told apart from an index that has nothing."""
    place.config = PackagingConfig(index_url=f"{place.index.address}/_requests")
    collected = await place.collect()
    assert collected.tried[-1].outcome == "failed"
    assert "not a listing" in collected.tried[-1].detail


async def test_a_page_without_files_is_not_believed_for_a_day(place: _Place) -> None:
    """A network's login page looks like that; the next time the server is asked again."""
    place.config = PackagingConfig(find_links=(f"{place.index.torch_url}/cpu/",), no_index=True)
    for _ in range(2):
        collected = await place.collect()
        assert collected.tried[-1].outcome == "absent"
        assert collected.tried[-1].detail == "it lists no known wheel of torch"
        assert "/whl/cpu/" in place.asked()


async def test_a_home_that_cannot_be_written_to_is_no_obstacle(place: _Place, tmp_path: Path) -> None:
    """Then every listing is fetched again."""
    (tmp_path / "file").touch()
    first = await place.collect(home=Home(tmp_path / "file"))
    assert first.offers
    place.asked()
    await place.collect(home=Home(tmp_path / "file"))
    assert place.asked() != []


def test_only_listings_of_the_last_day_are_fresh(tmp_path: Path) -> None:
    """A day later they are old; before they were written, the clock was wrong."""
    time = [1000.0]
    cache = ListingCache(tmp_path, now=lambda: time[0])
    files = (ListedFile(filename="a-1-py3-none-any.whl", url="https://a.example/a.whl", sha256="ab" * 32),)
    cache.write("https://me:secret@a.example/simple/a/", files, etag='"x"')
    for later, fresh in ((0, True), (FRESH_SECONDS - 1, True), (FRESH_SECONDS, False), (-1, False)):
        time[0] = 1000.0 + later
        known = cache.read("https://me:secret@a.example/simple/a/")
        assert known is not None
        assert (known.files, known.etag, known.age_seconds, known.is_fresh) == (files, '"x"', later, fresh)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{broken", '{"format": "moondream-station/listing/1"}'])
def test_a_broken_cache_is_an_empty_one(content: str, tmp_path: Path) -> None:
    """Whatever lies there, the page is fetched again."""
    cache = ListingCache(tmp_path)
    cache.write("https://a.example/", (), etag=None)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    assert cache.read("https://a.example/") is None
