"""Wheels of packages that are installed, packed again from the files that their RECORDs name."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PathDistribution
from io import StringIO
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from packaging.tags import parse_tag
from packaging.utils import canonicalize_name

from moondream_station.core.environments.packages import Package

_OF_THE_INSTALLER = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}
_CHUNK_BYTES = 1 << 22


def needed_by(
    names: Iterable[str], packages: Mapping[str, Package], markers: Mapping[str, str]
) -> list[Package]:
    """The packages of these names with all that they need in turn, by normalized name.

    Raises:
        LookupError: One of them is not installed, or not whole.
    """
    needed: dict[str, Package] = {}
    asked = [(name, frozenset[str]()) for name in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    for name, extras in asked:  # grows on the way
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        package = packages.get(name)
        if package is None:
            raise LookupError(f"{name} is not installed")
        if package.damage:
            raise LookupError(f"{name} is not whole: {package.damage[0]}")
        needed[name] = package
        asked += [
            (canonicalize_name(need.name), frozenset(need.extras)) for need in package.needs(markers, extras)
        ]
    return [needed[name] for name in sorted(needed)]


def filename_of(package: Package) -> str:
    """The name of a package's wheel, with all the tags that it was made for."""
    text = PathDistribution(package.metadata).read_text("WHEEL") or ""
    lines = [line.removeprefix("Tag:").strip() for line in text.splitlines() if line.startswith("Tag:")]
    tags = [tag for line in lines for tag in parse_tag(line)]
    if not tags:
        raise LookupError(f"{package.name} was not installed from a wheel")
    parts = zip(*((tag.interpreter, tag.abi, tag.platform) for tag in tags), strict=True)
    suffix = "-".join(".".join(sorted(set(part))) for part in parts)
    return f"{package.metadata.name.removesuffix('.dist-info')}-{suffix}.whl"


def pack(package: Package, folder: Path) -> Path:
    """Write the wheel of an installed package into a folder; nothing is compressed, for speed."""
    path = folder / filename_of(package)
    text = StringIO()
    rows = csv.writer(text, lineterminator="\n")
    with ZipFile(path, "w", ZIP_STORED) as archive:
        for name, source in _contents(package):
            digest, size = _add(archive, name, source)
            rows.writerow((name, f"sha256={digest}", size))
        record = f"{package.metadata.name}/RECORD"
        rows.writerow((record, "", ""))
        archive.writestr(ZipInfo(record), text.getvalue())
    return path


def _contents(package: Package) -> Iterator[tuple[str, Path]]:
    """Each file's name in the wheel, and where it is; but for what an installer makes itself."""
    site, info = package.metadata.parent, package.metadata.name
    prefix = site.parents[0 if site.parent.name == "Lib" else 2]
    programs = {entry.name for entry in PathDistribution(package.metadata).entry_points}
    with (package.metadata / "RECORD").open(encoding="utf-8", newline="") as file:
        names = [row[0] for row in csv.reader(file) if row]
    for name in names:
        source = Path(os.path.normpath(site / name))
        if name.endswith(".pyc") or (source.parent.name == info and source.name in _OF_THE_INSTALLER):
            continue
        if source.is_relative_to(site):
            yield source.relative_to(site).as_posix(), source
        elif source.parent.name in {"bin", "Scripts"}:
            if source.stem not in programs and source.name not in programs:
                yield f"{info.removesuffix('.dist-info')}.data/scripts/{source.name}", source
        else:
            data = source.relative_to(prefix).as_posix()
            yield f"{info.removesuffix('.dist-info')}.data/data/{data}", source


def _add(archive: ZipFile, name: str, source: Path) -> tuple[str, int]:
    """Add a file, and give its hash as RECORDs have it, and its size."""
    entry = ZipInfo(name)
    entry.external_attr = (stat.S_IFREG | stat.S_IMODE(source.stat().st_mode)) << 16
    sha256, size = hashlib.sha256(), 0
    with source.open("rb") as file, archive.open(entry, "w", force_zip64=True) as copy:
        while chunk := file.read(_CHUNK_BYTES):
            copy.write(chunk)
            sha256.update(chunk)
            size += len(chunk)
    return base64.urlsafe_b64encode(sha256.digest()).rstrip(b"=").decode(), size
