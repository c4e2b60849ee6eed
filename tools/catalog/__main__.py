"""`python -m tools.catalog`: compares the catalog with indexes, or reads what wheels on this disk say."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import httpx2
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog, load_catalog
from moondream_station.core.builds.naming import parse_build
from moondream_station.core.index.listing import ListedFile
from moondream_station.core.packaging.packaging_config import PYPI_URL
from tools.catalog.difference import Fitting, code_rows, differences, new_releases
from tools.catalog.wheels import (
    Listings,
    SeenWheel,
    read_insides,
    refused_pythons,
    torch_and_build,
    torch_of,
    torch_wheels,
)

COMPANIONS = ("torchvision", "torchaudio")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the differences; 0 where there are none, 1 where there are, 2 where nothing answered."""
    options = _options(arguments)
    catalog = load_catalog()
    if options.wheel:
        return max([_inside(wheel, catalog, options.pypi_build) for wheel in options.wheel])
    with httpx2.Client(follow_redirects=True, timeout=60.0) as client:
        listings = Listings(client)
        seen, answered = _seen(listings, options, catalog)
        torches = {wheel.torch for wheel in seen} | {row.torch for row in catalog.rows}
        newer = [torch for torch in torches if Version(torch) >= options.since]
        pythons = _pythons_by_torch(seen, catalog)
        companions = {name: _companions(listings, options.pypi, name, newer, pythons) for name in COMPANIONS}
    for problem in listings.unanswered:
        print(problem, file=sys.stderr)
    if not answered:
        print("No index answered; nothing was compared.", file=sys.stderr)
        return 2
    seen = [wheel for wheel in seen if Version(wheel.torch) >= options.since]
    lines = [
        line
        for line in differences(seen, catalog=catalog, answered=answered, companions=companions)
        if Version(line.split()[1].rstrip(":")) >= options.since
    ]
    rows = new_releases(seen, catalog=catalog, companions=companions)
    pages = "1 page lists" if len(answered) == 1 else f"{len(answered)} pages list"
    print("\n".join(lines) or f"The catalog says what {pages}.")
    if rows:
        print(f"\n# Rows for review: add date, evidence beyond `index`, `without` and `cpu_only`.\n\n{rows}")
    return 1 if lines else 0


def _inside(wheel: Path, catalog: Catalog, pypi_build: str | None) -> int:
    """Print what a wheel says of itself, and where its code differs from the catalog; the exit code."""
    try:
        insides = read_insides(wheel)
        torch, build, platform = torch_and_build(wheel, catalog, pypi_build)
    except (OSError, ValueError, BadZipFile) as error:
        print(f"{wheel}: {error}", file=sys.stderr)
        return 2
    print(f"{wheel.name}: {' '.join(insides.version) or 'no torch/version.py'}")
    print(f"  torch's own code: {' '.join(insides.codes) or 'none'}")
    print(f"  rocBLAS' code: {' '.join(insides.rocblas) or 'none'}")
    lines = code_rows(torch, build, platform, insides, catalog)
    print("\n".join(f"  {line}" if line else "" for line in lines) or "  The catalog says the same.")
    return 1 if lines else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.catalog", description=__doc__)
    parser.add_argument("--index", help="base URL of PyTorch's download index; the catalog's own by default")
    parser.add_argument("--pypi", default=PYPI_URL, help="base URL of the ordinary index")
    parser.add_argument(
        "--vendor", action="append", default=[], metavar="NAME=URL", help="where one of AMD's indexes is"
    )
    parser.add_argument("--build", action="append", default=[], help="look for this build too (repeatable)")
    parser.add_argument(
        "--pypi-build", help="the build that PyPI's wheels for Linux are, for a torch the catalog lacks"
    )
    parser.add_argument("--since", type=Version, default=Version("2.0"), help="compare from this torch on")
    parser.add_argument(
        "--wheel", action="append", default=[], type=Path, help="read this torch wheel instead (repeatable)"
    )
    return parser.parse_args(arguments)


def _seen(
    listings: Listings, options: argparse.Namespace, catalog: Catalog
) -> tuple[list[SeenWheel], list[str]]:
    base = (options.index or catalog.index).rstrip("/")
    paths = {row.path: row.build for row in catalog.rows if row.path is not None}
    paths |= {build: build for build in options.build if parse_build(build) is not None}
    seen: list[SeenWheel] = []
    answered: list[str] = []
    pages: list[tuple[str, str, str | None]] = [("pypi", f"{options.pypi.rstrip('/')}/torch/", None)]
    pages += [(path, f"{base}/{path}/torch/", build) for path, build in sorted(paths.items())]
    for name, url, build in pages:
        files = listings.files(url)
        if files is not None:
            answered.append(name)
            seen += torch_wheels(files, catalog=catalog, build=build, pypi_build=options.pypi_build)
    elsewhere = dict(text.split("=", 1) for text in options.vendor if "=" in text)
    for vendor, url in catalog.vendor_indexes.items():
        files = listings.files(f"{elsewhere.get(vendor, url).rstrip('/')}/torch/")
        if files is not None:
            answered.append(url)
            seen += torch_wheels(files, catalog=catalog, build="", vendor=vendor)
    return seen, answered


def _pythons_by_torch(seen: Iterable[SeenWheel], catalog: Catalog) -> dict[str, set[str]]:
    """The Pythons of every torch, as the indexes and the catalog have them."""
    pythons: dict[str, set[str]] = defaultdict(set)
    for row in catalog.rows:
        pythons[row.torch].update(row.pythons)
    for wheel in seen:
        pythons[wheel.torch].add(wheel.python)
    return pythons


def _companions(
    listings: Listings, pypi: str, name: str, torches: Iterable[str], pythons: Mapping[str, set[str]]
) -> dict[str, Fitting]:
    """The releases of a companion by the torch that one wheel's metadata asks for, newest first."""
    by_torch: dict[str, list[str]] = defaultdict(list)
    releases = _newest_first(listings.files(f"{pypi.rstrip('/')}/{name}/") or ())
    wanted = set(torches)
    for version, files in releases.items():
        metadata = listings.metadata(files[0])
        specifier = torch_of(metadata) if metadata else None
        if specifier is None:
            continue
        fitting = [torch for torch in wanted if specifier.contains(torch)]
        for torch in fitting:
            by_torch[torch].append(version)
        if wanted and _is_older(specifier, wanted):
            break  # older releases are for older ones
    fits: dict[str, Fitting] = {}
    for torch, found in by_torch.items():
        tried = [
            f"{python}.{patch}"
            for python in sorted(pythons[torch])
            if "t" not in python
            for patch in range(5)
        ]
        refused = refused_pythons([file for one in found for file in releases[one]], tried)
        fits[torch] = Fitting(releases=tuple(found), pythons=tuple(tried), refused=refused)
    return fits


def _is_older(specifier: SpecifierSet, torches: Iterable[str]) -> bool:
    """Whether a release is pinned to a torch before all of these."""
    pins = [Version(one.version) for one in specifier if one.operator == "=="]
    return bool(pins) and max(pins) < min(map(Version, torches))


def _newest_first(files: Iterable[ListedFile]) -> dict[str, list[ListedFile]]:
    """The wheels of each release."""
    wheels: dict[Version, list[ListedFile]] = defaultdict(list)
    for file in files:
        try:
            _, version, _, _ = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        if not file.yanked and not version.is_prerelease:
            wheels[version].append(file)
    return {str(version): wheels[version] for version in sorted(wheels, reverse=True)}


if __name__ == "__main__":
    sys.exit(main())
