"""Where an environment will run: platform, Python, and with them the wheels and markers that fit.

The list of tags is what `packaging.tags.sys_tags` gives on that machine; it is computed here because the
machine may be another one than this (a recorded machine, another Python).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, cast

from packaging import tags
from packaging.tags import Tag

from moondream_station.core.facts.capabilities import Capabilities

Platform = Literal[
    "linux_x86_64",
    "linux_aarch64",
    "linux_s390x",
    "windows_amd64",
    "windows_arm64",
    "macos_arm64",
    "macos_x86_64",
]

_PLATFORMS: Mapping[Platform, tuple[str, tuple[str, ...], str]] = {
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


@dataclass(frozen=True)
class Target:
    """The machine and the Python that an environment is made for.

    The Python's patch is 0 where only X.Y was given; `python_suffix` follows the numbers of a development
    version ("rc1", "+"). glibc and macOS are major and minor, None elsewhere and where unknown. `rosetta`: an
    x86-64 Python is translated on Apple silicon.
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

    @property
    def platform(self) -> Platform | None:
        """The platform as wheels know it; None where PyTorch has no wheels at all."""
        for name, (system, machines, _) in _PLATFORMS.items():
            if self.system.lower() == system.lower() and self.machine.lower() in machines:
                return name
        return None

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

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        """Every wheel tag that fits, best first."""
        return self._tags_on(list(self.platform_tags))

    def _tags_on(self, platforms: list[str]) -> tuple[Tag, ...]:
        version = self.python[:2]
        abi = f"cp{version[0]}{version[1]}{'t' if self.free_threaded else ''}"
        specific = tags.cpython_tags(version, [abi], platforms)
        return (*specific, *tags.compatible_tags(version, f"cp{version[0]}{version[1]}", platforms))

    @cached_property
    def python_tags(self) -> frozenset[tuple[str, str]]:
        """Interpreter and ABI of every tag that fits, whatever the platform."""
        return frozenset((tag.interpreter, tag.abi) for tag in self._tags_on(["any"]))

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
            "platform_version": "",
            "python_full_version": self.python_full,
            "python_version": f"{self.python[0]}.{self.python[1]}",
            "sys_platform": {"Windows": "win32", "Darwin": "darwin"}.get(system, system.lower()),
        }


def platform_names() -> Iterator[str]:
    """Every platform that PyTorch has wheels for, in words."""
    return (name for _, _, name in _PLATFORMS.values())


def platform_name(platform: str) -> str:
    """A platform in words."""
    return _PLATFORMS[cast("Platform", platform)][2] if platform in _PLATFORMS else platform


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
    """Platform tags of Linux, best first; none without glibc, for which alone PyTorch builds wheels."""
    if glibc is None:
        return
    oldest = _OLDEST_GLIBC_MINOR[machine]
    newest = glibc[1] if glibc[0] == 2 else -1  # noqa: PLR2004  every manylinux profile is of glibc 2
    yield f"linux_{machine}"
    for minor in range(newest, oldest - 1, -1):
        yield f"manylinux_2_{minor}_{machine}"
        if minor in _LEGACY_MANYLINUX:
            yield f"{_LEGACY_MANYLINUX[minor]}_{machine}"
