"""Locking: torch's family stays on the chosen index, whoever asks for it, and failures say what they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.requirements import parse_requirements
from moondream_station.core.facts.errors import (
    HashMismatch,
    IndexUnreachable,
    ResolutionConflict,
    SettingsInvalid,
)
from moondream_station.core.fetch.download import fetch
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.home.layout import Home
from moondream_station.core.resolve.interpreter import own_interpreter
from moondream_station.core.resolve.resolve import resolve_lock
from support.environments import HASTY, loopback_config, made_home, page_server
from support.index_traffic import Fault
from support.torch_index import TorchIndex
from support.wheels import Wheel, module_wheel, torch_wheel

pytestmark = pytest.mark.anyio


@pytest.fixture
def index() -> Iterator[TorchIndex]:
    """The usual loopback index."""
    with TorchIndex() as index:
        index.add_usual()
        yield index


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of the test's own."""
    return made_home(tmp_path)


def offer_of(index: TorchIndex, torch: str = "2.9.0", build: str = "cu128") -> Offer:
    """The chosen torch, on the PyTorch index."""
    return Offer(
        build=build, torch=torch, local=build, source="index", index_url=f"{index.torch_url}/{build}"
    )


async def locked(
    home: Home,
    index: TorchIndex,
    *requirements: str,
    offer: Offer | None,
    others: Sequence[Offer] = (),
    torch_index: str | None = None,
    **config: object,
) -> Lock:
    """Lock requirements, given as lines of a requirements file."""
    settings = loopback_config(index, **config)
    async with open_client(settings) as client:
        return await resolve_lock(
            requirements=parse_requirements(requirements, origin="requirements.txt"),
            offer=offer,
            others=others,
            interpreter=own_interpreter(),
            config=settings,
            torch_index=torch_index or index.torch_url,
            home=home,
            client=client,
            environ=os.environ,
            catalog=load_catalog(),
        )


def indexes_of(lock: Lock) -> dict[str, str]:
    """Last part of the index that each package comes from."""
    return {file.name: (file.index or "").rsplit("/", 1)[-1] for file in lock.files}


async def test_torch_that_another_package_asks_for_comes_from_the_chosen_index(
    home: Home, index: TorchIndex
) -> None:
    """Nobody names torch, and still it is the chosen build; the rest comes from the ordinary index."""
    lock = await locked(home, index, "wrapstorch", "pillow", offer=offer_of(index))
    assert dict(lock.packages) == {
        "numpy": "2.3.4",
        "pillow": "12.0.0",
        "torch": "2.9.0+cu128",
        "wrapstorch": "1.0.0",
    }
    assert indexes_of(lock) == {
        "numpy": "simple",
        "pillow": "simple",
        "torch": "cu128",
        "wrapstorch": "simple",
    }


async def test_companions_come_from_the_chosen_index_in_matching_versions(
    home: Home, index: TorchIndex
) -> None:
    """Torchvision is the one that belongs to the chosen torch, not the newest."""
    lock = await locked(home, index, "torch>=2.8", "torchvision", offer=offer_of(index))
    assert lock.packages["torchvision"] == "0.24.0+cu128"
    assert indexes_of(lock)["torchvision"] == "cu128"


async def test_a_companion_that_another_package_asks_for_is_pinned_too(home: Home, index: TorchIndex) -> None:
    """Torchvision that comes in through another package is pinned in a second turn."""
    index.add_simple(module_wheel("timm", "1.0", requires=["torch", "torchvision"]))
    index.add_simple(module_wheel("torchvision", "0.30.0", requires=["torch==2.15.0"]))
    lock = await locked(home, index, "timm", offer=offer_of(index))
    assert lock.packages["torchvision"] == "0.24.0+cu128"


async def test_a_triton_of_the_index_is_taken_from_there(home: Home, index: TorchIndex) -> None:
    """What torch itself asks for comes from its own index, also where the ordinary one has a newer one."""
    index.add("cu128", module_wheel("triton", "3.5.0"))
    index.add_simple(module_wheel("triton", "3.6.0"))
    index.add("cu128", torch_wheel("2.9.5", "cu128", requires=["triton>=3.5"]))
    lock = await locked(home, index, "torch", offer=offer_of(index, "2.9.5"))
    assert lock.packages["triton"] == "3.5.0"
    assert indexes_of(lock)["triton"] == "cu128"


