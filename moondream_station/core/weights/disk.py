"""What is known of a model's weights without a network: by a folder, by the hub's cache, by the home."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.errors import WeightsUnreachable
from moondream_station.core.home.layout import Home, expanded
from moondream_station.core.home.storage import open_file, read_file, read_record, write_atomically
from moondream_station.core.weights.contents import (
    INDEX,
    LENGTH_BYTES,
    Weights,
    WeightsFile,
    bytes_by_dtype,
    has_header,
    header_bytes,
    loaded_files,
    weights_of,
)

_FORMAT = "moondream-station/weights/1"
_CONFIG = "config.json"
_HUB = "https://huggingface.co"
_MAX_INDEX_BYTES = 32 << 20
_REPOSITORY = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w][\w./-]{0,199}", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_TRUE = {"1", "on", "yes", "true"}
_OTHER_FORMS = {".gguf", ".onnx", ".pt", ".pth", ".ckpt", ".npz", ".h5", ".msgpack"}
"""How the names of weights end that only their backend can tell to be whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSource:
    """Where a model's weights are: a folder, or a revision of a repository on Hugging Face's hub."""

    folder: Path | None = None
    repository: str = ""
    revision: str | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether it names the same weights for ever."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    @property
    def shown(self) -> str:
        """Its name, for people."""
        return self.repository or str(self.folder)


def source_of(args: Mapping[str, Any]) -> WeightsSource | None:
    """The source that a model's `args` name as `model_id` and `revision`; None where they name none.

    `revision_id` is Moondream Station 0.1's name for the latter.
    """
    model_id = args.get("model_id")
    if not isinstance(model_id, str) or not model_id or "\0" in model_id:
        return None
    folder = expanded(model_id)
    if os.path.isdir(folder) or folder.is_absolute():  # noqa: PTH112  pathlib's may raise
        return WeightsSource(folder=folder)
    revision = args.get("revision") or args.get("revision_id")
    is_usable = revision is None or (isinstance(revision, str) and _REVISION.fullmatch(revision))
    if not _REPOSITORY.fullmatch(model_id) or not is_usable or ".." in f"{model_id}/{revision}":
        return None
    return WeightsSource(repository=model_id, revision=revision)


def hub_address(environ: Mapping[str, str]) -> str:
    """Where the hub is: a mirror's address, or its own."""
    return (environ.get("HF_ENDPOINT") or _HUB).rstrip("/")


def is_offline(environ: Mapping[str, str]) -> bool:
    """Whether the hub's client asks for nothing."""
    return (environ.get("HF_HUB_OFFLINE") or environ.get("TRANSFORMERS_OFFLINE") or "").lower() in _TRUE


