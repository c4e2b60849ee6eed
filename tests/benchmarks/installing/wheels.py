"""What is installed in the benchmark: wheels as heavy as torch's, and torch itself."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from support.real_torch import small_torch
from support.torch_index import TorchIndex
from support.wheels import Wheel, torch_wheel

_MB = 1_000_000
_LARGE_SHARE = 0.6
"""How much of a heavy wheel is one file, as libtorch_cpu.so is of torch's; the rest are small ones."""
_SMALL_FILE_BYTES = 40_000


@dataclass(frozen=True, kw_only=True)
class WheelSet:
    """Wheels to install.

    Args:
        name: What it is, for people.
        requirements: The lines of the backend's requirements.txt.
    """

    name: str
    requirements: tuple[str, ...]


def serve_torch_like(index: TorchIndex, scale: float) -> WheelSet:
    """Put one wheel of 190 MB, two of 50 MB and twenty small ones on the index, all smaller by `scale`.

    The large one is a torch that can be verified.
    """
    torch = torch_wheel("2.9.1", "cpu")
    files = {**torch.files, **dict(_heavy_files("torch_like", 190 * _MB * scale))}
    index.add("cpu", replace(torch, files=files, is_compressed=True))
    for name in ("half-heavy", "quite-heavy"):
        heavy = dict(_heavy_files(name.replace("-", "_"), 50 * _MB * scale))
        index.add_simple(Wheel(name=name, version="1.0", files=heavy, is_compressed=True))
    light = [f"light-{number}" for number in range(20)]
    for name in light:
        few = dict(_heavy_files(name.replace("-", "_"), 0.05 * _MB))
        index.add_simple(Wheel(name=name, version="1.0", files=few, is_compressed=True))
    size = sum(len(wheel.data) for wheel in index.wheels()) / _MB
    names = ("torch==2.9.1", "half-heavy", "quite-heavy", *light)
    return WheelSet(name=f"23 wheels like torch's, {size:.0f} MB", requirements=names)


def serve_real_torch(index: TorchIndex, folder: Path) -> WheelSet | None:
    """Put the CPU torch of pip's find-links and what it needs on the index; None where there is none.

    Args:
        index: The index.
        folder: Where the wheels are kept while they are served; made.
    """
    version = small_torch()
    if version is None:
        return None
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    subprocess.run([*pip, "--only-binary", ":all:", f"torch=={version}"], check=True, capture_output=True)
    size = 0
    for path in sorted(folder.glob("*.whl")):
        wheel = _FileWheel.of(path)
        size += len(wheel.data)
        if wheel.project == "torch":
            index.add("cpu", wheel)
        else:
            index.add_simple(wheel)
    requirement = f"torch=={version.partition('+')[0]}"
    return WheelSet(
        name=f"torch {version} with what it needs, {size / _MB:.0f} MB", requirements=(requirement,)
    )


@dataclass(frozen=True, kw_only=True)
class _FileWheel(Wheel):
    """A wheel of somebody else's, on disk."""

    path: Path

    @classmethod
    def of(cls, path: Path) -> _FileWheel:
        name, version, python, abi, platform = path.stem.split("-")[-5:]
        return cls(name=name, version=version, python=python, abi=abi, platform=platform, path=path)

    @cached_property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def metadata(self) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(f"{self.name}-{self.version}.dist-info/METADATA")


def _heavy_files(module: str, packed_bytes: float) -> Iterator[tuple[str, bytes]]:
    """Files that pack to so many bytes: a large one, and small ones, each different."""
    text, ratio = _text()
    size = int(packed_bytes * ratio)
    large = int(size * _LARGE_SHARE)
    yield f"{module}/large.bin", (text * (large // len(text) + 1))[:large]
    for number, start in enumerate(range(0, size - large, _SMALL_FILE_BYTES)):
        begin = start % (len(text) - _SMALL_FILE_BYTES)
        length = min(_SMALL_FILE_BYTES, size - large - start)
        yield f"{module}/part_{number // 100}/file_{number}.txt", text[begin : begin + length]


@functools.cache
def _text() -> tuple[bytes, float]:
    """The standard library's source, which packs about as well as torch's wheel, and how well that is."""
    modules = sorted(Path(os.__file__).parent.glob("*.py"))
    text = b"".join(path.read_bytes() for path in modules)
    return text, len(text) / len(zlib.compress(text, 1))
