"""Every bound of the catalog, one step on both sides: what it allows is allowed, the next refused for it.

The bounds are read from catalog.toml's own lines, or known by heart; each row is judged on a machine that
it has no other trouble with.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import pairwise

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from moondream_station.core.builds.catalog import Row, load_catalog
from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.builds.offers import Offer, catalog_offers, target_of
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.facts.capabilities import Capabilities, Gpu
from moondream_station.core.selection.request import BuildRequest, Case, Obstacle
from moondream_station.core.selection.verdicts import judge
from support.snapshots import amd, intel, linux, macos, nvidia, windows

DATA = tomllib.loads(
    resources.files("moondream_station.core.builds").joinpath("catalog.toml").read_text(encoding="utf-8")
)
CATALOG = load_catalog()
ROWS = tuple(row for row in CATALOG.rows if row.build not in CATALOG.source_builds)
NEWEST_DRIVER = "999.99"
CAPABILITIES = [
    "3.0", "3.5", "3.7", "5.0", "5.2", "5.3", "6.0", "6.1", "6.2", "7.0", "7.2", "7.5", "8.0", "8.6", "8.7",
    "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1", "13.0",
]  # fmt: skip
FLOORS = {  # NVIDIA's minor-version compatibility: the first driver of a CUDA major, and the one before
    (11, "linux"): ("450.80.02", "450.80.01"),
    (12, "linux"): ("525.60.13", "525.60.12"),
    (13, "linux"): ("580.00", "579.99"),
    (11, "windows"): ("452.39", "452.38"),
    (12, "windows"): ("528.33", "528.32"),
    (13, "windows"): ("580.00", "579.99"),
}
BLACKWELL_FLOORS = {"linux": ("570.26", "570.25"), "windows": ("570.65", "570.64")}  # CUDA 12.8's first
GFX_OF = {row["build"]: row["gfx"] for row in (*DATA["rocm"], *DATA["vendor_rocm"])}
EVERY_GFX = sorted({gfx for names in GFX_OF.values() for gfx in names} | {"gfx803", "gfx902", "gfx1250"})
GFX_SINCE = {  # the pull requests that the catalog names
    "gfx1100": "2.1.0", "gfx942": "2.3.0", "gfx1101": "2.6.0", "gfx1102": "2.7.0", "gfx1200": "2.7.0",
    "gfx1201": "2.7.0",
}  # fmt: skip
PYTHONS = [[f"3.{minor}" for minor in range(7, 18)], [f"3.{minor}t" for minor in range(12, 18)]]
_GLIBC = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}


def numbers(version: str) -> tuple[int, ...]:
    """A dotted version as numbers."""
    return tuple(map(int, version.split(".")))


@cache
def codes_of(row: Row) -> tuple[tuple[int, ...], ...]:
    """The compute capabilities that the catalog's lines give a row of CUDA."""
    return tuple(
        numbers(text)
        for line in DATA["architectures"]
        if (line["build"], line["platform"]) == (row.build, row.platform)
        and Version(line["torch"][0]) <= Version(row.torch) <= Version(line["torch"][1])
        for text in line["capabilities"]
    )


@cache
def has_code(row: Row, capability: str) -> bool:
    """Whether code for the same major, and no newer minor, is among them: Tegra's run its own alone."""
    device, codes = numbers(capability), codes_of(row)
    joined = {(7, 2), (8, 7)} if numbers(CUDA_OF[row.build]) >= (13, 2) else set()
    if device in {(5, 3), (6, 2), (7, 2), (8, 7)} - joined:
        return device in codes
    return any(code[0] == device[0] and code[1] <= device[1] for code in codes)


CUDA_OF = {row.build: f"{row.build[2:-1]}.{row.build[-1]}" for row in ROWS if row.build.startswith("cu")}


def glibc_of(row: Row) -> int:
    """The minor glibc that a row for Linux needs."""
    legacy, _, _ = row.platform_tags[0].partition("_")
    return _GLIBC.get(legacy) or int(row.platform_tags[0].split("_")[2])


def macos_of(row: Row) -> tuple[int, int]:
    """The macOS that a row needs: of several tags one is enough."""
    first, *others = [(int(tag.split("_")[1]), int(tag.split("_")[2])) for tag in row.platform_tags]
    return min(first, *others) if others else first


def gpu_for(row: Row) -> Gpu | None:
    """A GPU that the row has code for."""
    build = parse_build(row.build)
    match build and build.kind:
        case Kind.CUDA:
            return nvidia(next(one for one in CAPABILITIES if has_code(row, one)))
        case Kind.ROCM:
            return amd("gfx1100" if Version(row.torch) >= Version("2.1") else "gfx90a")
        case Kind.XPU:
            return intel("0x56a0")
        case _:
            return None


