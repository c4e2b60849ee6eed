"""What a catalog of builds may say: every table of catalog.toml, and what its words must be.

A catalog that did not come with the package is checked against this before anything of it is used.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Final, Literal, Self

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from moondream_station.core.builds.naming import parse_build, parse_capability
from moondream_station.core.builds.offers import PLATFORMS

FORMAT: Final = "moondream-station/catalog/1"
_TAG = r"[a-z0-9_]+"
# tomllib's time grows with the square of a key's parts: it took more than a minute for one of 100 kB.
_MAX_DOTS: Final = 64  # in a line, whether in a key or a text; the bundled catalog has 23
_PYTHON = r"[0-9]\.[0-9]{1,2}t?"


def _build(text: str) -> str:
    if parse_build(text) is None:
        raise ValueError("it is not a build's tag")
    return text


def _torch(text: str) -> str:
    try:
        Version(text)
    except InvalidVersion as error:
        raise ValueError("it is not a version") from error
    return text


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError("it is not a version specifier") from error
    return text


def _capability(text: str) -> str:
    if parse_capability(text) is None:
        raise ValueError("it is not a compute capability")
    return text


def _platform(text: str) -> str:
    if text not in PLATFORMS:
        raise ValueError("PyTorch has no wheels for such a platform")
    return text


def _words(pattern: str) -> Any:
    """A pattern of words with one space between them."""
    return Field(pattern=rf"^{pattern}( {pattern})*$")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has control characters")
    return text


def _day(text: str) -> str:
    date.fromisoformat(text)
    return text


BuildName = Annotated[str, AfterValidator(_build)]
Torch = Annotated[str, AfterValidator(_torch)]
Specifier = Annotated[str, AfterValidator(_specifier)]
CapabilityName = Annotated[str, AfterValidator(_capability)]
PlatformName = Annotated[str, AfterValidator(_platform)]
Words = Annotated[str, AfterValidator(_printable)]
Day = Annotated[str, AfterValidator(_day)]
Gfx = Annotated[str, Field(pattern=r"^gfx[0-9a-f]{3,5}$")]
DeviceId = Annotated[str, Field(pattern=r"^0x[0-9a-f]{4}$")]
Numbers = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)*$")]
Pythons = Annotated[str, _words(_PYTHON)]
Tags = Annotated[str, _words(_TAG)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s\x00-\x1f@]+$")]
Package = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Source = str | list[str]
Evidence = Literal[
    "binary", "index", "url", "pypi", "matrix", "docs", "issue", "source", "inferred", "unverified"
]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    source: Source = []
    note: str = ""


class _Bounds(_Table):
    linux: Numbers
    windows: Numbers


class _Driver(_Bounds):
    cuda_major: int
    blackwell: _Bounds | None = None


class _Names(_Table):
    names: list[Words]


class _Unpacked(_Table):
    cpu: float = Field(gt=0)
    cuda: float = Field(gt=0)


class _Branches(_Table):
    cuda: dict[Annotated[str, Field(pattern=r"^[0-9]{3}$")], Numbers] = Field(min_length=1)


class _Architectures(_Table):
    build: BuildName
    platform: PlatformName
    torch: list[Torch] = Field(min_length=2, max_length=2)
    capabilities: list[CapabilityName]
    evidence: Evidence


class _Rocm(_Table):
    build: BuildName
    gfx: list[Gfx]


class _VendorPackages(_Table):
    names: list[Package]
    for_gfx: list[Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*-\{gfx\}$")]]
    built: list[Package]


class _VendorDevices(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    __pydantic_extra__: dict[Gfx, list[DeviceId]] = {}
    source: Source = []


class _SourceBuild(_Table):
    build: BuildName
    reason: Words


class _Devices(_Table):
    family: Words
    integrated: bool
    devices: list[DeviceId]


class _Wheel(_Table):
    model_config = ConfigDict(extra="allow", strict=True)  # a platform's name: how sure its wheel is

    __pydantic_extra__: dict[PlatformName, Evidence] = {}
    build: BuildName
    vendor: str | None = None
    python: Pythons | None = None
    path: Annotated[str, Field(pattern=r"^[a-z0-9.]+(/[a-z0-9.]+)*$")] | None = None
    tags: dict[PlatformName, Tags] = {}
    without: list[Package] = []
    cpu_only: list[Package] = []


class _TagsFor(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    __pydantic_extra__: dict[PlatformName, Tags] = {}
    pythons: Pythons


class _Release(_Table):
    torch: Torch
    date: Day | None = None
    python: Pythons
    python_on: dict[PlatformName, Pythons] = {}
    index_python: dict[PlatformName, Pythons] = {}
    tags: dict[PlatformName, Tags]
    tags_for: _TagsFor | None = None
    pypi: dict[PlatformName, BuildName]
    torchvision: list[Torch]
    torchaudio: list[Torch]
    torchvision_python: Specifier = ""
    torchaudio_python: Specifier = ""
    wheels: list[_Wheel]

    @model_validator(mode="after")
    def _has_tags(self) -> Self:
        if missing := self.pypi.keys() - self.tags.keys():
            raise ValueError(f"tags has nothing for {', '.join(sorted(missing))}")
        return self


class CatalogFile(BaseModel):
    """A catalog of builds, as TOML."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["moondream-station/catalog/1"]
    reviewed: Day
    index: Url
    sources: dict[str, str]
    drivers: list[_Driver] = Field(min_length=1)
    toolkit_packages: _Names
    unpacked: _Unpacked
    driver_branches: _Branches
    forward_compatibility: _Names
    architectures: list[_Architectures]
    gfx_since: dict[Gfx, Torch]
    rocm: list[_Rocm]
    vendor_indexes: dict[str, Url]
    vendor_packages: _VendorPackages
    vendor_rocm: list[_Rocm]
    vendor_devices: _VendorDevices
    gfx_overrides: dict[Gfx, Numbers]
    source_builds: list[_SourceBuild]
    intel: list[_Devices]
    releases: list[_Release] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_indexes(self) -> Self:
        named = {wheel.vendor for release in self.releases for wheel in release.wheels if wheel.vendor}
        if missing := named - self.vendor_indexes.keys():
            raise ValueError(f"vendor_indexes has nothing for {', '.join(sorted(missing))}")
        return self


def checked(content: bytes) -> Mapping[str, Any]:
    """A catalog's content as `Catalog` takes it; ValueError says what is wrong with it, in a clause."""
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.count(b".") > _MAX_DOTS:
            raise ValueError(f"line {number} has more than {_MAX_DOTS} dots")
    try:
        data = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not TOML ({str(error).partition(chr(10))[0]})") from error
    if (found := data.get("format")) != FORMAT:
        raise ValueError(
            f"its format is {found!r}, not {FORMAT!r}" if found else f"it has no format {FORMAT!r}"
        )
    try:
        CatalogFile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = re.sub(r"^Value error, ", "", first["msg"])
        if clause := {"missing": "is missing", "extra_forbidden": "is unknown"}.get(first["type"]):
            raise ValueError(f"{place} {clause}") from error
        raise ValueError(f"{place} is {first['input']!r:.60}: {said}") from error
    return data