async def test_a_triton_for_other_systems_does_no_harm(home: Home, index: TorchIndex) -> None:
    """A name that the index has for other systems alone is not asked of this one."""
    index.add("cu128", Wheel(name="triton", version="3.5.0", platform="win_amd64"))
    assert (await locked(home, index, "torch", offer=offer_of(index))).torch == "2.9.0+cu128"


async def test_torch_is_not_locked_where_nobody_asks_for_it(home: Home, index: TorchIndex) -> None:
    """A backend without torch gets none, though one was chosen."""
    lock = await locked(home, index, "numpy", offer=offer_of(index))
    assert dict(lock.packages) == {"numpy": "2.3.4"}
    assert lock.torch is None


async def test_torch_that_nobody_chose_is_refused(home: Home, index: TorchIndex) -> None:
    """Where no build is possible, torch must not come in by way of another package."""
    with pytest.raises(ResolutionConflict, match="wrapstorch asks for torch"):
        await locked(home, index, "wrapstorch", offer=None)


async def test_a_requirement_that_contradicts_the_build_names_both_sides(
    home: Home, index: TorchIndex
) -> None:
    """The message has the requirement and the build in one sentence; the tool's output is kept."""
    with pytest.raises(ResolutionConflict) as caught:
        await locked(home, index, "torch<2.8", offer=offer_of(index))
    assert "torch<2.8" in caught.value.message
    assert "torch==2.9.0+cu128" in caught.value.message
    assert "moondream-station-lock" not in caught.value.message
    assert caught.value.log is not None
    assert "No solution found" in caught.value.log


async def test_a_companion_that_only_others_have_is_refused(home: Home, index: TorchIndex) -> None:
    """A companion that would come from the ordinary index ends the lock, naming who asks for it."""
    index.add_simple(module_wheel("torchao", "0.14.0"))
    index.add_simple(module_wheel("quantizer", "1.0", requires=["torchao"]))
    with pytest.raises(ResolutionConflict) as caught:
        await locked(home, index, "quantizer", "torch", offer=offer_of(index))
    assert "quantizer asks for torchao" in caught.value.message
    assert f"{index.torch_url}/cu128" in caught.value.message
    assert index.simple_url in caught.value.message


async def test_a_pytorch_index_among_the_user_s_own_serves_nothing(home: Home, index: TorchIndex) -> None:
    """A user's extra index that is a PyTorch mirror would answer for pillow too, with its trap."""
    extra = (f"{index.torch_url}/cu128",)
    lock = await locked(home, index, "wrapstorch", "pillow", offer=offer_of(index), extra_index_urls=extra)
    assert lock.packages["pillow"] == "12.0.0"


async def test_find_links_serve_torch_as_an_index_would(
    home: Home, index: TorchIndex, tmp_path: Path
) -> None:
    """A torch on disk is locked with its hash and size; the PyTorch index is not asked."""
    wheel = torch_wheel("2.9.0", "cpu")
    folder = tmp_path / "find links"
    folder.mkdir()
    path = wheel.write_to(folder)
    offer = Offer(
        build="cpu",
        torch="2.9.0",
        local="cpu",
        source="find-links",
        find_links=folder.as_uri(),
        filename=wheel.filename,
        url=path.as_uri(),
    )
    lock = await locked(home, index, "wrapstorch", offer=offer)
    torch = next(file for file in lock.files if file.name == "torch")
    assert (torch.version, torch.sha256, torch.size_bytes) == ("2.9.0+cpu", wheel.sha256, len(wheel.data))
    assert not any(request.path.startswith("/whl") for request in index.requests)


async def test_the_user_s_own_index_may_hold_torch(home: Home, index: TorchIndex) -> None:
    """A torch of the ordinary index is pinned to the chosen version there."""
    index.add_simple(torch_wheel("2.9.2", None))
    offer = Offer(build="cu128", torch="2.9.1", source="default", index_url=index.simple_url)
    lock = await locked(home, index, "wrapstorch", offer=offer)
    assert lock.torch == "2.9.1"
    assert set(indexes_of(lock).values()) == {"simple"}


