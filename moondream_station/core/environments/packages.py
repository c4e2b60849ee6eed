"""Which packages an environment has, and whether they are whole by their RECORDs and fit each other.

uv writes a package's metadata before its files, so an installation that was killed looks complete to uv and
to pip. `__pycache__` is not looked at: Python writes it, and no RECORD of a wheel names it.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.message import Message
from email.parser import HeaderParser
from functools import cached_property
from importlib.metadata import PathDistribution
from io import TextIOWrapper
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from moondream_station.core.facts.errors import EnvironmentBroken
from moondream_station.core.home.storage import is_shortage, not_a_file, open_file

_WHEEL = ".dist-info"
_OLDER = ".egg-info"
_NAMED_AT_MOST = 3
_COLUMNS = 3
_READ_AT_MOST_BYTES = 1 << 20
_MAY_LEAD_OUTSIDE = re.compile(r"\A[/\\]|\.\.|:")


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

        What was installed without a wheel has no RECORD, and is taken for whole. Bytecode is not looked at:
        pip names it in RECORD, and anybody may remove it.
        """
        if self.is_doubled:
            return (f"{self.name} is installed in several versions",)
        if self.metadata.suffix != _WHEEL:
            return ()
        problems: list[str] = []
        rows = [row for row in _read_record(self.metadata, problems) if not row[0].endswith(".pyc")]
        return (*problems, *_file_problems(None, self.metadata.parent, rows))

    @cached_property
    def requires(self) -> tuple[Requirement, ...]:
        """What it needs, with markers and extras as its metadata say."""
        if not self._headers:
            return ()  # damaged, which counts by itself
        is_wheel = self.metadata.suffix == _WHEEL
        texts = (
            self._headers.get_all("Requires-Dist") if is_wheel else PathDistribution(self.metadata).requires
        )
        requirements = []
        for text in texts or ():
            try:
                requirements.append(Requirement(text))
            except InvalidRequirement:
                continue  # of old packages; pip passes over them too
        return tuple(requirements)

    @cached_property
    def python(self) -> SpecifierSet:
        """The versions of Python that it is for."""
        try:
            return SpecifierSet(self._headers.get("Requires-Python", ""))
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
    def _headers(self) -> Message:
        return _headers_of(self.metadata)

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


def _headers_of(metadata: Path) -> Message:
    """A package's metadata; empty where nothing can be read."""
    for path in (metadata / "METADATA", metadata / "PKG-INFO", metadata):
        with suppress(OSError, UnicodeDecodeError):
            # Without the description, which is most of it: parsing those of 180 packages took 0.3 s.
            return HeaderParser().parsestr(path.read_text(encoding="utf-8").partition("\n\n")[0])
    return Message()


def check_records(venv: Path, packages: Mapping[str, str]) -> int:
    """How many files the RECORDs name; each must be there in its size, and exactly `packages` installed.

    `packages` is version by normalized name. About 0.1 s for 19,000 files; nothing is read but the RECORDs.
    """
    folders = list(_dist_infos(venv))
    problems = list(_package_problems(folders, packages))
    count = 0
    for folder in folders:
        rows = _read_record(folder, problems)
        count += len(rows)
        problems += _file_problems(venv.resolve(), folder.parent, rows)
    if problems:
        named = "; ".join(problems[:_NAMED_AT_MOST])
        more = f"; and {len(problems) - _NAMED_AT_MOST} more" if len(problems) > _NAMED_AT_MOST else ""
        raise EnvironmentBroken(f"The environment {venv.parent.name} is damaged: {named}{more}.")
    return count


def own_files(venv: Path) -> dict[str, str]:
    """What a virtual environment has beside its packages, and what is in it: `pyvenv.cfg`, links and scripts.

    A link is told by where it leads, a large file by its size alone.
    """
    programs = venv / ("Scripts" if sys.platform == "win32" else "bin")
    paths = [venv / "pyvenv.cfg", *(programs.iterdir() if programs.is_dir() else ())]
    return {
        path.relative_to(venv).as_posix(): _content(path)
        for path in paths
        if path.is_symlink() or path.is_file()
    }