def machine_for(
    row: Row,
    gpu: Gpu | None = None,
    *,
    driver: str = NEWEST_DRIVER,
    libc: tuple[str, str] = ("glibc", "2.99"),
    release: str = "99.0",
) -> Capabilities:
    """A machine of the row's platform; with a GPU that it has code for, unless another is given."""
    gpu = gpu or gpu_for(row)
    some, nvidias = (() if gpu is None else (gpu,)), driver if gpu and gpu.vendor == "nvidia" else None
    system, _, processor = row.platform.partition("_")
    match system:
        case "linux":
            return linux(*some, driver=nvidias, machine=processor, libc=libc)
        case "windows":
            return windows(*some, driver=nvidias, machine=processor.upper())
        case _:
            return macos(release, machine=processor, silicon=processor == "arm64")


@cache
def offers_for(platform: str) -> tuple[Offer, ...]:
    """Every offer of the catalog for a platform."""
    row = next(row for row in ROWS if row.platform == platform)
    return catalog_offers(CATALOG, target_of(machine_for(row), "3.12"))


def refused(row: Row, machine: Capabilities, python: str = "", *companions: str) -> Obstacle | None:
    """What keeps the row from that machine, None where nothing does but that nobody saw its wheel."""
    requirements = parse_requirement_args(("torch", *companions))
    python = python or row.pythons[0]
    request = BuildRequest(capabilities=machine, requirements=requirements, python=python, catalog=CATALOG)
    source = "vendor" if row.vendor else "default" if row.pypi else "index"
    offers = [
        offer
        for offer in offers_for(row.platform)
        if (offer.build, offer.torch, offer.source) == (row.build, row.torch, source)
        and (offer.pythons, offer.platform_tags) == (row.pythons, row.platform_tags)
    ]
    build = parse_build(row.build)
    assert offers
    assert build
    refusal = judge(build, Case.of(request, offers)).refusal
    return refusal.obstacle if refusal and refusal.obstacle is not Obstacle.UNVERIFIED else None


def rows_of(*kinds: Kind, platform: str = "") -> Iterator[Row]:
    """The rows of some kinds, or all, on platforms that begin so."""
    for row in ROWS:
        build = parse_build(row.build)
        if build and (not kinds or build.kind in kinds) and row.platform.startswith(platform):
            yield row


def ends(rows: Iterable[Row]) -> Iterator[Row]:
    """The oldest and the newest torch of those that a build has the same code with."""
    alike: dict[tuple[str, str, tuple[tuple[int, ...], ...]], list[Row]] = {}
    for row in rows:
        alike.setdefault((row.build, row.platform, codes_of(row)), []).append(row)
    return (row for some in alike.values() for row in {some[0]: None, some[-1]: None})


def edges(steps: Sequence[str], allowed: Sequence[bool]) -> set[tuple[str, bool]]:
    """Both sides of every step at which what is allowed changes."""
    both = pairwise(zip(steps, allowed, strict=True))
    return {side for before, after in both if before[1] != after[1] for side in (before, after)}


@pytest.mark.parametrize("wsl2", [False, True])
def test_the_lowest_driver_of_a_cuda_major(*, wsl2: bool) -> None:
    """Windows' own counts on WSL2 too; a GPU of Blackwell's needs a newer one with CUDA 12."""
    wrong, seen = [], set()
    for row in ends(rows_of(Kind.CUDA, platform="linux" if wsl2 else "")):
        system = "windows" if wsl2 else row.platform.partition("_")[0]
        major = numbers(CUDA_OF[row.build])[0]
        old = [one for one in CAPABILITIES if has_code(row, one) and numbers(one) < (10, 0)]
        new = [one for one in CAPABILITIES if has_code(row, one) and numbers(one) >= (10, 0)]
        floor = FLOORS[major, system]
        tried = [(one, *floor, Obstacle.HARDWARE) for one in (old[0], old[-1])]
        if major == 12:
            tried += [(one, *BLACKWELL_FLOORS[system], Obstacle.ARCHITECTURE) for one in new]
        else:
            tried += [(one, *floor, Obstacle.HARDWARE) for one in new]
        for capability, lowest, below, obstacle in tried:
            for driver, expected in ((lowest, None), (below, obstacle)):
                machine = machine_for(row, nvidia(capability), driver=driver)
                machine = replace(machine, surroundings="wsl2") if wsl2 else machine
                if (found := refused(row, machine)) is not expected:
                    wrong.append((row.build, row.torch, row.platform, capability, driver, found))
                seen.add((major, system, lowest))
    assert not wrong
    assert len(seen) == (4 if wsl2 else 8)


