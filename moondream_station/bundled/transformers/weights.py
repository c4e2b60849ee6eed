# ruff: noqa: INP001  a backend's folder is no package
"""A model's weights and code: from the hub or a folder, whole, or a sentence on why not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from safetensors import SafetensorError
from transformers.dynamic_module_utils import get_cached_module_file, get_relative_import_files

Progress = Callable[[int, int | None, str], object]

LOOK_SECONDS = 0.5
GB = 10**9
RESERVE_BYTES = 64 << 20
"""What is left free on the disk that the weights go to."""
LOADED = (".json", ".py", ".safetensors")
"""What a model is loaded from; a repository may hold the same weights in other forms too."""


class Unreachable(Exception):
    """The weights are not available; the station reports the hint, and the cause (one of its codes)."""

    def __init__(self, message: str, hint: str, *, cause: str = "weights-unreachable") -> None:
        super().__init__(message)
        self.hint = hint
        self.cause = cause


def find(model_id: str, revision: str | None, progress: Progress) -> tuple[str, int]:
    """Bring everything that a model is loaded from; gives what to load, and its size in bytes.

    Where the hub does not give it, `explained` says why.
    """
    folder = Path(os.path.expanduser(model_id))  # noqa: PTH111  pathlib's raises where there is no such user
    if folder.is_dir():
        if (missing := _missing(folder)) is not None:
            raise Unreachable(f"The model in {folder} is incomplete: {missing}.", "Copy it again.")
        _offer_code(folder)
        progress(0, _size(folder), "bytes")
        return str(folder), _size(folder)
    if folder.is_absolute() or model_id.startswith((".", "~")):
        raise Unreachable(f"The folder {folder} does not exist.", "Check `model_id` in the manifest.")
    cached = _cached(model_id, revision)
    if cached is None or revision is None:
        try:
            cached = _fetch(model_id, revision, progress)
        except (requests.RequestException, OfflineModeIsEnabled, LocalEntryNotFoundError):
            if cached is None:
                raise
    else:
        progress(0, _size(cached), "bytes")
    return model_id, _size(cached)


def _cached(model_id: str, revision: str | None) -> Path | None:
    """The repository as it was fetched before, where it is whole."""
    try:
        folder = Path(snapshot_download(model_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if _missing(folder) is None else None


def _fetch(model_id: str, revision: str | None, progress: Progress) -> Path:
    """Fetch what is missing, weights last, so that what is whole has them."""
    info = HfApi().model_info(model_id, revision=revision, files_metadata=True)
    files = [file for file in info.siblings or () if file.rfilename.endswith(LOADED)]
    files.sort(key=lambda file: file.size or 0)
    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=model_id, repo_type="model"), "blobs")
    names = {(file.lfs.sha256 if file.lfs else file.blob_id): file.size or 0 for file in files}
    _check_space(model_id, sum(names.values()) - _present_bytes(blobs, names))
    with _reporting(lambda: progress(_present_bytes(blobs, names), sum(names.values()), "bytes")):
        for file in files:
            hf_hub_download(model_id, file.rfilename, revision=revision or info.sha)
    return Path(snapshot_download(model_id, revision=revision or info.sha, local_files_only=True))


def _check_space(model_id: str, missing_bytes: int) -> None:
    """Fail before the first byte instead of after the last one that fits."""
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if missing_bytes and missing_bytes + RESERVE_BYTES > free:
        raise Unreachable(
            f"{model_id} needs {missing_bytes / GB:.1f} GB more on the file system of {existing};"
            f" {free / GB:.1f} GB are free.",
            "Make room there, or set HF_HOME to a folder on a larger disk.",
            cause="no-space",
        )


@contextmanager
def _reporting(report: Callable[[], object]) -> Iterator[None]:
    """Report again and again, from a thread: the hub's client has no callback for bytes of several files."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            report()

    watching = threading.Thread(target=watch, name="progress", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
    report()


def _present_bytes(blobs: Path, names: dict[str | None, int]) -> int:
    """How many bytes of some files are here, finished or not."""
    total = 0
    for name, size in names.items():
        for path in (blobs / f"{name}", blobs / f"{name}.incomplete"):
            if path.exists():
                total += min(size, path.stat().st_size)
                break
    return total


def _missing(folder: Path) -> str | None:
    """What a folder lacks of a model, None where it is whole."""
    try:
        code = _entry(folder)
        if code is not None:
            get_relative_import_files(code)
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
            absent = sorted(name for name in shards if not (folder / name).is_file())
            return f"{absent[0]} is missing" if absent else None
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, AttributeError) as error:
        return f"its description can't be read: {error}"
    return None if any(folder.glob("*.safetensors")) else "it has no weights (*.safetensors)"


