"""Wheels as offers: which build a file belongs to."""

from __future__ import annotations

import pytest

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.offers import catalog_offers, offer_from_wheel, target_of
from support.snapshots import linux, macos, windows

LINUX = "cp312-cp312-manylinux_2_28_x86_64.whl"


@pytest.mark.parametrize(
    ("filename", "build", "torch", "local"),
    [
        (f"torch-2.13.0+cpu-{LINUX}", "cpu", "2.13.0", "cpu"),
        (f"torch-2.13.0%2Bcu126-{LINUX}", "cu126", "2.13.0", "cu126"),
        (f"torch-2.14.1+rocm7.2-{LINUX}", "rocm7.2", "2.14.1", "rocm7.2"),
        (f"torch-2.15.0-{LINUX}", "cu132", "2.15.0", None),
        (f"torch-2.10.0-{LINUX}", "cu128", "2.10.0", None),
        ("torch-2.10.0-cp312-cp312-manylinux_2_28_aarch64.whl", "cpu", "2.10.0", None),
        ("torch-2.15.0-cp312-cp312-win_amd64.whl", "cpu", "2.15.0", None),
        ("torch-2.15.0-cp312-none-macosx_14_0_arm64.whl", "mps", "2.15.0", None),
        ("torch-2.16.0-cp312-none-macosx_14_0_arm64.whl", "mps", "2.16.0", None),
        ("torch-2.2.2-cp312-none-macosx_10_9_x86_64.whl", "cpu", "2.2.2", None),
        ("torch-2.13.0+cpu-cp312-cp312-win_arm64.whl", "cpu", "2.13.0", "cpu"),
        ("torch-2.13.0+cpu-cp314-cp314t-linux_s390x.whl", "cpu", "2.13.0", "cpu"),
        (f"torch-2.16.0.dev20261101+cu134-{LINUX}", "cu134", "2.16.0.dev20261101", "cu134"),
    ],
)
def test_a_wheel_belongs_to_the_build_of_its_local_version_or_to_pypis(
    filename: str, build: str, torch: str, local: str | None
) -> None:
    """Without a local version the catalog tells what PyPI's own wheel is."""
    offer = offer_from_wheel(filename, catalog=load_catalog(), source="default")
    assert offer is not None
    assert (offer.build, offer.torch, offer.local) == (build, torch, local)


@pytest.mark.parametrize(
    "filename",
    [
        f"torch-99.0.0-{LINUX}",  # PyPI's wheel of an unknown release
        f"torch-2.6.0+cpu.cxx11.abi-{LINUX}",
        f"torchvision-0.28.0+cpu-{LINUX}",
        "torch-2.13.0.tar.gz",
        "torch-2.13.0+cpu.whl",
        "index.html",
        "",
        "torch-2.15.0-py3-none-any.whl",
        "torch-2.15.0-cp312-cp312-musllinux_1_2_x86_64.whl",
    ],
)
def test_other_files_are_no_offers(filename: str) -> None:
    """What the catalog does not know is not used."""
    assert offer_from_wheel(filename, catalog=load_catalog(), source="index") is None


def test_a_wheel_of_an_unknown_release_is_used_and_marked() -> None:
    """Its local version names its build; nobody vouches for what is known about it."""
    offer = offer_from_wheel(f"torch-2.16.0+cu132-{LINUX}", catalog=load_catalog(), source="index")
    assert offer is not None
    assert offer.is_real
    assert not offer.verified


def test_the_catalog_offers_pypis_wheels_as_the_users_own_index() -> None:
    """2.15.0 on Linux is cu132 there; on the download index nobody has seen it."""
    offers = catalog_offers(load_catalog(), target_of(linux(), "3.12.3"))
    newest = {(one.build, one.source, one.verified) for one in offers if one.torch == "2.15.0"}
    assert ("cu132", "default", True) in newest
    assert ("cu132", "index", False) in newest
    assert ("cpu", "index", False) in newest
    assert not any(one.source == "default" and one.build == "cpu" for one in offers)


def test_the_catalog_offers_lie_on_the_index_that_is_named() -> None:
    """A mirror stands in for the official index."""
    offers = catalog_offers(
        load_catalog(), target_of(windows(), "3.12.3"), index="https://mirror.example/whl/"
    )
    urls = {one.index_url for one in offers if one.build == "cu126"}
    assert urls == {"https://mirror.example/whl/cu126"}


def test_apple_silicon_is_offered_the_ordinary_wheel() -> None:
    """From the user's own index, without an index of PyTorch's."""
    offers = catalog_offers(load_catalog(), target_of(macos("15.1"), "3.12.3"))
    assert {(one.build, one.source, one.index_url) for one in offers} == {("mps", "default", None)}


def test_a_platform_without_wheels_is_offered_nothing() -> None:
    """Windows on 32 bits."""
    assert catalog_offers(load_catalog(), target_of(windows(machine="x86"), "3.12.3")) == ()
