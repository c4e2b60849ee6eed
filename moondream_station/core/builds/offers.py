"""Wheels of torch: the available ones, and what a machine and its Python need one to be.

A wheel is real, known from its file name, or one that the catalog knows of. A target's tags are those that
`packaging.tags.sys_tags` gives there; the machine may be another one than this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, cast
from urllib.parse import unquote

from packaging import tags
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog, Row
from moondream_station.core.builds.naming import parse_build
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.selection import Source

Platform = Literal[
    "linux_x86_64",
    "linux_aarch64",
    "linux_s390x",
    "windows_amd64",
    "windows_arm64",
    "macos_arm64",
    "macos_x86_64",
]

PLATFORMS: Mapping[Platform, tuple[str, tuple[str, ...], str]] = {
    "linux_x86_64": ("Linux", ("x86_64", "amd64"), "Linux on x86-64"),
    "linux_aarch64": ("Linux", ("aarch64", "arm64"), "Linux on ARM64"),
    "linux_s390x": ("Linux", ("s390x",), "Linux on s390x"),
    "windows_amd64": ("Windows", ("amd64", "x86_64"), "Windows on x86-64"),
    "windows_arm64": ("Windows", ("arm64",), "Windows on ARM64"),
    "macos_arm64": ("Darwin", ("arm64",), "macOS on Apple silicon"),
    "macos_x86_64": ("Darwin", ("x86_64",), "macOS on Intel"),
}
"""What PyTorch has wheels for, as `platform.system()` and `.machine()` (any case) name it, and in words."""

_PYTHON = re.compile(r"([0-9]+)\.([0-9]+)(?:\.([0-9]+))?((?:a|b|rc)[0-9]+)?\+?(t?)")
# PEP 600: manylinux_2_5 is the oldest profile, on aarch64 2_17; the old names are aliases of these.
_OLDEST_GLIBC_MINOR = {"x86_64": 5, "aarch64": 17, "s390x": 17}
_LEGACY_MANYLINUX = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_OLDEST_ARM_MACOS = (11, 0)
_OLDEST_INTEL_MACOS = (10, 16)
_LINUX: tuple[Platform, ...] = ("linux_x86_64", "linux_aarch64", "linux_s390x")
_WINDOWS: dict[str, Platform] = {"win_amd64": "windows_amd64", "win_arm64": "windows_arm64"}


@dataclass(frozen=True)
class Target:
    """The machine and the Python that an environment is made for.

    The Python's patch is 0 where only X.Y was given; `python_suffix` follows the numbers of a development
    version ("rc1"). `rosetta`: an x86-64 Python is translated on Apple silicon.
    """

    system: str
    machine: str
    python: tuple[int, int, int]
    python_suffix: str = ""
    free_threaded: bool = False
    glibc: tuple[int, int] | None = None
    macos: tuple[int, int] | None = None
    rosetta: bool = False
    release: str = ""
    version: str = ""

    @property
    def platform(self) -> Platform | None:
        """The platform as wheels know it; None where PyTorch has no wheels at all."""
        for name, (system, machines, _) in PLATFORMS.items():
            if self.system.lower() == system.lower() and self.machine.lower() in machines:
                return name
        return None

    @property
    def is_32_bit(self) -> bool:
        """Whether the Python is for a CPU of 32 bits, whichever it runs on."""
        return self.machine.lower() in {"x86", "i386", "i486", "i586", "i686", "arm", "armv6l", "armv7l"}

    @property
    def place(self) -> str:
        """The platform in words."""
        return platform_name(self.platform) if self.platform else f"{self.system} on {self.machine}"

    @property
    def python_minor(self) -> str:
        """The Python as wheels are counted by it: "3.11", or "3.14t" for the free-threaded build."""
        return f"{self.python[0]}.{self.python[1]}{'t' if self.free_threaded else ''}"

    @property
    def python_full(self) -> str:
        """The Python's whole version."""
        return ".".join(map(str, self.python)) + self.python_suffix

    def tags_on(self, platforms: list[str]) -> tuple[Tag, ...]:
        """Every wheel tag that fits on these platforms, best first."""
        version = self.python[:2]
        abi = f"cp{version[0]}{version[1]}{'t' if self.free_threaded else ''}"
        specific = tags.cpython_tags(version, [abi], platforms)
        return (*specific, *tags.compatible_tags(version, f"cp{version[0]}{version[1]}", platforms))

    @cached_property
    def python_tags(self) -> frozenset[tuple[str, str]]:
        """Interpreter and ABI of every tag that fits, whatever the platform."""
        return frozenset((tag.interpreter, tag.abi) for tag in self.tags_on(["any"]))

    @cached_property
    def platform_tags(self) -> tuple[str, ...]:
        """The platform part of every tag that fits, best first; empty where no wheel of PyTorch's fits."""
        match self.platform:
            case "linux_x86_64" | "linux_aarch64" | "linux_s390x" as linux:
                return tuple(_linux_tags(linux.removeprefix("linux_"), self.glibc))
            case "windows_amd64" | "windows_arm64" as windows:
                return (windows.replace("windows", "win"),)
            case "macos_arm64":
                return tuple(tags.mac_platforms(self.macos or _OLDEST_ARM_MACOS, "arm64"))
            case "macos_x86_64":
                return tuple(tags.mac_platforms(self.macos or _OLDEST_INTEL_MACOS, "x86_64"))
            case None:
                return ()

    @cached_property
    def markers(self) -> dict[str, str]:
        """The environment that markers are evaluated in (PEP 508), without `extra`."""
        system = self.system
        return {
            "implementation_name": "cpython",
            "implementation_version": self.python_full,
            "os_name": "nt" if system == "Windows" else "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": self.release,
            "platform_system": system,
            "platform_version": self.version,
            "python_full_version": self.python_full,
            "python_version": f"{self.python[0]}.{self.python[1]}",
            "sys_platform": {"Windows": "win32", "Darwin": "darwin"}.get(system, system.lower()),
        }