def rewritten_files(venv: Path, since_ns: int) -> tuple[str, ...]:
    """The files that were written after a moment and whose content is not what their package's RECORD says.

    An environment is never changed after its commit, so most often there is nothing to read. A change that
    kept its file's times is not detected, and a file that is missing is the matter of `check_records`.
    """
    return tuple(
        row[0]
        for folder in _dist_infos(venv)
        for row in _read_record(folder, [])
        if len(row) > 1 and row[1].startswith("sha256=")
        if _is_rewritten(folder.parent / row[0], row[1], since_ns)
    )


def _is_rewritten(path: Path, expected: str, since_ns: int) -> bool:
    try:
        if os.stat(path).st_mtime_ns <= since_ns:  # noqa: PTH116  pathlib costs three times as much here
            return False
    except FileNotFoundError:
        return False
    if not_a_file(path):
        return True
    with path.open("rb") as file:
        digest = base64.urlsafe_b64encode(hashlib.file_digest(file, "sha256").digest())
    return digest.rstrip(b"=").decode() != expected.removeprefix("sha256=")


def owner_of(venv: Path, name: str) -> str | None:
    """The package whose RECORD names a file of the environment, None where none does."""
    for folder in _dist_infos(venv):
        for row in _read_record(folder, []):
            if os.path.normpath(folder.parent / row[0]) == str(venv / name):
                return folder.name.removesuffix(".dist-info").replace("-", " ")
    return None


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link:{path.readlink()}"
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode) & 0o111
    if not stat.S_ISREG(status.st_mode) or status.st_size > _READ_AT_MOST_BYTES:
        return f"{mode:o}:{status.st_size}"
    return f"{mode:o}:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def changed_names(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Which of the files were lost or changed; what came in addition does no harm."""
    return tuple(name for name, content in before.items() if after.get(name) != content)


def site_packages_of(venv: Path) -> Iterator[Path]:
    """The folders of a virtual environment that packages are in."""
    for pattern in ("lib/python*/site-packages", "lib64/python*/site-packages", "Lib/site-packages"):
        for site_packages in sorted(venv.glob(pattern)):
            if not any(part.is_symlink() for part in (site_packages, *site_packages.parents[:2])):
                yield site_packages


def _dist_infos(venv: Path) -> Iterator[Path]:
    for site_packages in site_packages_of(venv):
        yield from sorted(site_packages.glob("*.dist-info"))


def _package_problems(folders: list[Path], packages: Mapping[str, str]) -> Iterator[str]:
    expected = {(canonicalize_name(name), Version(version)) for name, version in packages.items()}
    installed = set()
    for folder in folders:
        name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
        try:
            installed.add((canonicalize_name(name), Version(version)))
        except InvalidVersion:
            yield f"{folder.name} names no version"
    for name, parsed in sorted(expected - installed):
        yield f"{name} {parsed} is missing"
    for name, parsed in sorted(installed - expected):
        yield f"{name} {parsed} is not in the lock"


def _read_record(folder: Path, problems: list[str]) -> list[list[str]]:
    record = folder / "RECORD"
    try:
        with TextIOWrapper(open_file(record), encoding="utf-8", newline="") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if is_shortage(error):
            raise
        problems.append(f"{folder.name}/RECORD can't be read ({error})")
        return []


def _file_problems(venv: Path | None, site_packages: Path, rows: list[list[str]]) -> Iterator[str]:
    base = str(site_packages.resolve())
    root = f"{venv}{os.sep}" if venv is not None else ""
    is_inside = base.startswith(root)
    for row in rows:
        if len(row) != _COLUMNS:
            yield f"a RECORD has the row {row!r}"
            continue
        path, _, size = row
        # Nearly every path is a plain one below: the two calls for the others cost as much as all the rest.
        full = f"{base}{os.sep}{path}"
        if not is_inside or _MAY_LEAD_OUTSIDE.search(path):
            full = os.path.normpath(os.path.join(base, path))  # noqa: PTH118  pathlib costs three times as much
            if not full.startswith(root):
                yield f"{path} lies outside"
                continue
        try:
            status = os.stat(full)  # noqa: PTH116  as above
        except OSError:
            yield f"{path} is missing"
            continue
        if not stat.S_ISREG(status.st_mode) or (size and str(status.st_size) != size):
            yield f"{path} has {status.st_size} bytes instead of {size}"
