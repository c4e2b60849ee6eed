"""The catalog: that its file is sound, and what it answers."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

import pytest
from packaging.version import Version

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.naming import Build, Kind, parse_build

EVIDENCE = {
    "binary", "index", "url", "pypi", "matrix", "docs", "issue", "source", "inferred", "unverified",
}  # fmt: skip
PLATFORMS = {"linux_x86_64", "linux_aarch64", "linux_s390x", "windows_amd64", "windows_arm64", "macos_arm64"}
PLATFORMS |= {"macos_x86_64"}


def build(name: str) -> Build:
    """A build that exists."""
    parsed = parse_build(name)
    assert parsed is not None
    return parsed


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    """The file as it is."""
    text = (
        resources.files("moondream_station.core.builds").joinpath("catalog.toml").read_text(encoding="utf-8")
    )
    return tomllib.loads(text)


def test_every_source_that_a_row_names_is_explained(data: dict[str, Any]) -> None:
    """A reviewer must be able to go there."""
    named: set[str] = set()
    for table in ("drivers", "architectures", "rocm", "source_builds", "intel"):
        for row in data[table]:
            source = row["source"]
            named |= {source} if isinstance(source, str) else set(source)
    named |= set(data["driver_branches"]["source"])
    assert named <= set(data["sources"])


def test_every_row_of_wheels_is_well_formed(data: dict[str, Any]) -> None:
    """Builds are builds, platforms are platforms, and evidence is one of the known words."""
    for release in data["releases"]:
        Version(release["torch"])
        assert set(release["tags"]) <= PLATFORMS
        assert set(release["pypi"]) == set(release["tags"]) - {"windows_arm64", "linux_s390x"}
        for wheel in release["wheels"]:
            assert parse_build(wheel["build"]) is not None
            for platform, evidence in wheel.items():
                if platform not in {"build", "without", "cpu_only", "path", "tags", "vendor", "python"}:
                    assert platform in release["tags"], (release["torch"], wheel)
                    assert evidence in EVIDENCE
        seen = [(w["build"], p) for w in release["wheels"] for p in w if p in PLATFORMS]
        assert len(seen) == len(set(seen)), release["torch"]


def test_releases_stand_newest_first_and_once(data: dict[str, Any]) -> None:
    """So that a person finds them."""
    versions = [Version(release["torch"]) for release in data["releases"]]
    assert versions == sorted(set(versions), reverse=True)


def test_every_cuda_wheel_has_an_architecture_list_and_a_driver_bound() -> None:
    """Of its own range, not of a neighbour's."""
    catalog = load_catalog()
    for row in catalog.rows:
        tag = build(row.build)
        if tag.kind is Kind.CUDA:
            known = catalog.architectures(tag, Version(row.torch), row.platform)
            assert known is not None, row
            assert known.verified or not row.verified or row.platform == "linux_aarch64", row
            assert catalog.driver_bound(tag, "linux") is not None


def test_pypis_default_build_is_what_its_wheels_say() -> None:
    """cu132 on Linux for 2.15.0, the processor's on Windows; on a Mac with Apple silicon it is always mps."""
    catalog = load_catalog()
    assert catalog.pypi_build("2.15.0", "linux_x86_64") == "cu132"
    assert catalog.pypi_build("2.14.1", "linux_aarch64") == "cu130"
    assert catalog.pypi_build("2.10.0", "linux_aarch64") == "cpu"
    assert catalog.pypi_build("2.15.0", "windows_amd64") == "cpu"
    assert catalog.pypi_build("99.0", "linux_x86_64") is None
    assert catalog.pypi_build("99.0", "macos_arm64") == "mps"
    assert catalog.pypi_build("2.3.0", "macos_x86_64") is None


@pytest.mark.parametrize(
    ("name", "torch", "platform", "volta", "verified"),
    [
        ("cu128", "2.7.1", "linux_x86_64", False, True),  # RELEASE.md of 2.7
        ("cu128", "2.10.0", "linux_x86_64", True, True),  # 2.10.0+cu128 opened
        ("cu128", "2.11.0", "linux_x86_64", False, True),  # pytorch#172352
        ("cu126", "2.16.0", "linux_x86_64", True, False),  # beyond the range: the nearest one
        ("cu134", "2.16.0", "linux_x86_64", False, False),  # unknown: the newest of CUDA 13
    ],
)
def test_architectures_are_those_of_the_range_or_of_the_nearest(
    name: str, torch: str, platform: str, *, volta: bool, verified: bool
) -> None:
    """What is taken from a neighbour is marked."""
    known = load_catalog().architectures(build(name), Version(torch), platform)
    assert known is not None
    assert ((7, 0) in known.codes) is volta
    assert known.verified is verified


def test_nothing_is_known_of_another_cuda_major() -> None:
    """Neither architectures nor the driver."""
    catalog = load_catalog()
    assert catalog.architectures(build("cu140"), Version("3.0"), "linux_x86_64") is None
    assert catalog.driver_bound(build("cu140"), "linux") is None


def test_a_newer_rocm_takes_the_list_of_the_nearest_older_one() -> None:
    """Unverified; of another major nothing is known."""
    catalog = load_catalog()
    newer = catalog.gfx(build("rocm7.3"))
    assert newer is not None
    assert not newer.verified
    assert "gfx1151" in newer.codes
    assert catalog.gfx(build("rocm8.0")) is None
    assert catalog.gfx(build("rocm4.2")) is None


@pytest.mark.parametrize(
    ("major", "cuda"),
    [
        (418, None),
        (450, "11.0"),
        (472, "11.4"),
        (525, "12.0"),
        (537, "12.2"),
        (552, "12.4"),
        (580, "13.0"),
        (591, "13.1"),
        (999, "13.3"),
    ],
)
def test_a_driver_branch_tells_its_cuda(major: int, cuda: str | None) -> None:
    """NVIDIA's release notes, table of driver versions; 591 is branch 590's on Windows."""
    assert load_catalog().cuda_of_branch(major) == cuda


@pytest.mark.parametrize(
    ("device", "supported"),
    [
        ("0x56a0", True),
        ("0xE20B", True),
        ("0x7d55", True),
        ("0x0bd5", True),
        ("0x3e92", False),
        ("0x46a6", False),
        ("0x4905", False),
    ],
)
def test_xpu_is_for_arc_core_ultra_and_data_center_only(device: str, *, supported: bool) -> None:
    """Not for UHD, Iris Xe and DG1."""
    assert (load_catalog().intel_family(device) is not None) is supported


def test_a_build_may_need_a_newer_c_library_than_the_others_of_its_release() -> None:
    """cu126 was built for glibc 2.28 one release before the others."""
    catalog = load_catalog()
    tags = {
        name: row.platform_tags
        for name in ("cu118", "cu124", "cu126", "rocm6.2.4", "xpu")
        if (row := catalog.row(name, "2.6.0", "linux_x86_64")) is not None
    }
    newer, older = ("manylinux_2_28_x86_64",), ("manylinux1_x86_64",)
    assert tags == {"cu118": older, "cu124": older, "cu126": newer, "rocm6.2.4": newer, "xpu": newer}
    windows = catalog.row("cu126", "2.6.0", "windows_amd64")
    assert windows is not None
    assert windows.platform_tags == ("win_amd64",)
