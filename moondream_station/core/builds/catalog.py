"""What is known about PyTorch's builds: reads catalog.toml and answers questions about it.

The data and its sources are in the file; docs/reference/catalog.md says how to review and extend it.
"""

from __future__ import annotations

import copy
import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any, Final, Generic, NamedTuple, TypeVar

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from moondream_station.core.builds.naming import (
    Build,
    Capability,
    Kind,
    numbers,
    parse_build,
    parse_capability,
)

T = TypeVar("T")

_FRESH_DAYS = 60
_RULED_BY_PLATFORM = {"macos_arm64": "mps"}  # every wheel for it is this build, whatever its version


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One wheel set: a torch of a build for a platform ("linux_x86_64"); one tag that fits is enough.

    `path` is the index's folder below its base, None for PyPI's own wheel and for that of `vendor`, AMD's
    index; `without` are companions that the index lacks for it, `cpu_only` those without CUDA operators.
    """

    build: str
    torch: str
    platform: str
    pythons: tuple[str, ...]
    platform_tags: tuple[str, ...]
    verified: bool
    path: str | None
    vendor: str | None = None
    without: frozenset[str] = frozenset()
    cpu_only: frozenset[str] = frozenset()

    @property
    def pypi(self) -> bool:
        """Whether this is PyPI's own wheel; otherwise it is the download index's."""
        return self.path is None and self.vendor is None


class Codes(NamedTuple, Generic[T]):
    """What a build has code for; unverified where that was taken from a similar build."""

    codes: tuple[T, ...]
    verified: bool


class IntelFamily(NamedTuple):
    """A family of Intel GPUs that torch.xpu supports."""

    name: str
    integrated: bool


class _Range(NamedTuple):
    first: Version
    last: Version
    codes: tuple[Capability, ...]

    def distance(self, torch: Version) -> tuple[int, ...]:
        """How far a torch is from this range, by major, minor and patch; all zeros inside."""
        nearest = min(max(torch, self.first), self.last)
        return tuple(abs(a - b) for a, b in zip(nearest.release[:3], torch.release[:3], strict=False))


UNPACKED_FACTOR: Final = 4.0
"""What wheels are assumed to unpack to, as a multiple of their size, where it was not measured."""


class Catalog:
    """The catalog, made from catalog.toml as parsed."""

    doubt: str | None = None
    """Why this one is used and not the one that the user named, as a sentence; None where it is that one."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self.index: str = data["index"]
        self.reviewed = date.fromisoformat(data["reviewed"])
        self.rows: tuple[Row, ...] = tuple(_rows(data["releases"], data["vendor_indexes"]))
        self._releases = {release["torch"]: release for release in data["releases"]}
        self._architectures = _architectures(data["architectures"])
        self._drivers = {row["cuda_major"]: row for row in data["drivers"]}
        self._branches = {int(branch): cuda for branch, cuda in data["driver_branches"]["cuda"].items()}
        self._data_centre = frozenset(data["forward_compatibility"]["names"])
        self._toolkit_packages = frozenset(data["toolkit_packages"]["names"])
        self._unpacked: Mapping[str, float] = data["unpacked"]
        self.gfx_overrides: Mapping[str, str] = data["gfx_overrides"]
        self._gfx_since = {name: Version(torch) for name, torch in data["gfx_since"].items()}
        self._gfx: dict[str, tuple[str, ...]] = {row["build"]: tuple(row["gfx"]) for row in data["rocm"]}
        self._vendor_gfx: dict[str, tuple[str, ...]] = {
            row["build"]: tuple(row["gfx"]) for row in data["vendor_rocm"]
        }
        self.vendor_indexes: Mapping[str, str] = data["vendor_indexes"]
        self._vendor_packages = data["vendor_packages"]
        self.vendor_built: frozenset[str] = frozenset(data["vendor_packages"]["built"])
        self._vendor_devices = {
            device: gfx
            for gfx, devices in data["vendor_devices"].items()
            if gfx != "source"
            for device in devices
        }
        self.source_builds: Mapping[str, str] = {row["build"]: row["reason"] for row in data["source_builds"]}
        self._intel = {
            device.lower(): IntelFamily(row["family"], row["integrated"])
            for row in data["intel"]
            for device in row["devices"]
        }

    @cached_property
    def identity(self) -> str:
        """A digest of what it says."""
        return hashlib.sha256(repr(self._data).encode()).hexdigest()[:16]

    def in_place_of_another(self, doubt: str) -> Catalog:
        """The same, used because of a doubt about the one that the user named."""
        catalog = copy.copy(self)
        catalog.doubt = doubt
        return catalog

    def staleness(self, today: date | None) -> str | None:
        """That it was reviewed long ago, as a sentence; None where it was not."""
        days = (today - self.reviewed).days if today else 0
        if days <= _FRESH_DAYS:
            return None
        known = f"What is known of PyTorch's builds was reviewed {days} days ago, on {self.reviewed}"
        return f"{known}: newer ones may be missing; update Moondream Station."

    @cached_property
    def builds(self) -> frozenset[str]:
        """The tags of every build that is known."""
        return frozenset(row.build for row in self.rows)

    @cached_property
    def _rows_by_key(self) -> dict[tuple[str, str, str], Row]:
        return {(row.build, row.torch, row.platform): row for row in reversed(self.rows)}

    @lru_cache(maxsize=8)  # noqa: B019  there is one catalog
    def rows_of(self, platform: str) -> tuple[Row, ...]:
        """Every row of a platform."""
        return tuple(row for row in self.rows if row.platform == platform)

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

    def architectures(self, build: Build, torch: Version, platform: str) -> Codes[Capability] | None:
        """What a build, or the newest known of its CUDA major, has code for; None with nothing to go by.

        It is the range that contains the torch, else the nearest.
        """
        ranges = self._architectures.get((build.name, platform))
        known = ranges is not None
        if ranges is None:
            sibling = self._sibling(build, platform)
            ranges = self._architectures[sibling, platform] if sibling else None
        if not ranges:
            return None
        nearest = min(ranges, key=lambda span: (span.distance(torch), span.last))
        return Codes(nearest.codes, verified=known and not any(nearest.distance(torch)))

    def _sibling(self, build: Build, platform: str) -> str | None:
        parsed = (parse_build(tag) for tag, where in self._architectures if where == platform)
        same_major = [known for known in parsed if known and known.version[:1] == build.version[:1]]
        return max(same_major).name if same_major else None

    def gfx(self, build: Build, torch: Version | None = None) -> Codes[str] | None:
        """The AMD GPUs that a ROCm build, or the nearest older of its major, has code for with a torch."""
        by_build = self._vendor_gfx if build.is_amds else self._gfx
        known = [
            other
            for other in map(parse_build, by_build)
            if other and other.version[:1] == build.version[:1] and other.version <= build.version
        ]
        if not known:
            return None
        nearest = max(known)
        names = by_build[nearest.name]
        if torch is not None and not build.is_amds:
            names = tuple(name for name in names if torch >= self._gfx_since.get(name, torch))
        return Codes(names, verified=nearest == build)

    def vendor_packages(self, gfx: Iterable[str]) -> frozenset[str]:
        """What has to come from AMD's index beside torch's family, for these GPUs."""
        patterns, gpus = self._vendor_packages["for_gfx"], tuple(gfx)
        for_gpus = (pattern.format(gfx=gpu) for pattern in patterns for gpu in gpus)
        return frozenset((*self._vendor_packages["names"], *for_gpus))

    def gfx_of_device(self, device_id: str) -> str | None:
        """The architecture of an AMD GPU by its PCI id ("0x744c"), None where that is not known."""
        return self._vendor_devices.get(device_id.lower())

    def toolkit_of(self, package: str, version: str) -> str | None:
        """The CUDA ("12.4") that a release of a package of NVIDIA's belongs to, None where it tells none."""
        return ".".join(version.split(".")[:2]) if package in self._toolkit_packages else None

    def driver_bound(self, build: Build, system: str, *, blackwell: bool = False) -> str | None:
        """The lowest NVIDIA driver on "linux" or "windows", with GPUs from 10.0 on; None where unknown."""
        bound = self._drivers.get(build.version[0], {}) if build.kind is Kind.CUDA else {}
        lowest = (bound.get("blackwell", {}) if blackwell else {}).get(system) or bound.get(system)
        return str(lowest) if lowest else None

    def unpacked_factor(self, kind: Kind | None) -> float:
        """What the wheels of an environment unpack to, as a multiple of their size; None is without torch."""
        return self._unpacked.get(kind or "", UNPACKED_FACTOR)

    def cuda_of_branch(self, driver_major: int) -> str | None:
        """The highest CUDA of a driver branch ("12.2"), None for one older than the table."""
        branches = [branch for branch in self._branches if branch <= driver_major]
        return self._branches[max(branches)] if branches else None

    def branch_beyond(self, driver: str, cuda: str) -> int | None:
        """The newest driver branch that has no more than a CUDA, None unless it is newer than this driver."""
        having = [branch for branch, own in self._branches.items() if numbers(own) <= numbers(cuda)]
        return max((branch for branch in having if driver and (branch,) > numbers(driver)[:1]), default=None)

    def is_data_centre(self, gpu: str) -> bool:
        """Whether a GPU by its name is one of NVIDIA's for data centres."""
        return re.split(r"[ -]", gpu.removeprefix("NVIDIA "))[0] in self._data_centre

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


