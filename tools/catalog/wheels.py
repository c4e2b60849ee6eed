"""What an index's pages and a wheel's own files say, without believing either more than that."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
from packaging.metadata import Metadata
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Build, parse_build
from moondream_station.core.builds.offers import offer_from_wheel
from moondream_station.core.index.listing import ACCEPT, ListedFile, parse_listing

_ONE_CODE = rb"(?:sm_[0-9]{2,3}[af]?|gfx[0-9a-f]{3,4})"
_CODES = re.compile(rb"\b%b(?: %b)*\b" % (_ONE_CODE, _ONE_CODE))
_ROCBLAS = re.compile(r"torch/lib/rocblas/library/.*[_-](gfx[0-9a-f]{3,4})[._-]")
_LOCAL_TORCH = re.compile(r"(?:cuda|hip|__version__)[^=\n]*= *'([^']*)'")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenWheel:
    """A wheel of torch that a page lists: what one row of the catalog says of it."""

    torch: str
    build: str
    platform: str
    python: str
    platform_tags: frozenset[str]
    is_pypi: bool
    vendor: str | None = None  # which of AMD's indexes lists it


@dataclass(frozen=True, slots=True, kw_only=True)
class Insides:
    """What a torch wheel itself says.

    `torch`, `cuda` and `hip` are the three lines of `torch/version.py`; `codes` what torch's own list of
    architectures names; `rocblas` the GPUs that its rocBLAS has kernels for, which can be fewer.
    """

    version: tuple[str, ...]
    codes: tuple[str, ...]
    rocblas: tuple[str, ...]


class Listings:
    """The pages of an index, each asked for once. A page that is not there lists nothing."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client
        self.unanswered: list[str] = []

    def files(self, url: str) -> tuple[ListedFile, ...] | None:
        """The files that a page lists; None where there is no such page, or nobody answered (said once)."""
        try:
            answer = self._client.get(url, headers={"Accept": ACCEPT})
            if answer.status_code in {403, 404, 410}:
                return None
            answer.raise_for_status()
            return parse_listing(
                answer.content, content_type=answer.headers.get("Content-Type", ""), url=str(answer.url)
            )
        except (httpx2.HTTPError, ValueError) as error:
            self.unanswered.append(f"{url}: {error}")
            return None

    def metadata(self, file: ListedFile) -> Metadata | None:
        """A wheel's METADATA from beside it (PEP 658); None where the index keeps none there."""
        try:
            answer = self._client.get(f"{file.url}.metadata")
            return Metadata.from_email(answer.content, validate=False) if answer.status_code == 200 else None  # noqa: PLR2004
        except httpx2.HTTPError as error:
            self.unanswered.append(f"{file.url}.metadata: {error}")
            return None


def torch_wheels(
    files: Iterable[ListedFile],
    *,
    catalog: Catalog,
    build: str | None,
    pypi_build: str | None = None,
    vendor: str | None = None,
) -> Iterator[SeenWheel]:
    """The torch wheels among files that a build's page lists, or PyPI's where `build` is None.

    PyPI's wheels do not name their build: it is the catalog's, or `pypi_build` for a torch it does not know.
    AMD's name theirs, several on one page.
    Pre-releases and withdrawn files are left out, as the station never chooses them.
    """
    for file in files:
        if file.yanked or not file.filename.endswith(".whl"):
            continue
        try:
            project, version, _, tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        platform = _platform(file.filename, catalog)
        if project != "torch" or version.is_prerelease or platform is None:
            continue
        own = catalog.pypi_build(version.public, platform) or pypi_build
        found = own if build is None or platform.startswith("macos") else version.local or build
        if found is None or parse_build(found) is None:
            continue
        for tag in tags:
            python = _python(tag.interpreter, tag.abi)
            if python is not None and accepts(file.requires_python, python.rstrip("t")):
                yield SeenWheel(
                    torch=version.public,
                    build=found,
                    platform=platform,
                    python=python,
                    platform_tags=frozenset(one.platform for one in tags),
                    is_pypi=build is None,
                    vendor=vendor,
                )


def accepts(requires_python: str | None, python: str) -> bool:
    """Whether a wheel's Requires-Python has a Python ("3.14.1"), or any patch of one ("3.14")."""
    specifier = SpecifierSet(requires_python or "")
    patches = [python] if python.count(".") > 1 else [f"{python}.{patch}" for patch in range(20)]
    return any(specifier.contains(patch) for patch in patches)


def torch_of(metadata: Metadata) -> SpecifierSet | None:
    """The torch that a companion's wheel asks for; None where it names none, or any."""
    for requirement in metadata.requires_dist or ():
        if requirement.name == "torch" and requirement.specifier:
            return requirement.specifier
    return None


def refused_pythons(files: Iterable[ListedFile], pythons: Iterable[str]) -> tuple[str, ...]:
    """Which of some Pythons ("3.14.1") no file of a companion's release is for."""
    wheels = [(file, parse_wheel_filename(file.filename)[3]) for file in files]

    def is_served(python: str) -> bool:
        minor = python.rpartition(".")[0].replace(".", "")
        return any(
            accepts(file.requires_python, python)
            and any(tag.interpreter in {"py3", f"cp{minor}"} and not tag.abi.endswith("t") for tag in tags)
            for file, tags in wheels
        )

    return tuple(python for python in pythons if not is_served(python))


def torch_and_build(wheel: Path, catalog: Catalog, pypi_build: str | None) -> tuple[str, Build, str]:
    """The torch of a wheel, its build and its platform, by its name; ValueError where that tells none."""
    try:
        project, version, _, _ = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename as error:
        raise ValueError(str(error)) from error
    platform = _platform(wheel.name, catalog)
    if project != "torch" or platform is None:
        raise ValueError(f"{wheel.name} is no wheel of torch for a platform that the catalog knows")
    build = parse_build(version.local or catalog.pypi_build(version.public, platform) or pypi_build or "")
    if build is None:
        raise ValueError(f"{wheel.name} does not name its build; --pypi-build does")
    return version.public, build, platform


def read_insides(wheel: Path) -> Insides:
    """What a torch wheel on this disk says of itself; nothing of it is run."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        version = archive.read("torch/version.py").decode() if "torch/version.py" in names else ""
        codes: set[str] = set()
        for name in names:
            if re.fullmatch(r"torch/lib/(lib)?torch_python\.(so|dll|dylib)", name):
                codes.update(_codes(archive.read(name)))
        rocblas = {match[1] for match in map(_ROCBLAS.match, names) if match}
    return Insides(
        version=tuple(_LOCAL_TORCH.findall(version)), codes=_sorted(codes), rocblas=_sorted(rocblas)
    )


def _codes(library: bytes) -> Iterator[str]:
    """The longest list of architectures among a library's texts, which is what `get_arch_list` gives."""
    longest = max(_CODES.findall(library), key=len, default=b"")
    yield from longest.decode().split()


def _sorted(codes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(codes, key=lambda code: (len(code), code)))


def _platform(filename: str, catalog: Catalog) -> str | None:
    """The catalog's word for a wheel's platform, whatever build it is."""
    name, version, tags = filename.split("-", 2)
    offer = offer_from_wheel(
        f"{name}-{version.partition('+')[0]}+cpu-{tags}", catalog=catalog, source="index"
    )
    return offer.platform if offer else None


def _python(interpreter: str, abi: str) -> str | None:
    match = re.fullmatch(r"cp(\d)(\d+)", interpreter)
    if match is None or not (abi.startswith("cp") or abi == "none"):  # macOS had `none` until 2.9
        return None
    return f"{match[1]}.{match[2]}{'t' if abi.endswith('t') else ''}"
