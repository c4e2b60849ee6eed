"""What is known about PyTorch's builds: reads catalog.toml and answers questions about it.

The data and its sources are in the file; docs/reference/catalog.md says how to review and extend it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any, Final, NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from moondream_station.core.builds.cubin import Capability, parse_capability
from moondream_station.core.builds.naming import Build, Kind, parse_build

_UNVERIFIED = "unverified"
_RULED_BY_PLATFORM = {"macos_arm64": "mps"}  # every wheel for it is this build, whatever its version


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One wheel set: a torch of a build for a platform.

    Args:
        build: The build's tag.
        torch: Its public version.
        platform: The platform ("linux_x86_64").
        pythons: Pythons that it has wheels for ("3.11", "3.14t").
        platform_tags: Platform tags of these wheels; one that fits is enough.
        verified: Whether the wheels were seen.
        path: The index's folder below its base; None for PyPI's own wheel.
        without: Companions that the index lacks for it.
    """

    build: str
    torch: str
    platform: str
    pythons: tuple[str, ...]
    platform_tags: tuple[str, ...]
    verified: bool
    path: str | None
    without: frozenset[str] = frozenset()

    @property
    def pypi(self) -> bool:
        """Whether this is PyPI's own wheel; otherwise it is the download index's."""
        return self.path is None


class Architectures(NamedTuple):
    """The capabilities that a build has code for; unverified where they were taken from a similar build."""

    codes: tuple[Capability, ...]
    verified: bool


class GfxList(NamedTuple):
    """The AMD GPUs that a build has code for; unverified where they were taken from an older ROCm."""

    names: frozenset[str]
    verified: bool


class DriverBound(NamedTuple):
    """The lowest NVIDIA driver for builds of one CUDA major; `blackwell` for GPUs from 10.0 on, besides."""

    linux: str
    windows: str
    blackwell_linux: str | None
    blackwell_windows: str | None


class IntelFamily(NamedTuple):
    """A family of Intel GPUs that torch.xpu supports."""

    name: str
    integrated: bool


class _ArchitectureRange(NamedTuple):
    first: Version
    last: Version
    codes: tuple[Capability, ...]

    def distance(self, torch: Version) -> tuple[int, ...]:
        """How far a torch is from this range; all zeros inside. Compares by major, minor, patch."""
        if self.first <= torch <= self.last:
            return (0, 0, 0)
        nearest = self.first if torch < self.first else self.last
        return tuple(abs(a - b) for a, b in zip(nearest.release[:3], torch.release[:3], strict=False))


UNPACKED_FACTOR: Final = 4.0
"""What wheels are assumed to unpack to, as a multiple of their size, where it was not measured."""


