"""Backend code in the home: `backends/ID/VERSION/`, each with a record of what it is.

The record lies inside the folder, so that both appear with one rename and neither exists without the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from moondream_station.core.backends.backend_code import BackendCode
from moondream_station.core.facts.errors import BackendUnavailable
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import read_json, remove_tree, sync_folder, sync_tree

FORMAT: Final = "moondream-station/backend/1"
RECORD: Final = ".moondream-station.json"
_MAX_REQUIREMENTS_BYTES: Final = 1 << 20
_TEMPORARY: Final = ".new-"
_REPLACED: Final = ".old-"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRecord:
    """What was put into the home, and where it came from.

    Args:
        source: sha256 of what it was taken from: of the location's text for the network, which is not asked
            twice, and of the contents for files, which are.
        archive_sha256: The archive's digest, None for a folder.
        digest: sha256 over the files as they were put there.
        entry_module: As the manifest said.
        functions: As the manifest said.
    """

    source: str
    archive_sha256: str | None
    digest: str
    entry_module: str
    functions: tuple[str, ...]


def read_backend(home: Home, backend_id: str, version: str) -> BackendCode | None:
    """A backend's code as it lies in the home; None where it is not there, or not whole.

    Nothing is fetched or compared with where it came from: a model that was installed works offline.
    """
    folder = _folder(home, backend_id, version)
    record = read_record(folder)
    if record is None or digest_of(folder) != record.digest:
        return None
    return _code(folder, record, backend_id, version)


def read_record(folder: Path) -> CodeRecord | None:
    """The record of a folder, None where there is none that can be used."""
    try:
        data = read_json(folder / RECORD)
    except (ValueError, OSError):
        return None  # torn or unreadable: the folder is taken anew
    return _record_from(data)


@contextmanager
def new_folder(home: Home, backend_id: str) -> Iterator[Path]:
    """A fresh folder on the home's file system; what is still in it at the end is removed."""
    parent = home.backends / backend_id
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"{_TEMPORARY}{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove_tree(folder)


def put(home: Home, folder: Path, record: CodeRecord, backend_id: str, version: str) -> BackendCode:
    """Move a filled folder to its place, replacing what was there; at every instant one of them is whole.

    Raises:
        BackendUnavailable: It is no backend.
        OSError: The home can't be written.
    """
    _code(folder, record, backend_id, version)
    (folder / RECORD).write_text(_record_text(record), encoding="utf-8")
    folder.chmod(0o755)
    sync_tree(folder)
    place = _folder(home, backend_id, version)
    replaced = place.with_name(f"{_REPLACED}{version}")
    if place.exists():
        remove_tree(replaced)
        place.rename(replaced)
    folder.rename(place)
    sync_folder(place.parent)
    remove_tree(replaced)
    return _code(place, record, backend_id, version)


def sweep(home: Home) -> None:
    """Remove what an interrupted run left half done. Only while holding `activation.lock`."""
    if not home.backends.is_dir():
        return
    for parent in home.backends.iterdir():
        for folder in parent.iterdir() if parent.is_dir() else ():
            if folder.name.startswith((_TEMPORARY, ".trash-")):
                remove_tree(folder)
            elif folder.name.startswith(_REPLACED):
                _settle(folder, parent / folder.name.removeprefix(_REPLACED))


def version_in(folder: Path) -> str:
    """The version whose code a folder below a backend's is; its own name for what was never finished.

    That of a replacement which was interrupted between its two renames is still the one.
    """
    version = folder.name.removeprefix(_REPLACED)
    return folder.name if folder.with_name(version).exists() else version


def digest_of(folder: Path) -> str:
    """sha256 over the names and contents of a backend's files; compiled files and the record don't count."""
    total = hashlib.sha256()
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{len(name)}:{name}:{content}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _settle(replaced: Path, place: Path) -> None:
    """A replacement was interrupted between its two renames: the old one is still the one."""
    if place.exists():
        remove_tree(replaced)
    else:
        replaced.rename(place)


def _folder(home: Home, backend_id: str, version: str) -> Path:
    place = home.backends / backend_id / version
    replaced = place.with_name(f"{_REPLACED}{version}")
    if not place.exists() and replaced.exists():
        return replaced
    return place


def _files(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [Path(parent, name) for name in names]
    return sorted(path for path in found if path != folder / RECORD)


def _code(folder: Path, record: CodeRecord, backend_id: str, version: str) -> BackendCode:
    entry = folder / f"{record.entry_module}.py"
    if not entry.is_file():
        raise BackendUnavailable(
            f"The backend {backend_id} {version} has no {entry.name} at its top.",
            hint="The manifest's `entry_module` names the module that has the functions.",
        )
    return BackendCode(
        id=backend_id,
        version=version,
        folder=folder,
        entry_module=record.entry_module,
        functions=record.functions,
        requirements_text=_requirements(folder, backend_id),
        digest=record.digest,
    )


def _requirements(folder: Path, backend_id: str) -> str:
    path = folder / "requirements.txt"
    if not path.is_file():
        return ""
    if path.stat().st_size > _MAX_REQUIREMENTS_BYTES:
        raise BackendUnavailable(
            f"requirements.txt of the backend {backend_id} is larger than 1 MiB.",
            hint="It holds a line a package: look whether it is the right file.",
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BackendUnavailable(
            f"requirements.txt of the backend {backend_id} is not UTF-8: byte {error.start}: {error.reason}.",
            hint="Save it as UTF-8.",
        ) from error


def _record_text(record: CodeRecord) -> str:
    data = {
        "format": FORMAT,
        "source": record.source,
        "archive_sha256": record.archive_sha256,
        "digest": record.digest,
        "entry_module": record.entry_module,
        "functions": list(record.functions),
    }
    return json.dumps(data, indent=1) + "\n"


def _record_from(data: Any) -> CodeRecord | None:
    match data:
        case {
            "format": "moondream-station/backend/1",
            "source": str(source),
            "archive_sha256": str() | None as archive,
            "digest": str(digest),
            "entry_module": str(module),
            "functions": [*functions],
        }:
            return CodeRecord(
                source=source,
                archive_sha256=archive,
                digest=digest,
                entry_module=module,
                functions=tuple(map(str, functions)),
            )
        case _:
            return None