def _entry(folder: Path) -> Path | None:
    """The module that its code begins with; None where it comes from another repository, or from nowhere."""
    config = json.loads((folder / "config.json").read_bytes())
    named = config.get("auto_map", {}).get("AutoModelForCausalLM", "")
    return folder / f"{named.partition('.')[0]}.py" if named and "--" not in named else None


def _offer_code(folder: Path) -> None:
    """Let transformers have all modules of a folder: it copies only those that the first one names itself.

    (4.57.6, dynamic_module_utils.py, `get_cached_module_file`; from the hub it brings all of them.)
    """
    entry = _entry(folder)
    for path in get_relative_import_files(entry) if entry else ():
        get_cached_module_file(str(folder), Path(path).name)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.name.endswith(LOADED))


@contextmanager
def explained(model_id: str, revision: str | None) -> Iterator[None]:
    """Translate every way in which weights can be missing into what failed and what to do."""
    hub = urlsplit(constants.ENDPOINT).hostname
    try:
        yield
    except GatedRepoError as error:
        raise Unreachable(
            f"{hub} gives {model_id} only to accounts that have accepted its terms.",
            f"Accept them at {constants.ENDPOINT}/{model_id}, and set HF_TOKEN to a token of that account.",
        ) from error
    except RevisionNotFoundError as error:
        raise Unreachable(
            f"{model_id} has no revision {revision} on {hub}.", "The manifest's args name the revision."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise Unreachable(
            f"There is no model {model_id} on {hub}, or it is private.",
            "Check `model_id` in the manifest; for a private one set HF_TOKEN.",
        ) from error
    except SafetensorError as error:
        raise Unreachable(
            f"The weights of {model_id} are damaged: {error}.", "Remove that file, and switch again."
        ) from error
    except OSError as error:  # what requests, the hub's client and transformers raise is one
        raise _from_system(error, model_id, hub) from error


def _from_system(error: OSError, model_id: str, hub: str | None) -> Unreachable:
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, OSError):
        error = error.__cause__  # why it looked for a copy here
    if error.strerror and not isinstance(error, requests.RequestException):
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        return Unreachable(
            f"{model_id} can't be stored or read: {error.strerror}: {error.filename or constants.HF_HOME}.",
            "Make room, or set HF_HOME to a folder that you can write to.",
            cause="no-space" if is_full else "weights-unreachable",
        )
    response = error.response if isinstance(error, HfHubHTTPError) else None
    reason = f"it answered {response.status_code}" if response is not None else _reason(error)
    return Unreachable(
        f"{model_id} is not available from {hub}: {reason}.",
        "Check the network and the proxy; or set HF_ENDPOINT to a mirror, or let `model_id` name a folder.",
    )


def _reason(error: BaseException) -> str:
    """The innermost cause of a network error: requests and urllib3 wrap it several times."""
    for inner in (*error.args, getattr(error, "reason", None), error.__cause__):
        if isinstance(inner, BaseException):
            return _reason(inner)
    reason = getattr(error, "strerror", None) or str(error)
    return str(reason).strip().partition("\n")[0].rstrip(".")
