"""Which packages an interpreter has, whether they are whole, and whether they fit each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.parser import HeaderParser
from functools import cached_property
from importlib.metadata import PathDistribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from moondream_station.core.environments.records import damage_of

_WHEEL = ".dist-info"
_OLDER = ".egg-info"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that is installed, whole or not."""

    name: str
    version: Version
    metadata: Path
    """Its folder of metadata; a file for some of the oldest kind."""
    is_doubled: bool = False
    """Whether metadata of another version lie beside it, as an update that was killed leaves it."""

    @cached_property
    def damage(self) -> tuple[str, ...]:
        """What of it is not as its RECORD says; empty for a whole one.

        What was installed without a wheel has no RECORD, and is taken for whole.
        """
        if self.is_doubled:
            return (f"{self.name} is installed in several versions",)
        return damage_of(self.metadata) if self.metadata.suffix == _WHEEL else ()

    @cached_property
    def requires(self) -> tuple[Requirement, ...]:
        """What it needs, with markers and extras as its metadata say."""
        if not _headers_of(self.metadata):
            return ()  # damaged, which counts by itself
        requirements = []
        for text in PathDistribution(self.metadata).requires or ():
            try:
                requirements.append(Requirement(text))
            except InvalidRequirement:
                continue  # of old packages; pip passes over them too
        return tuple(requirements)

    @cached_property
    def python(self) -> SpecifierSet:
        """The versions of Python that it is for."""
        try:
            return SpecifierSet(_headers_of(self.metadata).get("Requires-Python", ""))
        except InvalidSpecifier:
            return SpecifierSet()  # pip passes over it too

    def needs(self, markers: Mapping[str, str], extras: Iterable[str] = ()) -> list[Requirement]:
        """What it needs in an environment with these markers, and with these extras of its own."""
        environments = [{**markers, "extra": extra} for extra in ("", *extras)]
        return [
            needed
            for needed in self.requires
            if needed.marker is None or any(map(needed.marker.evaluate, environments))
        ]

    @cached_property
    def wheel(self) -> str | None:
        """The name of the wheel that it was installed from, None where that is not known."""
        text = PathDistribution(self.metadata).read_text("WHEEL") or ""
        tags = [line.removeprefix("Tag:").strip() for line in text.splitlines() if line.startswith("Tag:")]
        return f"{self.name.replace('-', '_')}-{self.version}-{tags[0]}.whl" if tags else None


def find_packages(paths: Iterable[str]) -> dict[str, Package]:
    """Every package on an interpreter's path, by normalized name; the first one of a name counts."""
    packages: dict[str, Package] = {}
    for path in paths:
        for package in _packages_in(Path(path)):
            known = packages.setdefault(package.name, package)
            if known.metadata.parent == package.metadata.parent and known.metadata != package.metadata:
                packages[package.name] = replace(known, is_doubled=True)
    return packages


def unmet_needs(packages: Mapping[str, Package], *, markers: Mapping[str, str]) -> Iterator[str]:
    """A clause for each need of a package that is not met by the others, as `pip check` looks for them."""
    for package in packages.values():
        who = f"{package.name} {package.version}"
        if not package.python.contains(markers["python_full_version"], prereleases=True):
            yield f"{who} is for Python {package.python}"
        for need in package.needs(markers):
            installed = packages.get(canonicalize_name(need.name))
            if installed is None:
                yield f"{who} needs {need.name}{need.specifier}, which is missing"
            elif not need.specifier.contains(installed.version, prereleases=True):
                yield f"{who} needs {need.name}{need.specifier}, which {installed.version} is not"


def _packages_in(folder: Path) -> Iterator[Package]:
    for suffix in (_WHEEL, _OLDER):
        for metadata in sorted(folder.glob(f"*{suffix}")):
            name, version = _name_and_version(metadata, suffix)
            try:
                yield Package(name=canonicalize_name(name), version=Version(version), metadata=metadata)
            except InvalidVersion:
                continue  # nothing that a requirement could be held against


def _name_and_version(metadata: Path, suffix: str) -> tuple[str, str]:
    """By the folder's name, which is there before its files are."""
    name, separator, version = metadata.name.removesuffix(suffix).partition("-")
    if suffix == _WHEEL and separator:
        return name, version
    headers = _headers_of(metadata)
    return headers.get("Name", name), headers.get("Version", version.partition("-")[0])


def _headers_of(metadata: Path) -> dict[str, str]:
    """A package's metadata, the last value of each; empty where nothing can be read."""
    for path in (metadata / "METADATA", metadata / "PKG-INFO", metadata):
        with suppress(OSError, UnicodeDecodeError):
            return dict(HeaderParser().parsestr(path.read_text(encoding="utf-8")).items())
    return {}
