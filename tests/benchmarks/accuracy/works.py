"""Whether a choice of a PyTorch build would work on a machine: written from the sources, for judging others.

It shares neither code nor data with the station's selection: the wheels are published_wheels.json's, the
bounds stand here with their sources. What it calls right:

- the wheel exists for the platform, the Python, and the C library or macOS, and the requirement allows it;
- it computes on the GPU that the runtime numbers first, if any published wheel that the requirement allows
  could; otherwise on the processor, without finding a GPU that it has no code for;
- where nothing can be installed, saying so is right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

_DATA = Path(__file__).with_name("published_wheels.json")
_PLATFORMS = {
    ("Linux", "x86_64"): "linux_x86_64",
    ("Linux", "aarch64"): "linux_aarch64",
    ("Linux", "s390x"): "linux_s390x",
    ("Windows", "AMD64"): "windows_amd64",
    ("Windows", "ARM64"): "windows_arm64",
    ("Darwin", "arm64"): "macos_arm64",
    ("Darwin", "x86_64"): "macos_x86_64",
}
_CUDA_11, _CUDA_12, _CUDA_13 = 11, 12, 13

# NVIDIA's minor-version compatibility table: Linux, Windows. For CUDA 13 the major alone, because a Jetson
# Thor reports 580.00 and runs it (vllm-project/vllm#34470).
_DRIVERS = {
    _CUDA_11: ((450, 80, 2), (452, 39)),
    _CUDA_12: ((525, 60, 13), (528, 33)),
    _CUDA_13: ((580,), (580,)),
}
_BLACKWELL_DRIVERS = ((570, 26), (570, 65))  # cuDNN's support matrix; below CUDA 13 only
_BLACKWELL = 10
# PYTORCH_ROCM_ARCH of the releases: pytorch/builder 2.0 to 2.4, then pytorch#141667, #147761, #148562.
_GFX_SINCE = {
    "gfx1100": (2, 1),
    "gfx942": (2, 3),
    "gfx1101": (2, 6),
    "gfx1102": (2, 7),
    "gfx1200": (2, 7),
    "gfx1201": (2, 7),
}
_SOURCE_BUILDS = frozenset({"rocm7.14"})  # its wheel needs `rocm` 7.14, which exists as an sdist only


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"[0-9]+", version)))


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel set that somebody saw."""

    torch: str
    build: str
    platform: str
    at: frozenset[str]
    pythons: frozenset[str]
    pythons_at_index: frozenset[str]
    codes: tuple[tuple[int, ...], ...]

    @property
    def glibc(self) -> tuple[int, ...]:
        """The oldest glibc that it runs on: its platform tags, and for 2.6.0 the release's announcement."""
        torch = _numbers(self.torch)
        if torch >= (2, 7) or (torch >= (2, 6) and self.platform == "linux_aarch64"):
            return (2, 28)
        if (self.torch, self.build) == ("2.5.1", "xpu"):  # its platform tag
            return (2, 28)
        if self.torch == "2.6.0" and self.build in {"cu126", "rocm6.2.4", "xpu"}:
            return (2, 28)
        return (2, 17) if self.platform == "linux_aarch64" else (2, 5)

    @property
    def macos(self) -> tuple[int, ...]:
        """The oldest macOS that it runs on: its platform tags."""
        if self.platform == "macos_x86_64":
            return (10, 9)
        return (14, 0) if _numbers(self.torch) >= (2, 12) else (11, 0)

    def is_for(self, python: str, at: str) -> bool:
        """Whether there is a file for a Python ("3.12", "3.14t") at `index` or `pypi`."""
        if at not in self.at:
            return False
        return python in self.pythons or (at == "index" and python in self.pythons_at_index)


@cache
def published_wheels() -> tuple[Wheel, ...]:
    """Every wheel set that somebody saw."""
    return tuple(
        Wheel(
            torch,
            build,
            platform,
            frozenset(at.split()),
            frozenset(pythons.split()),
            frozenset(more.split()),
            tuple(map(_numbers, codes.split())),
        )
        for torch, build, platform, at, pythons, more, codes in _read()["wheels"]
    )