def test_the_compute_capabilities_of_a_cuda_build() -> None:
    """From the lowest to the highest, and the gaps between: at each edge one runs, its neighbour does not."""
    wrong, seen = [], 0
    for row in ends(rows_of(Kind.CUDA)):
        for capability, allowed in edges(CAPABILITIES, [has_code(row, one) for one in CAPABILITIES]):
            found = refused(row, machine_for(row, nvidia(capability)))
            seen += 1
            if found is not (None if allowed else Obstacle.ARCHITECTURE):
                wrong.append((row.build, row.torch, row.platform, capability, found))
    assert not wrong
    assert seen > 2 * len(DATA["architectures"])


def test_the_gpus_of_a_rocm_build_by_torch() -> None:
    """Those of its list, from the first torch that was built for each; AMD's own hold for every torch."""
    wrong, seen = [], set()
    for row in rows_of(Kind.ROCM):
        for gfx in EVERY_GFX:
            is_old = not row.vendor and Version(row.torch) < Version(GFX_SINCE.get(gfx, "0"))
            allowed = gfx in GFX_OF[row.build] and not is_old
            seen.add((gfx, allowed))
            found = refused(row, machine_for(row, amd(gfx)))
            if found is not (None if allowed else Obstacle.ARCHITECTURE):
                wrong.append((row.build, row.torch, gfx, found))
    assert not wrong
    assert {gfx for gfx, allowed in seen if allowed} == {gfx for names in GFX_OF.values() for gfx in names}


def test_the_c_library_of_a_wheel_for_linux() -> None:
    """The glibc of its tag, the one before it, and another C library."""
    wrong = []
    for row in rows_of(platform="linux"):
        if row.platform_tags[0].startswith("linux_"):
            continue  # says nothing of the C library
        minor = glibc_of(row)
        for libc, expected in (
            (("glibc", f"2.{minor}"), None),
            (("glibc", f"2.{minor - 1}"), Obstacle.SYSTEM),
            (("musl", "1.2.5"), Obstacle.SYSTEM),
        ):
            if (found := refused(row, machine_for(row, libc=libc))) is not expected:
                wrong.append((row.build, row.torch, row.platform, libc, found))
    assert not wrong


def test_the_macos_of_a_wheel() -> None:
    """The macOS of its tag, and the one before; a major's minor does not count from 11 on."""
    wrong = []
    for row in rows_of(platform="macos"):
        major, minor = macos_of(row)
        before = f"{major - 1}.9" if major > 11 else f"10.{minor - 1 if major == 10 else 15}"
        for release, expected in ((f"{major}.{minor}", None), (before, Obstacle.SYSTEM)):
            if (found := refused(row, machine_for(row, release=release))) is not expected:
                wrong.append((row.torch, row.platform, release, found))
    assert not wrong


def test_the_pythons_of_a_wheel() -> None:
    """From the oldest to the newest, free-threaded ones apart."""
    wrong, seen = [], 0
    for row in ROWS:
        machine = machine_for(row)
        for pythons in PYTHONS:
            for python, allowed in edges(pythons, [python in row.pythons for python in pythons]):
                found = refused(row, machine, python)
                seen += 1
                if found is not (None if allowed else Obstacle.PYTHON):
                    wrong.append((row.build, row.torch, row.platform, python, found))
    assert not wrong
    assert seen >= 4 * len(ROWS)


def test_the_pythons_of_a_companion() -> None:
    """Those that it accepts beside torch's own: of 3.14's patches one may be excluded."""
    wrong, seen = [], 0
    for release in DATA["releases"]:
        for name in ("torchvision", "torchaudio"):
            accepted = SpecifierSet(release.get(f"{name}_python", ""))
            rows = [
                row for row in rows_of(platform="linux_x86_64") if row.torch == release["torch"] and row.pypi
            ]
            for row, minor in ((one, python) for one in rows for python in one.pythons if accepted):
                threads = "t" * minor.endswith("t")
                for python in (f"{minor.rstrip('t')}.{patch}" for patch in range(4)):
                    expected = None if accepted.contains(python) else Obstacle.COMPANION
                    seen += expected is not None
                    if (found := refused(row, machine_for(row), python + threads, name)) is not expected:
                        wrong.append((name, row.torch, python + threads, found))
    assert not wrong
    assert seen


def test_the_cuda_of_a_driver_branch() -> None:
    """It begins with its branch: the driver before has that of the branch before."""
    branches = sorted((int(branch), cuda) for branch, cuda in DATA["driver_branches"]["cuda"].items())
    for (_, older), (branch, cuda) in pairwise(branches):
        assert (CATALOG.cuda_of_branch(branch - 1), CATALOG.cuda_of_branch(branch)) == (older, cuda)
    assert CATALOG.cuda_of_branch(branches[0][0] - 1) is None
    assert CATALOG.cuda_of_branch(branches[-1][0] + 1) == branches[-1][1]
