"""Whether an environment is whole: every file that its packages' RECORDs name is there, in its size.

uv writes a package's metadata before its files, so an installation that was killed looks complete to uv and
to pip. `__pycache__` is not looked at: Python writes it, and no RECORD of a wheel names it.
"""

from __future__ import annotations

import base64
import csv
import errno
import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from moondream_station.core.facts.errors import EnvironmentBroken
from moondream_station.core.home.storage import not_a_file, open_file

_NAMED_AT_MOST = 3
_COLUMNS = 3
_READ_AT_MOST_BYTES = 1 << 20
_MAY_LEAD_OUTSIDE = re.compile(r"\A[/\\]|\.\.|:")


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
        raise EnvironmentBroken(f"The environment {venv.parent.name} is not whole: {named}{more}.")
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


def is_shortage(error: Exception) -> bool:
    """Whether an error says nothing about a file, but that too many are open."""
    return isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def changed_names(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Which of the files were lost or changed; what came in addition does no harm."""
    return tuple(name for name, content in before.items() if after.get(name) != content)


def damage_of(dist_info: Path) -> tuple[str, ...]:
    """What of one installed package is not as its RECORD says; empty for a whole one.

    Bytecode is not looked at: pip names it in RECORD, and anybody may remove it.
    """
    problems: list[str] = []
    rows = [row for row in _read_record(dist_info, problems) if not row[0].endswith(".pyc")]
    return (*problems, *_file_problems(None, dist_info.parent, rows))


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