class Catalog:
    """The catalog, made from catalog.toml as parsed."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.index: str = data["index"]
        self.rows: tuple[Row, ...] = tuple(_rows(data["releases"]))
        self._releases = {release["torch"]: release for release in data["releases"]}
        self._architectures = _architectures(data["architectures"])
        self._drivers = {row["cuda_major"]: _driver_bound(row) for row in data["drivers"]}
        self._branches = {int(branch): cuda for branch, cuda in data["driver_branches"]["cuda"].items()}
        self._unpacked: dict[str, float] = {
            kind: factor for kind, factor in data["unpacked"].items() if kind != "source"
        }
        self._gfx = {row["build"]: frozenset(row["gfx"]) for row in data["rocm"]}
        self._source_builds = {row["build"]: row["reason"] for row in data["source_builds"]}
        self._intel = {
            device.lower(): IntelFamily(row["family"], row["integrated"])
            for row in data["intel"]
            for device in row["devices"]
        }

    @cached_property
    def builds(self) -> frozenset[str]:
        """The tags of every build that is known."""
        return frozenset(row.build for row in self.rows)

    @cached_property
    def newest_torch(self) -> Version:
        """The newest torch that is known."""
        return max(map(Version, self._releases))

    @cached_property
    def _rows_by_platform(self) -> dict[str, tuple[Row, ...]]:
        return {
            platform: tuple(row for row in self.rows if row.platform == platform)
            for platform in {row.platform for row in self.rows}
        }

    @cached_property
    def _rows_by_key(self) -> dict[tuple[str, str, str], Row]:
        return {(row.build, row.torch, row.platform): row for row in reversed(self.rows)}

    def rows_of(self, platform: str) -> tuple[Row, ...]:
        """Every row of a platform."""
        return self._rows_by_platform.get(platform, ())

    def row(self, build: str, torch: str, platform: str) -> Row | None:
        """The row of a build, preferring the index's to PyPI's."""
        return self._rows_by_key.get((build, torch, platform))

    def platforms_of(self, build: str) -> tuple[str, ...]:
        """The platforms that a build has wheels for."""
        return tuple(sorted({row.platform for row in self.rows if row.build == build}))

    def pypi_build(self, torch: str, platform: str) -> str | None:
        """The build that PyPI's own wheel is, None where that is not known."""
        if ruled := _RULED_BY_PLATFORM.get(platform):
            return ruled
        build = self._releases.get(torch, {}).get("pypi", {}).get(platform)
        return str(build) if build is not None else None

    def architectures(self, build: Build, torch: Version, platform: str) -> Architectures | None:
        """What a build of a torch has code for, from the nearest range where none contains it.

        A tag that is not known takes the list of the newest known one of its CUDA major. None where there is
        nothing to go by.
        """
        ranges = self._architectures.get((build.name, platform))
        known = ranges is not None
        if ranges is None:
            sibling = self._sibling(build, platform)
            ranges = self._architectures[sibling, platform] if sibling else None
        if not ranges:
            return None
        nearest = min(ranges, key=lambda span: (span.distance(torch), span.last))
        return Architectures(nearest.codes, verified=known and not any(nearest.distance(torch)))

    def _sibling(self, build: Build, platform: str) -> str | None:
        """The newest known build of the same CUDA major on a platform."""
        parsed = (parse_build(tag) for tag, where in self._architectures if where == platform)
        same_major = [known for known in parsed if known and known.version[:1] == build.version[:1]]
        return max(same_major).name if same_major else None

    def gfx(self, build: Build) -> GfxList | None:
        """The AMD GPUs that a ROCm build has code for; else those of the nearest older one of its major."""
        if (names := self._gfx.get(build.name)) is not None:
            return GfxList(names, verified=True)
        older = [
            known
            for known in map(parse_build, self._gfx)
            if known and known.version[:1] == build.version[:1] and known.version < build.version
        ]
        return GfxList(self._gfx[max(older).name], verified=False) if older else None

    def driver_bound(self, build: Build) -> DriverBound | None:
        """What a CUDA build asks of the driver; None for a CUDA major that is not known."""
        return self._drivers.get(build.version[0]) if build.kind is Kind.CUDA else None

    def unpacked_factor(self, kind: Kind | None) -> float:
        """What the wheels of an environment unpack to, as a multiple of their size; None is without torch."""
        return self._unpacked.get(kind or "", UNPACKED_FACTOR)

    def cuda_of_branch(self, driver_major: int) -> str | None:
        """The highest CUDA of a driver branch ("12.2"), None for one older than the table."""
        branches = [branch for branch in self._branches if branch <= driver_major]
        return self._branches[max(branches)] if branches else None

    def source_build(self, build: str) -> str | None:
        """Why a build can't be installed from wheels alone, None where it can."""
        return self._source_builds.get(build)

    def intel_family(self, device_id: str) -> IntelFamily | None:
        """The family of an Intel GPU by its PCI id ("0x56a0"), None where torch.xpu doesn't support it."""
        return self._intel.get(device_id.lower())

    def companions(self, name: str, torch: str) -> tuple[str, ...] | None:
        """Releases of torchvision or torchaudio that fit a torch, best first; None where unknown."""
        release = self._releases.get(torch)
        return tuple(release[name]) if release is not None else None

    def companion_python(self, name: str, torch: str) -> SpecifierSet:
        """Pythons that a companion accepts, where it asks for more than torch does."""
        return SpecifierSet(self._releases.get(torch, {}).get(f"{name}_python", ""))


@lru_cache(maxsize=1)
def load_catalog() -> Catalog:
    """The catalog that the package carries."""
    text = resources.files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8")
    return Catalog(tomllib.loads(text))


def _rows(releases: list[dict[str, Any]]) -> Iterator[Row]:
    for release in releases:
        python, tags = release["python"], release["tags"]
        pythons = {
            platform: tuple(release.get("python_on", {}).get(platform, python).split()) for platform in tags
        }
        index_pythons = release.get("index_python", {})
        for wheel in release["wheels"]:
            for platform in tags:
                if platform in wheel:
                    yield Row(
                        build=wheel["build"],
                        torch=release["torch"],
                        platform=platform,
                        pythons=(*pythons[platform], *index_pythons.get(platform, "").split()),
                        platform_tags=tuple({**tags, **wheel.get("tags", {})}[platform].split()),
                        verified=wheel[platform] != _UNVERIFIED,
                        path=wheel.get("path", wheel["build"]),
                        without=frozenset(wheel.get("without", ())),
                    )
        for platform, build in release["pypi"].items():
            yield Row(
                build=build,
                torch=release["torch"],
                platform=platform,
                pythons=pythons[platform],
                platform_tags=tuple(tags[platform].split()),
                verified=True,
                path=None,
            )


def _architectures(rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[_ArchitectureRange, ...]]:
    ranges: dict[tuple[str, str], tuple[_ArchitectureRange, ...]] = {}
    for row in rows:
        parsed = (parse_capability(text) for text in row["capabilities"])
        codes = tuple(capability for capability in parsed if capability is not None)
        first, last = map(Version, row["torch"])
        key = (row["build"], row["platform"])
        ranges[key] = (*ranges.get(key, ()), _ArchitectureRange(first, last, codes))
    return ranges


def _driver_bound(row: dict[str, Any]) -> DriverBound:
    blackwell = row.get("blackwell", {})
    return DriverBound(row["linux"], row["windows"], blackwell.get("linux"), blackwell.get("windows"))