@cache
def _gfx() -> dict[str, frozenset[str]]:
    """The GPUs of each ROCm build: uv's table (crates/uv-torch/src/backend.rs), for 5.x pytorch/builder's.

    Without gfx900 and gfx906 from 6.4 on, for which rocBLAS has nothing (pytorch#179865).
    """
    return {build: frozenset(names.split()) for build, names in _read()["gfx"].items()}


def _read() -> Any:
    return json.loads(_DATA.read_text("utf-8"))


@dataclass(frozen=True, slots=True)
class Reality:
    """A machine as it really is.

    Args:
        platform: As wheels name it, None where PyTorch has none.
        python: "3.12" or "3.14t".
        glibc: Its numbers, empty for another C library.
        macos: Its numbers.
        driver: NVIDIA's driver.
        has_windows_driver: Whether that is Windows' (WSL2 too).
        gpus: Those that a backend sees, the first one at the head.
        is_translated: Whether Rosetta translates the Python.
    """

    platform: str | None
    python: str
    glibc: tuple[int, ...]
    macos: tuple[int, ...]
    driver: str | None
    has_windows_driver: bool
    gpus: tuple[Mapping[str, Any], ...]
    is_translated: bool

    @classmethod
    def of(cls, record: Mapping[str, Any], truth: Mapping[str, Any]) -> Reality:
        """What a record's platform and an expected file's `truth` say."""
        facts = record["platform"]
        python = re.match(r"([0-9]+\.[0-9]+)[0-9.]*(t?)", facts["python"])
        assert python is not None
        has_apple = any(gpu["vendor"] == "apple" for gpu in truth["gpus"])
        return cls(
            platform=_PLATFORMS.get((facts["system"], facts["machine"])),
            python=python[1] + python[2],
            glibc=_numbers(facts["libc"][1]) if facts["libc"][0] == "glibc" else (),
            macos=_numbers(facts["mac_ver"]),
            driver=truth["driver"],
            has_windows_driver=facts["system"] == "Windows" or "microsoft" in facts["release"],
            gpus=tuple(truth["gpus"]),
            is_translated=has_apple and facts["machine"] == "x86_64",
        )

    def of_vendor(self, vendor: str) -> Mapping[str, Any] | None:
        """The first GPU of a vendor."""
        return next((gpu for gpu in self.gpus if gpu["vendor"] == vendor), None)


def installs(wheel: Wheel, reality: Reality, at: str = "") -> bool:
    """Whether pip could install a wheel there, from `index`, `pypi` or `vendor`; from any by default."""
    if wheel.platform != reality.platform or wheel.build in _SOURCE_BUILDS or reality.is_translated:
        return False
    if reality.platform.startswith("linux") and not (reality.glibc and reality.glibc >= wheel.glibc):
        return False
    if reality.platform.startswith("macos") and reality.macos < wheel.macos:
        return False
    return any(wheel.is_for(reality.python, place) for place in ([at] if at else ["index", "pypi", "vendor"]))


def accelerates(wheel: Wheel, reality: Reality) -> bool:
    """Whether torch would compute on the GPU there, with this wheel."""
    if wheel.build == "mps":
        return reality.of_vendor("apple") is not None
    if wheel.build.startswith("cu"):
        return _runs_on_nvidia(wheel, reality)
    if wheel.build.startswith("rocm"):
        amd = reality.of_vendor("amd")
        first = _GFX_SINCE.get(amd["architecture"], ()) if amd is not None else ()
        has_code = amd is not None and amd["architecture"] in _gfx().get(wheel.build, ())
        return has_code and _numbers(wheel.torch) >= first
    intel = reality.of_vendor("intel")
    return wheel.build == "xpu" and intel is not None and bool(intel["has_xpu"])


def misleads(wheel: Wheel, reality: Reality) -> bool:
    """Whether torch would find the GPU there and then fail on it, having no code for it."""
    if accelerates(wheel, reality):
        return False
    if wheel.build.startswith("cu"):
        return _driver_carries(wheel, reality)
    return wheel.build.startswith("rocm") and reality.of_vendor("amd") is not None