async def test_an_extra_index_gives_nothing_of_the_family(home: Home, index: TorchIndex) -> None:
    """Uv asks extra indexes before the default one: torch and its companions must not come from there."""
    offer = Offer(build="cu128", torch="2.9.1", source="default", index_url=index.simple_url)
    index.add_simple(module_wheel("torchao", "0.14.0"))
    with TorchIndex() as stranger:
        stranger.add_simple(torch_wheel("2.9.1", None, requires=["triton"]))
        stranger.add_simple(module_wheel("torchao", "99.0"))
        extra = (stranger.simple_url,)
        lock = await locked(home, index, "torch", "torchao", offer=offer, extra_index_urls=extra)
        family = [file for file in lock.files if file.name in {"torch", "torchao"}]
        assert {(file.name, file.version, file.index) for file in family} == {
            ("torch", "2.9.1", index.simple_url),
            ("torchao", "0.14.0", index.simple_url),
        }


async def test_another_build_of_the_chosen_version_is_refused(home: Home, index: TorchIndex) -> None:
    """A plain 2.9.4 is not the 2.9.4+rocm6.4 that an index offers under the same number."""
    index.add_simple(torch_wheel("2.9.4", "rocm6.4"))
    offer = Offer(build="cu128", torch="2.9.4", source="default", index_url=index.simple_url)
    with pytest.raises(ResolutionConflict, match=r"2\.9\.4\+rocm6\.4"):
        await locked(home, index, "wrapstorch", offer=offer)


async def test_sizes_are_asked_for_where_a_listing_has_none(home: Home, index: TorchIndex) -> None:
    """HTML listings tell no size; one HEAD a wheel does."""
    lock = await locked(home, index, "wrapstorch", offer=offer_of(index))
    assert lock.total_bytes is not None
    heads = [request.path for request in index.requests if request.method == "HEAD"]
    assert heads == [f"/whl/cu128/{chosen(index).filename}"]


async def test_a_size_is_asked_for_twice_where_the_first_answer_is_an_error(
    home: Home, index: TorchIndex
) -> None:
    """A server in passing trouble does not leave the total unknown."""
    index.faults.append(Fault(match=f"*/{chosen(index).filename}", times=1, status=503))
    lock = await locked(home, index, "wrapstorch", offer=offer_of(index))
    assert lock.total_bytes is not None


def chosen(index: TorchIndex) -> Wheel:
    """The wheel of the torch that is chosen here."""
    return next(
        wheel for wheel in index.wheels() if wheel.project == "torch" and wheel.version == "2.9.0+cu128"
    )


def of_torch(index: TorchIndex) -> list[Any]:
    """GETs of the chosen torch's wheel."""
    return [
        request
        for request in index.requests
        if request.method == "GET" and request.path.endswith(chosen(index).filename)
    ]


@pytest.mark.parametrize(
    "poor", [{"metadata": False, "ranges": False}, {"hashes": False}], ids=["no metadata", "no hashes"]
)
async def test_a_wheel_that_must_be_had_to_be_locked_is_fetched_once(
    home: Home, poor: dict[str, bool]
) -> None:
    """Where an index tells too little, the wheel is fetched as any download, locked from disk, and kept."""
    with TorchIndex(**poor) as index:  # type: ignore[arg-type]
        index.add_usual()
        lock = await locked(home, index, "wrapstorch", offer=offer_of(index))
        torch = next(file for file in lock.files if file.name == "torch")
        assert unquote(torch.url) == f"{index.torch_url}/cu128/{chosen(index).filename}"
        assert torch.index == f"{index.torch_url}/cu128"
        async with open_client(loopback_config(index)) as client:
            await fetch(lock, home=home, client=client, publish=lambda _: None, patience=HASTY)
        assert len(of_torch(index)) == 1


async def test_ranges_are_enough_to_lock(home: Home) -> None:
    """Without metadata files a few parts of the wheel are read, never the whole."""
    with TorchIndex(metadata=False) as index:
        index.add_usual()
        lock = await locked(home, index, "wrapstorch", offer=offer_of(index))
        assert lock.torch == "2.9.0+cu128"
        assert all(request.range for request in of_torch(index))


async def test_constraints_of_the_user_hold_but_for_the_family(
    home: Home, index: TorchIndex, tmp_path: Path
) -> None:
    """A constraint keeps pillow down; one on torch does not move the build."""
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("pillow<12\ntorch==2.8.0  # old\n")
    lock = await locked(
        home, index, "wrapstorch", "pillow", offer=offer_of(index), constraints=(constraints,)
    )
    assert (lock.packages["pillow"], lock.torch) == ("11.3.0", "2.9.0+cu128")


