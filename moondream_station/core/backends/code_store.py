"""Backend code in the home: `backends/ID/VERSION/CONTENT/`, each with a record of what it is.

CONTENT is named by the files and by what the manifest says of them, so that code of another content never
takes the place of what runs; `commit.json` names the place that its worker runs. The record lies inside the
folder, so that both appear with one rename and neither exists without the other. A station before this one
put the code into `backends/ID/VERSION/` itself; it is read there for as long as a commit names it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from moondream_station.core.backends.manifest import REQUIREMENTS, BackendInfo
from moondream_station.core.builds.requirements import (
    NOTHING,
    Allowances,
    Requirements,
    decode_requirements,
    parse_requirements,
)
from moondream_station.core.facts.errors import BackendUnavailable
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import (
    not_a_file,
    open_file,
    read_file,
    read_record,
    remove_tree,
    sync_folder,
    sync_tree,
    write_atomically,
)

FORMAT: Final = "moondream-station/backend/1"
RECORD: Final = ".moondream-station.json"
_MAX_REQUIREMENTS_BYTES: Final = 1 << 20
_NAME_DIGITS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendCode:
    """A backend's folder, which nobody changes while it is used, and what the manifest says about it."""

    id: str
    version: str
    folder: Path
    entry_module: str
    functions: tuple[str, ...]
    """What may be called over HTTP."""
    requirements_text: str
    """The content of the file that lists its requirements, empty where it has none."""
    digest: str
    """sha256 over the names and contents of its files, 64 hex digits."""
    place: str = ""
    """The folder below the home's `backends`, as `commit.json` names it; empty outside of the home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRecord:
    """What was put into the home, where it came from, and what the manifest said of it."""

    format: str = FORMAT
    source: str
    """sha256 of the URL for the network, which is not asked twice, and of the content for files."""
    archive_sha256: str | None
    digest: str
    """sha256 over the files as they were put there."""
    entry_module: str
    functions: tuple[str, ...]
    requirements: str = REQUIREMENTS


def read_backend(home: Home, place: str) -> BackendCode | None:
    """Code at a place below `backends` ("ID/VERSION/CONTENT", or "ID/VERSION"); None where it is not whole.

    Nothing is fetched or compared with its source: a model that was installed works offline.
    """
    folder = home.backends / place
    record = _record_of(folder)
    backend_id, version, *content = place.split("/")
    others = () if content else _nested(folder)
    try:
        is_whole = record is not None and digest_of(folder, others) == record.digest
    except OSError:  # a file that can't be read is as good as gone
        return None
    if record is None or not is_whole:
        return None
    return code_in(folder, record, backend_id, version, place=place)


def _record_of(folder: Path) -> CodeRecord | None:
    """The record of a folder, None where there is none that can be used: the folder is taken again."""
    with suppress(ValueError, OSError):
        return read_record(folder / RECORD, CodeRecord, FORMAT)
    return None


def find_code(home: Home, backend_id: str, version: str) -> list[tuple[str, CodeRecord]]:
    """The code that is in the home of a backend's version, whole or not: its place and its record."""
    version_folder = home.backends / backend_id / version
    places = [version_folder, *sorted(path.parent for path in version_folder.glob(f"*/{RECORD}"))]
    records = ((folder.relative_to(home.backends).as_posix(), _record_of(folder)) for folder in places)
    return [(place, record) for place, record in records if record is not None]


def put(home: Home, folder: Path, record: CodeRecord, backend_id: str, version: str) -> BackendCode:
    """Move a filled folder to the place that its content names. What is there already, and whole, stays."""
    code_in(folder, record, backend_id, version)
    name = f"{backend_id}/{version}/{_name(record)}"
    place = home.backends / name
    kept = read_backend(home, name)
    if kept is not None:  # taken from elsewhere this time
        write_atomically(place / RECORD, _record_text(record))
        return kept
    (folder / RECORD).write_text(_record_text(record), encoding="utf-8")
    folder.chmod(0o755)
    sync_tree(folder)
    place.parent.mkdir(exist_ok=True)
    remove_tree(place)
    folder.rename(place)
    sync_folder(place.parent)
    sync_folder(place.parent.parent)
    return code_in(place, record, backend_id, version, place=name)