def _rows(releases: list[dict[str, Any]], vendor_indexes: Mapping[str, str]) -> Iterator[Row]:
    for release in releases:
        python, tags = release["python"], release["tags"]
        pythons = {
            platform: tuple(release.get("python_on", {}).get(platform, python).split()) for platform in tags
        }
        index_pythons = release.get("index_python", {})
        for wheel in release["wheels"]:
            for platform in tags:
                if platform in wheel:
                    vendor = vendor_indexes[wheel["vendor"]] if "vendor" in wheel else None
                    own = wheel["python"].split() if "python" in wheel else None
                    yield Row(
                        build=wheel["build"],
                        torch=release["torch"],
                        platform=platform,
                        pythons=tuple(own or (*pythons[platform], *index_pythons.get(platform, "").split())),
                        platform_tags=tuple({**tags, **wheel.get("tags", {})}[platform].split()),
                        verified=wheel[platform] != "unverified",
                        path=None if vendor else wheel.get("path", wheel["build"]),
                        vendor=vendor,
                        without=frozenset(wheel.get("without", ())),
                        cpu_only=frozenset(wheel.get("cpu_only", ())),
                    )
        others = release.get("tags_for", {})
        for platform, build in release["pypi"].items():
            # Wheels of one release may need another macOS for some Pythons.
            apart = others["pythons"].split() if platform in others else []
            own = Row(
                build=build,
                torch=release["torch"],
                platform=platform,
                pythons=tuple(python for python in pythons[platform] if python not in apart),
                platform_tags=tuple(tags[platform].split()),
                verified=True,
                path=None,
            )
            yield own
            if apart:
                yield replace(own, pythons=tuple(apart), platform_tags=tuple(others[platform].split()))


def _architectures(rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[_Range, ...]]:
    ranges: dict[tuple[str, str], tuple[_Range, ...]] = {}
    for row in rows:
        parsed = (parse_capability(text) for text in row["capabilities"])
        codes = tuple(capability for capability in parsed if capability is not None)
        first, last = map(Version, row["torch"])
        key = (row["build"], row["platform"])
        ranges[key] = (*ranges.get(key, ()), _Range(first, last, codes))
    return ranges