async def test_a_constraint_file_that_can_t_be_used_is_named(
    home: Home, index: TorchIndex, tmp_path: Path
) -> None:
    """A missing file, or a line that is more than a constraint, is the user's to mend."""
    bad = tmp_path / "bad.txt"
    bad.write_text("-r other.txt\n")
    for path in (tmp_path / "missing.txt", bad):
        with pytest.raises(SettingsInvalid, match=path.name):
            await locked(home, index, "numpy", offer=None, constraints=(path,))


async def test_hashes_in_the_requirements_are_held_against_the_lock(home: Home, index: TorchIndex) -> None:
    """A file whose hash the requirements don't name is refused; one that they name is taken."""
    numpy = next(wheel for wheel in index.wheels() if wheel.project == "numpy")
    await locked(home, index, f"numpy --hash=sha256:{numpy.sha256}", offer=None)
    with pytest.raises(HashMismatch, match="numpy"):
        await locked(home, index, f"numpy --hash=sha256:{'0' * 64}", offer=None)


def without_wheel(index: TorchIndex) -> None:
    """A package for another Python alone."""
    index.add_simple(Wheel(name="strange", version="1.0", python="cp39", abi="cp39"))


def without_platform(index: TorchIndex) -> None:
    """A package for another system alone."""
    index.add_simple(Wheel(name="strange", version="1.0", platform="macosx_11_0_arm64"))


def without_libc(index: TorchIndex) -> None:
    """A package for a C library of the future."""
    index.add_simple(Wheel(name="strange", version="1.0", platform="manylinux_2_99_x86_64"))


@pytest.mark.parametrize("add", [without_wheel, without_platform, without_libc])
async def test_a_package_without_a_wheel_for_this_system_is_named(
    home: Home, index: TorchIndex, add: Callable[[TorchIndex], None]
) -> None:
    """Wrong Python, wrong system, too new a C library: each is a conflict that names the package."""
    add(index)
    with pytest.raises(ResolutionConflict, match="strange"):
        await locked(home, index, "strange", offer=None)


async def test_an_unknown_package_is_named(home: Home, index: TorchIndex) -> None:
    """A name that no index has ends the lock."""
    with pytest.raises(ResolutionConflict, match="nosuchthing was not found"):
        await locked(home, index, "nosuchthing", offer=None)


@pytest.mark.parametrize("match", ["/simple/*", "/whl/*"])
async def test_an_index_that_is_down_is_named(home: Home, index: TorchIndex, match: str) -> None:
    """Whichever index answers 503: the message names its host and what it said."""
    index.faults.append(Fault(match=match, status=503))
    with pytest.raises(IndexUnreachable, match=r"127\.0\.0\.1.*503"):
        await locked(home, index, "wrapstorch", offer=offer_of(index))


async def test_a_listing_that_uv_can_t_read_is_named(home: Home, index: TorchIndex) -> None:
    """In UTF-16, uv finds nothing on it and says no more than that."""
    page = '<a href="pillow-1-py3-none-any.whl">pillow</a>'.encode("utf-16")
    async with page_server(page) as url:
        with pytest.raises(IndexUnreachable, match=f"{url}/pillow/ can't be read: the page is in UTF-16"):
            await locked(home, index, "pillow", offer=None, index_url=url)


async def test_an_index_that_nobody_serves_is_named(home: Home, index: TorchIndex) -> None:
    """A refused connection is told as such."""
    with TorchIndex() as gone:
        url = gone.simple_url
    with pytest.raises(IndexUnreachable, match="Connection refused"):
        await locked(home, index, "numpy", offer=None, index_url=url)


async def test_an_index_that_wants_credentials_says_so(home: Home) -> None:
    """401 is neither "not found" nor a conflict."""
    with TorchIndex(credentials=("me", "secret")) as index:
        index.add_usual()
        with pytest.raises(IndexUnreachable, match="credentials"):
            await locked(home, index, "wrapstorch", offer=offer_of(index))
        with pytest.raises(IndexUnreachable, match="credentials"):
            await locked(home, index, "numpy", offer=None)