def unnamed_code(home: Home, places: AbstractSet[str]) -> Iterator[Path]:
    """The folders and files in `backends` that belong to none of the places that commits name."""
    named = {home.backends / place for place in places}
    for version in sorted(home.backends.glob("*/*")):
        inside = {path for path in named if path.parent == version}
        if version in named:  # as an older station left it, with newer code in folders of their own
            yield from (path for path in sorted(_nested(version)) if path not in inside)
        elif inside:
            yield from (path for path in sorted(version.iterdir()) if path not in inside)
        else:
            yield version


def digest_of(folder: Path, others: Iterable[Path] = ()) -> str:
    """sha256 over the names and contents of a backend's files; compiled files and the record don't count."""
    total = hashlib.sha256()
    for path in _files(folder, frozenset(others)):
        name = path.relative_to(folder).as_posix()
        content = ""
        if not not_a_file(path):
            with open_file(path) as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{len(name)}:{name}:{content}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _files(folder: Path, others: AbstractSet[Path]) -> list[Path]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and Path(parent, name) not in others]
        files += [Path(parent, name) for name in names]
    return sorted(path for path in files if path != folder / RECORD)


def _nested(folder: Path) -> Iterator[Path]:
    """Other code in folders inside: an older station's place is where newer code has its folders."""
    return (path.parent for path in folder.glob(f"*/{RECORD}"))


def _name(record: CodeRecord) -> str:
    """What is made of the same files to serve other functions, or with other packages, is other code."""
    identity = [record.digest, record.entry_module, *record.functions]
    if record.requirements != REQUIREMENTS:
        identity.append(f"-r {record.requirements}")
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:_NAME_DIGITS]


def code_in(
    folder: Path, record: CodeRecord, backend_id: str, version: str, *, place: str = ""
) -> BackendCode:
    """The code in a folder; `place` as in `BackendCode`."""
    entry = folder / f"{record.entry_module}.py"
    if not entry.is_file():
        raise BackendUnavailable(
            f"The backend {backend_id} {version} has no {entry.name} at its top level.",
            hint="The manifest's `entry_module` names the module that has the functions.",
        )
    return BackendCode(
        id=backend_id,
        version=version,
        folder=folder,
        entry_module=record.entry_module,
        functions=record.functions,
        requirements_text=_requirements(folder, record.requirements, backend_id),
        digest=record.digest,
        place=place,
    )


def _requirements(folder: Path, name: str, backend_id: str) -> str:
    path = folder / name
    if not path.is_file() and name == REQUIREMENTS:
        return ""
    try:
        if path.stat().st_size > _MAX_REQUIREMENTS_BYTES:
            raise BackendUnavailable(
                f"{name} of the backend {backend_id} is larger than 1 MiB.",
                hint="It should hold one line a package: check that it is the right file.",
            )
        return decode_requirements(read_file(path))
    except FileNotFoundError as error:
        raise BackendUnavailable(
            f"The backend {backend_id} has no {name}.", hint="Correct `requirements` in the manifest."
        ) from error
    except ValueError as error:
        raise BackendUnavailable(
            f"{name} of the backend {backend_id} can't be read: {error}.", hint="Save it as UTF-8."
        ) from error


def _record_text(record: CodeRecord) -> str:
    data = asdict(record)
    if record.requirements == REQUIREMENTS:
        del data["requirements"]  # which older stations do not read
    return f"{json.dumps(data, indent=1)}\n"


def requirements_of(code: BackendCode, info: BackendInfo | None) -> Requirements:
    """The requirements of a backend's code; without `info` nothing is allowed beside names and versions."""
    return read_requirements(code.requirements_text, info, folder=code.folder, backend=code.id)


def read_requirements(text: str, info: BackendInfo | None, *, folder: Path, backend: str) -> Requirements:
    """The requirements in the text of a backend's file of them."""
    name, allowed = REQUIREMENTS, NOTHING
    if info is not None:
        name, allow = info.requirements, info.allow
        files = {name: _content(folder / name, backend) for name in allow.files}
        allowed = Allowances(builds=frozenset(allow.builds), urls=frozenset(allow.urls), files=files)
    return parse_requirements(text.splitlines(), origin=f"{name} of {backend}", allowed=allowed)


def _content(path: Path, backend: str) -> str:
    """Links inside a backend's folder lead nowhere else: what is taken of it has none."""
    try:
        return decode_requirements(read_file(path))
    except (OSError, ValueError) as error:
        raise BackendUnavailable(
            f"The backend {backend} has no readable {path.name}, which the manifest allows.",
            hint="Correct `allow.files` in the manifest.",
        ) from error