def _driver_carries(wheel: Wheel, reality: Reality) -> bool:
    gpu = reality.of_vendor("nvidia")
    if gpu is None or reality.driver is None:
        return False
    major = int(wheel.build[2:4])
    bound = _DRIVERS[major][reality.has_windows_driver]
    if _numbers(gpu["architecture"])[0] >= _BLACKWELL and major < _CUDA_13:
        bound = max(bound, _BLACKWELL_DRIVERS[reality.has_windows_driver])
    return _numbers(reality.driver)[: len(bound)] >= bound


def _runs_on_nvidia(wheel: Wheel, reality: Reality) -> bool:
    gpu = reality.of_vendor("nvidia")
    if gpu is None or not _driver_carries(wheel, reality):
        return False
    device = _numbers(gpu["architecture"])
    return any(_code_runs(code, device, wheel.build) for code in wheel.codes)


def _code_runs(code: tuple[int, ...], device: tuple[int, ...], build: str) -> bool:
    """DEVICE_REQUIREMENT in torch/cuda/__init__.py, torch 2.13 and newer."""
    if code == device:
        return True
    alone = {(5, 3), (6, 2)} if build == "cu132" else {(5, 3), (6, 2), (7, 2), (8, 7)}
    return code[0] == device[0] and code[1] < device[1] and device not in alone


def newest(
    reality: Reality, requirement: str, *, build: str | None = None, at: str = ""
) -> tuple[str, str] | None:
    """What pip takes: build and version of the newest wheel that fits.

    Args:
        reality: The machine.
        requirement: What is asked for ("torch>=2.7.0").
        build: The index's folder; None for all of PyPI.
        at: `index` or `pypi`.
    """
    allowed = SpecifierSet(requirement.removeprefix("torch"))
    folder = "mps" if build == "cpu" and reality.platform == "macos_arm64" else build
    fitting = [
        wheel
        for wheel in published_wheels()
        if folder in {None, wheel.build} and allowed.contains(wheel.torch) and installs(wheel, reality, at)
    ]
    best = max(fitting, key=lambda wheel: Version(wheel.torch), default=None)
    return (best.build, best.torch) if best else None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a choice.

    Args:
        works: Whether it is right, by this module's rule.
        is_newest: Whether no newer torch would have been right too.
        why: What is wrong with it, empty where nothing is.
    """

    works: bool
    is_newest: bool
    why: str


def judge(choice: tuple[str, str] | None, reality: Reality, requirement: str) -> Judgement:
    """Judge a choice.

    Args:
        choice: Build and torch, None for "nothing can be installed".
        reality: The machine.
        requirement: What is asked for.
    """
    right = _right_wheels(reality, requirement)
    if choice is None or not right:
        works = choice is None and not right
        return Judgement(works, works, "" if works else _why_not(choice, right))
    same = [wheel for wheel in right if (wheel.build, wheel.torch) == choice]
    if not same:
        return Judgement(False, False, _why_not(choice, right))
    # On the processor CUDA's libraries are gigabytes for nothing: only the build without them is compared.
    lean = [wheel for wheel in right if wheel.build in {"cpu", same[0].build}] or right
    best = max(Version(wheel.torch) for wheel in (right if accelerates(same[0], reality) else lean))
    return Judgement(True, Version(choice[1]) == best, "")


def _right_wheels(reality: Reality, requirement: str) -> list[Wheel]:
    """Every wheel that is right: those that use the GPU, or, where none can, those that leave it alone."""
    allowed = SpecifierSet(requirement.removeprefix("torch"))
    fitting = [
        wheel for wheel in published_wheels() if allowed.contains(wheel.torch) and installs(wheel, reality)
    ]
    return [wheel for wheel in fitting if accelerates(wheel, reality)] or [
        wheel
        for wheel in fitting
        if not misleads(wheel, reality)  # a wheel for a GPU that is not there computes on the processor
    ]


def _why_not(choice: tuple[str, str] | None, right: list[Wheel]) -> str:
    best = max(right, key=lambda wheel: Version(wheel.torch), default=None)
    wanted = f"{best.build} {best.torch}" if best else "nothing"
    return f"{' '.join(choice) if choice else 'nothing'} instead of {wanted}"