async def test_credentials_serve_and_are_never_shown(home: Home) -> None:
    """Credentials in both indexes' URLs reach the servers; neither the lock nor any file left holds them."""
    with TorchIndex(credentials=("me", "s3cret")) as index:
        index.add_usual()
        private = index.address.replace("//", "//me:s3cret@")
        settings = loopback_config(index, index_url=f"{private}/simple")
        torch_index = f"{private}/whl"
        async with open_client(settings, torch_index=torch_index) as client:
            lock = await resolve_lock(
                requirements=parse_requirements(["wrapstorch"], origin="requirements.txt"),
                offer=offer_of(index),
                interpreter=own_interpreter(),
                config=settings,
                torch_index=torch_index,
                home=home,
                client=client,
                environ=os.environ,
                catalog=load_catalog(),
            )
            assert lock.torch == "2.9.0+cu128"
            assert "s3cret" not in repr(lock)
            await fetch(lock, home=home, client=client, publish=lambda _: None, patience=HASTY)
    written = [path for path in home.root.rglob("*") if path.is_file()]
    assert not [path for path in written if b"s3cret" in path.read_bytes()]


async def test_nothing_is_left_of_a_lock_but_the_cache(home: Home, index: TorchIndex) -> None:
    """The generated project is gone, whether locking went well or not."""
    await locked(home, index, "numpy", offer=None)
    with pytest.raises(ResolutionConflict):
        await locked(home, index, "nosuchthing", offer=None)
    assert [path.name for path in home.cache.iterdir()] == ["uv"]


def older_of(index: TorchIndex, *versions: str, build: str = "cu128") -> tuple[Offer, ...]:
    """Further torches of the build, best first."""
    return tuple(offer_of(index, torch=version, build=build) for version in versions)


async def test_an_older_torch_of_the_same_build_is_taken_where_the_newest_does_not_go(
    home: Home, index: TorchIndex
) -> None:
    """Another package bounds torch: the newest one of the build that it accepts, from the same index."""
    index.add_simple(module_wheel("bounded", "1.0.0", requires=["torch<2.9"]))
    others = older_of(index, "2.8.0")
    lock = await locked(home, index, "torch>=2.7", "bounded", offer=offer_of(index), others=others)
    assert lock.torch == "2.8.0+cu128"
    assert indexes_of(lock)["torch"] == "cu128"


async def test_the_newest_torch_that_goes_is_taken(home: Home, index: TorchIndex) -> None:
    """Where the chosen one resolves, others are not looked at, and its companions stay with it."""
    others = older_of(index, "2.8.0")
    lock = await locked(home, index, "torch>=2.7", "torchvision", offer=offer_of(index), others=others)
    assert (lock.torch, lock.packages["torchvision"]) == ("2.9.0+cu128", "0.24.0+cu128")


async def test_a_torch_that_was_not_offered_is_never_taken(home: Home, index: TorchIndex) -> None:
    """It lies between those that were, on the same index, and would fit: it is left out all the same."""
    index.add_torch("2.7.1", "cu128")
    index.add_torch("2.8.1", "cu128")
    index.add_simple(module_wheel("bounded", "1.0.0", requires=["torch<2.9"]))
    others = older_of(index, "2.8.0", "2.7.1")
    lock = await locked(home, index, "torch", "bounded", offer=offer_of(index), others=others)
    assert lock.torch == "2.8.0+cu128"


async def test_the_conflict_with_the_chosen_torch_is_told_where_no_other_goes(
    home: Home, index: TorchIndex
) -> None:
    """Both sides are named: the package and what it asks for, the build and its torch."""
    index.add_simple(module_wheel("bounded", "1.0.0", requires=["torch<2.5"]))
    others = older_of(index, "2.8.0")
    with pytest.raises(
        ResolutionConflict, match=r"bounded.*torch<2\.5.*torch==2\.9\.0\+cu128|torch==2\.9\.0"
    ):
        await locked(home, index, "torch", "bounded", offer=offer_of(index), others=others)


async def test_other_torches_in_find_links_must_be_of_the_build(
    home: Home, index: TorchIndex, tmp_path: Path
) -> None:
    """A folder holds several builds: the range reaches only those of the chosen one."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version, build in (("2.9.0", "cu128"), ("2.8.0", "cpu"), ("2.7.1", "cu128")):
        torch_wheel(version, build).write_to(folder)
    index.add_simple(module_wheel("bounded", "1.0.0", requires=["torch<2.9"]))
    chosen, other = (
        Offer(build="cu128", torch=version, local="cu128", source="find-links", find_links=folder.as_uri())
        for version in ("2.9.0", "2.7.1")
    )
    lock = await locked(home, index, "torch", "bounded", offer=chosen, others=[other])
    assert lock.torch == "2.7.1+cu128"
