"""Available wheels of torch: real ones, from their file names, or those that the catalog knows of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog, Row
from moondream_station.core.builds.naming import parse_build
from moondream_station.core.builds.target import Platform, Target
from moondream_station.core.facts.selection import Source

_LINUX: tuple[Platform, ...] = ("linux_x86_64", "linux_aarch64", "linux_s390x")
_WINDOWS: dict[str, Platform] = {"win_amd64": "windows_amd64", "win_arm64": "windows_arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An available wheel of torch, `torch` without the local part of its version ("2.14.1" and "cu126").

    `index_url` is None for find-links, and for PyPI as the default index; `find_links` the folder or page as
    the user named it. A real wheel has a file name, URL and tags; one that only the catalog knows of has
    Pythons ("3.11", "3.14t") and platform tags instead. `verified` is whether the catalog vouches for it; of
    a real wheel, for what is known about it. `yanked`: its index took it back.
    """

    build: str
    torch: str
    local: str | None = None
    source: Source = "index"
    index_url: str | None = None
    find_links: str | None = None
    filename: str | None = None
    url: str | None = None
    requires_python: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    yanked: bool = False
    is_from_users_index: bool = False
    verified: bool = True
    tags: frozenset[Tag] = frozenset()
    pythons: tuple[str, ...] = ()
    platform_tags: tuple[str, ...] = ()
    platform: Platform | None = None

    @property
    def is_real(self) -> bool:
        """Whether the wheel was seen; otherwise the catalog alone knows of it."""
        return self.filename is not None

    @property
    def place(self) -> tuple[str | None, ...]:
        """Where it comes from, to be compared."""
        return (self.source, self.index_url, self.find_links)

    @property
    def full_version(self) -> Version:
        """Its version with the local part, as requirements are held against it."""
        return _version(f"{self.torch}+{self.local}" if self.local else self.torch)

    @property
    def version(self) -> Version:
        """Its version without the local part."""
        return _version(self.torch)

    def fits_python(self, target: Target) -> bool:
        """Whether it is for a target's Python; what the wheel needs of the system is not asked."""
        if not self.is_real:
            return target.python_minor in self.pythons
        if self.requires_python and not _accepts(self.requires_python, target.python_full):
            return False
        return any((tag.interpreter, tag.abi) in target.python_tags for tag in self.tags)

    def fits_system(self, target: Target) -> bool:
        """Whether it is for a target's C library or macOS."""
        platforms = [tag.platform for tag in self.tags] if self.is_real else self.platform_tags
        return any(platform in target.platform_tags for platform in platforms)


@lru_cache(maxsize=8192)
def _version(text: str) -> Version:
    return Version(text)


@lru_cache(maxsize=1024)
def _accepts(requires_python: str, python: str) -> bool:
    try:
        return SpecifierSet(requires_python).contains(python, prereleases=True)
    except InvalidSpecifier:  # an index may hold anything; its file name still decides
        return True


def offer_from_wheel(
    filename: str,
    *,
    catalog: Catalog,
    source: Source,
    index_url: str | None = None,
    find_links: str | None = None,
    url: str | None = None,
    requires_python: str | None = None,
    sha256: str | None = None,
    size_bytes: int | None = None,
    yanked: bool = False,
) -> Offer | None:
    """The offer that a file is, None for a file that is no wheel of torch or belongs to no known build.

    That is the build that its local version names; without one, PyPI's own for that version and platform.
    """
    name = unquote(filename)
    try:
        project, version, _, tags = parse_wheel_filename(name)
    except InvalidWheelFilename:
        return None
    if project != "torch":
        return None
    platform = _platform_of(tags)
    build = version.local or (catalog.pypi_build(version.public, platform) if platform else None)
    if build is None or parse_build(build) is None:
        return None
    return Offer(
        build=build,
        torch=version.public,
        local=version.local,
        source=source,
        index_url=index_url,
        find_links=find_links,
        filename=name,
        url=url,
        requires_python=requires_python,
        sha256=sha256,
        size_bytes=size_bytes,
        yanked=yanked,
        verified=platform is not None and catalog.row(build, version.public, platform) is not None,
        tags=tags,
        platform=platform,
    )


def catalog_offers(catalog: Catalog, target: Target, *, index: str | None = None) -> tuple[Offer, ...]:
    """Every wheel that the catalog knows of for a platform, whether it fits the Python or not.

    `index` replaces the official index's base URL.
    """
    platform = target.platform
    if platform is None:
        return ()
    base = (index or catalog.index).rstrip("/")
    return tuple(_offer_of(row, platform, base) for row in catalog.rows_of(platform))


def _offer_of(row: Row, platform: Platform, base: str) -> Offer:
    # PyPI's wheels and those for macOS have no local version; all others name their build in it.
    return Offer(
        build=row.build,
        torch=row.torch,
        local=None if row.pypi or platform.startswith("macos") else row.build,
        source="default" if row.pypi else "index",
        index_url=None if row.pypi else f"{base}/{row.path}",
        verified=row.verified,
        pythons=row.pythons,
        platform_tags=row.platform_tags,
        platform=platform,
    )


def _platform_of(tags: frozenset[Tag]) -> Platform | None:
    """The platform that a wheel is for; None for any or an unknown one."""
    for tag in tags:
        platform = tag.platform
        if platform in _WINDOWS:
            return _WINDOWS[platform]
        if platform.startswith("macosx_"):
            return "macos_x86_64" if platform.endswith("_x86_64") else "macos_arm64"
        if platform.startswith(("manylinux", "linux_")):
            return next((known for known in _LINUX if platform.endswith(known.removeprefix("linux"))), None)
    return None


def pythons_of(offers: tuple[Offer, ...]) -> tuple[str, ...]:
    """The Pythons that offers have wheels for, oldest first, free-threaded ones last."""
    pythons = {python for offer in offers for python in offer.pythons}
    for offer in offers:
        for tag in offer.tags:
            digits = tag.interpreter.removeprefix("cp")
            if tag.interpreter.startswith("cp") and len(digits) > 1:
                pythons.add(f"{digits[0]}.{digits[1:]}{'t' if tag.abi.endswith('t') else ''}")
    return tuple(sorted(pythons, key=lambda python: (python.endswith("t"), Version(python.rstrip("t")))))


def in_words(pythons: tuple[str, ...]) -> str:
    """Pythons for a sentence, runs of them shortened: "3.9 to 3.13, 3.13t"."""
    runs: list[list[str]] = []
    for python in pythons:
        # The next minor version, of the same threading, goes on with the run.
        minor = re.sub(r"\d+(?=t?$)", lambda last: str(int(last[0]) - 1), python)
        if runs and runs[-1][-1] == minor:
            runs[-1].append(python)
        else:
            runs.append([python])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs) or "none"