def model_cache(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders that Hugging Face's hub and torch's hub download to, as their variables say.

    In the order of huggingface_hub's constants.py, where HF_HUB_CACHE goes before HF_HOME, and HF_HOME before
    XDG_CACHE_HOME.
    """
    home = expanded(environ.get("HOME") or environ.get("USERPROFILE") or "~")
    caches = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    hugging_face = Path(environ.get("HF_HOME") or caches / "huggingface")
    named = (environ.get(name) for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_XET_CACHE"))
    torch = Path(environ.get("TORCH_HOME") or caches / "torch")
    return (hugging_face, *(Path(folder) for folder in named if folder), torch)


def hub_cache(environ: Mapping[str, str]) -> Path:
    """The folder in which the hub's client keeps repositories."""
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(named) if named else model_cache(environ)[0] / "hub"


def repository_cache(repository: str, environ: Mapping[str, str]) -> Path:
    """The folder of a repository there."""
    return hub_cache(environ) / f"models--{repository.replace('/', '--')}"


def weights_on_disk(source: WeightsSource, environ: Mapping[str, str]) -> Weights | None:
    """The weights of a folder, or of a snapshot in the hub's cache, where they are whole. Blocks."""
    if source.folder is not None:
        return _weights_in(source.folder)
    cache, commit = repository_cache(source.repository, environ), source.revision
    if not source.is_pinned:
        try:
            commit = read_file(cache / "refs" / (commit or "main")).decode().strip()
        except (OSError, ValueError):
            return None
    return _weights_in(cache / "snapshots" / str(commit), str(commit))


def may_be_there(source: WeightsSource, environ: Mapping[str, str]) -> bool:
    """Whether a backend may find weights where `weights_on_disk` sees none. Blocks.

    That is, in files of another form, or in the cache that transformers 4 has of its own.
    """
    if source.folder is not None:
        files = source.folder.glob("*")
    else:
        cache, own = repository_cache(source.repository, environ), environ.get("TRANSFORMERS_CACHE")
        if own and os.path.isdir(Path(own) / cache.name):  # noqa: PTH112  as above
            return True
        files = cache.glob("snapshots/*/*")
    try:
        return any(path.suffix.lower() in _OTHER_FORMS for path in files)
    except OSError:
        return False


def _weights_in(folder: Path, commit: str | None = None) -> Weights | None:
    try:
        index = _content(folder / INDEX) if (folder / INDEX).exists() else None
        names = loaded_files([path.name for path in folder.iterdir()], index)
        is_whole = bool(names) and all((folder / name).is_file() for name in (_CONFIG, *names))
        files = [WeightsFile(name=name, size_bytes=(folder / name).stat().st_size) for name in names]
    except (OSError, ValueError):
        return None
    if not is_whole:
        return None
    return weights_of(files, [_held_by(folder, file) for file in files], commit)


def _content(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(_MAX_INDEX_BYTES)


def _held_by(folder: Path, file: WeightsFile) -> Counter[str] | None:
    if not has_header(file.name):
        return None
    try:
        with open_file(folder / file.name) as opened:
            length = header_bytes(opened.read(LENGTH_BYTES))
            return bytes_by_dtype(opened.read(length), file.size_bytes)
    except (OSError, ValueError):  # the backend says what is wrong with it
        return None


def missing_bytes(source: WeightsSource, weights: Weights, environ: Mapping[str, str]) -> int:
    """How much of weights is yet to be downloaded, beside what is there of them, finished or not. Blocks."""
    if source.folder is not None:
        return 0
    cache = repository_cache(source.repository, environ)
    return sum(_lacking(cache, weights.commit, file) for file in weights.files)


def _lacking(cache: Path, commit: str | None, file: WeightsFile) -> int:
    if (cache / "snapshots" / str(commit) / file.name).exists():
        return 0
    present = 0
    if file.digest:
        with suppress(OSError):
            present = sum(path.stat().st_size for path in (cache / "blobs").glob(f"{file.digest}*"))
    return max(0, file.size_bytes - present)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What the hub said of weights."""

    format: str = _FORMAT
    repository: str
    revision: str | None
    weights: Weights


def recorded_weights(source: WeightsSource, home: Home, environ: Mapping[str, str]) -> Weights | None:
    """What the hub said of them last; None where it was never asked. Blocks."""
    try:
        record = read_record(_record_path(source, home, environ), _Record, _FORMAT)
    except (OSError, ValueError):  # then the hub is asked again
        return None
    return record.weights if record else None


def record_weights(source: WeightsSource, weights: Weights, home: Home, environ: Mapping[str, str]) -> None:
    """Keep what the hub said, for whoever must not wait for it. Blocks."""
    record = _Record(repository=source.repository, revision=source.revision, weights=weights)
    path = _record_path(source, home, environ)
    with suppress(OSError):  # full or read-only: then the hub is asked again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, f"{json.dumps(to_json(record), indent=2)}\n")


def _record_path(source: WeightsSource, home: Home, environ: Mapping[str, str]) -> Path:
    asked = f"{hub_address(environ)}\n{source.repository}\n{source.revision}"
    return home.cache / "weights" / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What is known of a model's weights; where that is nothing, why, as a clause.

    `failure` says why they can't be downloaded, where that is certain.
    """

    weights: Weights | None = None
    reason: str = ""
    failure: WeightsUnreachable | None = None


def known(source: WeightsSource, home: Home, environ: Mapping[str, str]) -> Learned:
    """What is known without asking the hub. Blocks: it reads files."""
    weights = weights_on_disk(source, environ)
    if weights is None and source.folder is None:
        weights = recorded_weights(source, home, environ)
    if source.folder is not None:
        return Learned(weights=weights, reason="its folder has no weights in a known form")
    return Learned(weights=weights, reason="the hub was not asked yet, which `switch` and `plan --model` do")