def platform_name(platform: str) -> str:
    """A platform in words."""
    return PLATFORMS[cast("Platform", platform)][2] if platform in PLATFORMS else platform


def target_of(capabilities: Capabilities, python: str) -> Target:
    """The target that a machine and a Python ("3.11.7", "3.11", "3.14t" for a free-threaded one) make."""
    translated = capabilities.in_rosetta or (
        capabilities.apple_silicon and capabilities.system == "Darwin" and capabilities.machine == "x86_64"
    )
    libc_name, libc_version = capabilities.libc
    match = _PYTHON.match(python.strip())
    numbers = (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)
    return _shared(
        Target(
            system=capabilities.system,
            machine=capabilities.machine,
            python=numbers,
            python_suffix=(match[4] or "") if match else "",
            free_threaded=bool(match and match[5]),
            glibc=_two_numbers(libc_version) if libc_name == "glibc" else None,
            macos=_two_numbers(capabilities.macos_version or ""),
            rosetta=bool(translated),
            release=capabilities.release,
            version=capabilities.version,
        )
    )


@lru_cache(maxsize=64)
def _shared(target: Target) -> Target:
    """One object for equal targets: its list of tags is long, and the same machine is asked about often."""
    return target


def _two_numbers(text: str) -> tuple[int, int] | None:
    match = re.match(r"([0-9]+)(?:\.([0-9]+))?", text)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _linux_tags(machine: str, glibc: tuple[int, int] | None) -> Iterator[str]:
    if glibc is None:
        return  # for which alone PyTorch builds wheels
    oldest = _OLDEST_GLIBC_MINOR[machine]
    newest = glibc[1] if glibc[0] == 2 else -1  # noqa: PLR2004  every manylinux profile is of glibc 2
    yield f"linux_{machine}"
    for minor in range(newest, oldest - 1, -1):
        yield f"manylinux_2_{minor}_{machine}"
        if minor in _LEGACY_MANYLINUX:
            yield f"{_LEGACY_MANYLINUX[minor]}_{machine}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An available wheel of torch, `torch` without the local part of its version ("2.14.1" and "cu126").

    `index_url` is None for find-links and for PyPI, `find_links` what the user named. A real wheel has a file
    name, URL and tags; one that only the catalog knows of has Pythons ("3.11", "3.14t") and platform tags
    instead. `verified` is whether the catalog vouches for it; of a real wheel, for what is known about it.
    """

    build: str
    torch: str
    local: str | None = None
    source: Source = "index"
    index_url: str | None = None
    find_links: str | None = None
    filename: str | None = None
    url: str | None = None
    extras: tuple[str, ...] = ()  # which of its extras this machine needs
    requires_python: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    yanked: bool = False  # its index took it back
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


def offer_from_wheel(filename: str, *, catalog: Catalog, source: Source) -> Offer | None:
    """The offer that a file is, of the build that its local version names, else PyPI's own; None if none."""
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
        filename=name,
        verified=platform is not None and catalog.row(build, version.public, platform) is not None,
        tags=tags,
        platform=platform,
    )


def catalog_offers(
    catalog: Catalog, target: Target, *, index: str | None = None, amds: bool = True
) -> tuple[Offer, ...]:
    """Every wheel that the catalog knows of for a platform; `index` replaces the official base URL.

    Those on AMD's own indexes are among them where these may be asked.
    """
    platform = target.platform
    if platform is None:
        return ()
    base = (index or catalog.index).rstrip("/")
    rows = catalog.rows_of(platform)
    return tuple(_offer_of(row, platform, base) for row in rows if amds or row.vendor is None)


def _offer_of(row: Row, platform: Platform, base: str) -> Offer:
    # PyPI's wheels and those for macOS have no local version; all others name their build in it.
    return Offer(
        build=row.build,
        torch=row.torch,
        local=None if row.pypi or platform.startswith("macos") else row.build,
        source="vendor" if row.vendor else "default" if row.pypi else "index",
        index_url=row.vendor or (None if row.pypi else f"{base}/{row.path}"),
        verified=row.verified,
        pythons=row.pythons,
        platform_tags=row.platform_tags,
        platform=platform,
    )


def _platform_of(tags: frozenset[Tag]) -> Platform | None:
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
    runs: list[list[str]] = [[]]
    for python in pythons:
        # The next minor version, of the same threading, goes on with the run.
        minor = re.sub(r"\d+(?=t?$)", lambda last: str(int(last[0]) - 1), python)
        if minor not in runs[-1][-1:]:
            runs.append([])
        runs[-1].append(python)
    return ", ".join(" to ".join(dict.fromkeys((run[0], run[-1]))) for run in runs[1:]) or "none"
