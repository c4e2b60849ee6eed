"""`python -m tools.catalog`: compares the catalog with indexes, or reads what wheels on this disk say."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import httpx2
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog, load_catalog
from moondream_station.core.builds.naming import parse_build
from moondream_station.core.index.listing import ListedFile
from moondream_station.core.packaging.packaging_config import PYPI_URL
from tools.catalog.difference import differences, new_releases
from tools.catalog.wheels import Listings, SeenWheel, read_insides, torch_of, torch_wheels

COMPANIONS = ("torchvision", "torchaudio")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the differences; 0 where there are none, 1 where there are, 2 where nothing answered."""
    options = _options(arguments)
    for wheel in options.wheel:
        insides = read_insides(wheel)
        print(f"{wheel.name}: {' '.join(insides.version) or 'no torch/version.py'}")
        print(f"  torch's own code: {' '.join(insides.codes) or 'none'}")
        print(f"  rocBLAS' code: {' '.join(insides.rocblas) or 'none'}")
    if options.wheel:
        return 0
    catalog = load_catalog()
    with httpx2.Client(follow_redirects=True, timeout=60.0) as client:
        listings = Listings(client)
        seen, answered = _seen(listings, options, catalog)
        companions = {
            name: _companions(listings, options.pypi, name, since=options.since) for name in COMPANIONS
        }
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
    print("\n".join(lines) or f"The catalog says what {len(answered)} pages list.")
    if rows:
        print(f"\n# Rows for review: add date, evidence beyond `index`, `without` and `cpu_only`.\n\n{rows}")
    return 1 if lines else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.catalog", description=__doc__)
    parser.add_argument("--index", help="base URL of PyTorch's download index; the catalog's own by default")
    parser.add_argument("--pypi", default=PYPI_URL, help="base URL of the ordinary index")
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
    return seen, answered


def _companions(listings: Listings, pypi: str, name: str, *, since: Version) -> dict[str, list[str]]:
    """The releases of a companion by the torch that one wheel's metadata names, newest first."""
    by_torch: dict[str, list[str]] = defaultdict(list)
    files = _newest_first(listings.files(f"{pypi.rstrip('/')}/{name}/") or ())
    for version, file in files.items():
        metadata = listings.metadata(file)
        torch = torch_of(metadata) if metadata else None
        if torch is not None:
            if Version(torch) < since:
                break  # older releases are for older ones
            by_torch[torch].append(version)
    return dict(by_torch)


def _newest_first(files: Iterable[ListedFile]) -> dict[str, ListedFile]:
    """One wheel of each release."""
    wheels: dict[Version, ListedFile] = {}
    for file in files:
        try:
            _, version, _, _ = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        if not file.yanked and not version.is_prerelease:
            wheels.setdefault(version, file)
    return {str(version): wheels[version] for version in sorted(wheels, reverse=True)}


if __name__ == "__main__":
    sys.exit(main())
