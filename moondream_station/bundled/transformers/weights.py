# ruff: noqa: INP001  a backend's folder is no package
"""A model's weights, code and tokenizer: from the hub or a folder, whole, or a sentence on why not."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hub  # a backend's folder is on the worker's path
import huggingface_hub
from hub import Unreachable, bring, cache_of, commit_of, is_intact
from huggingface_hub import HfApi, constants, utils
from model import Progress
from transformers.dynamic_module_utils import get_cached_module_file, get_relative_import_files

LOOK_SECONDS = 0.5
GB = 10**9
RESERVE_BYTES = 64 << 20
"""What is left free on the disk that the weights go to."""
DESCRIBING = (".json", ".py")
WEIGHTS = ".safetensors"
TOKENIZER = "tokenizer.json"
_forget_sessions = getattr(utils, "reset_sessions", None) or utils.close_session
"""The client's name for it before 1.0, and since."""
_ASKED_TOKENIZER = re.compile(r"""Tokenizer\.from_pretrained\(\s*["']([\w.-]+/[\w.-]+)["']""")
"""How Moondream's code asks for a tokenizer that its own repository does not have."""


@dataclass(frozen=True)
class Found:
    """What to load: a folder, or a repository; the commit of each repository used; and the weights' bytes."""

    source: str
    commits: dict[str, str]
    size_bytes: int


def find(
    model_id: str,
    revision: str | None,
    commits: dict[str, str],
    progress: Progress,
    sized: Callable[[int], object] = lambda _: None,
) -> Found:
    """Bring everything that a model is loaded from. What `commits` names by repository is not resolved again.

    `sized` is told the bytes of the weights before they are downloaded. Where the hub does not give them,
    `explained` says why.
    """
    used = {}
    folder = Path(os.path.expanduser(model_id))  # noqa: PTH111  pathlib's raises where there is no such user
    is_local = folder.is_dir()
    if is_local:
        if (missing := _missing(folder)) is not None:
            raise Unreachable(f"The model in {folder} is incomplete: {missing}.", "Copy it again.")
        _offer_code(folder)
    elif folder.is_absolute() or model_id.startswith((".", "~")):
        raise Unreachable(f"The folder {folder} does not exist.", "Check `model_id` in the manifest.")
    else:
        used[model_id] = commits.get(model_id) or commit_of(model_id, revision)
        folder = _bring_model(model_id, used[model_id], progress, sized)
        if model_id not in commits:
            hub.remember(model_id, revision or "main", used[model_id])
    for name in _tokenizers_of(folder):
        with hub.explained(name, commits.get(name), kind="tokenizer"):
            used[name] = commits.get(name) or hub.known_commit(name, "main") or commit_of(name, None)
            if not (cache_of(name) / "snapshots" / used[name] / TOKENIZER).is_file():
                bring(name, TOKENIZER, used[name])
            if name not in commits:
                hub.remember(name, "main", used[name])
    progress(0, _size(folder), "bytes")
    return Found(str(folder) if is_local else model_id, used, _size(folder))


@contextmanager
def without_network(found: Found) -> Iterator[None]:
    """Let the hub's client ask for nothing, and give the model's code the tokenizer that was found."""
    download, is_offline = huggingface_hub.hf_hub_download, constants.HF_HUB_OFFLINE

    def pinned(repo_id: str, filename: str, **options: Any) -> str:
        path: str = download(repo_id, filename, **options | {"revision": found.commits.get(repo_id, "main")})
        return path

    huggingface_hub.hf_hub_download = pinned  # `tokenizers` looks it up there at each call
    constants.HF_HUB_OFFLINE = True
    _forget_sessions()  # the present ones were made to ask
    try:
        yield
    finally:
        huggingface_hub.hf_hub_download = download
        constants.HF_HUB_OFFLINE = is_offline
        _forget_sessions()


def _bring_model(model_id: str, commit: str, progress: Progress, sized: Callable[[int], object]) -> Path:
    """Fetch what is missing, weights last, so that what is whole has them; gives their folder."""
    folder = cache_of(model_id) / "snapshots" / commit
    if folder.is_dir() and _missing(folder) is None and all(is_intact(file) for file in _weights_of(folder)):
        return folder
    info = HfApi().model_info(model_id, revision=commit, files_metadata=True, timeout=hub.ANSWER_SECONDS)
    files = {file.rfilename: file for file in info.siblings or ()}
    for name in sorted(name for name in files if name.endswith(DESCRIBING)):
        bring(model_id, name, commit)
    names = {path.name for path in _weights_of(folder)}
    if not names:
        names = {"model.safetensors"} & files.keys() or {name for name in files if name.endswith(WEIGHTS)}
    if absent := sorted(names - files.keys()):
        raise Unreachable(f"{model_id} lacks {absent[0]}, which its index names.", "Check `revision`.")
    weights = sorted((files[name] for name in names), key=lambda file: file.size or 0)
    needed = [file for name, file in files.items() if name in names or name.endswith(DESCRIBING)]
    sizes = {str(file.lfs.sha256 if file.lfs else file.blob_id): file.size or 0 for file in needed}
    present = partial(_present_bytes, cache_of(model_id) / "blobs", sizes)
    total = sum(sizes.values())
    sized(sum(file.size or 0 for file in weights))
    _check_space(model_id, total - present())
    with _reporting(lambda: progress(present(), total, "bytes")):
        for file in weights:
            sha256 = file.lfs.sha256 if file.lfs else None
            bring(model_id, file.rfilename, commit, sha256=sha256, size_bytes=file.size or 0)
    if (missing := _missing(folder)) is not None:
        raise Unreachable(
            f"{model_id} is incomplete at {commit}: {missing}.", "Check `model_id` in the manifest."
        )
    return folder


def _check_space(model_id: str, missing_bytes: int) -> None:
    """Fail before the first byte instead of after the last one that fits."""
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if missing_bytes and missing_bytes + RESERVE_BYTES > free:
        raise Unreachable(
            f"{model_id} needs {missing_bytes / GB:.1f} GB more on the file system of {existing}, and"
            f" {RESERVE_BYTES / GB:.2f} GB to stay free; {free / GB:.1f} GB are free.",
            "Make room there, or set HF_HOME to a folder on a larger disk.",
            cause="no-space",
        )


@contextmanager
def _reporting(report: Callable[[], object]) -> Iterator[None]:
    """Report again and again, from a thread: the hub's client has no callback for bytes of several files."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            with suppress(FileNotFoundError):  # what was unfinished when it was looked for is finished
                report()

    watching = threading.Thread(target=watch, name="progress", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
    report()


def _present_bytes(blobs: Path, sizes: dict[str, int]) -> int:
    """How many bytes of some files are here, finished or not."""
    total = 0
    for name, size in sizes.items():
        paths = [blobs / name] if (blobs / name).exists() else blobs.glob(f"{name}.*incomplete")
        total += min(size, sum(path.stat().st_size for path in paths))
    return total


def _missing(folder: Path) -> str | None:
    """What a folder lacks of a model, None where it is whole."""
    try:
        code = _entry(folder)
        if code is not None:
            get_relative_import_files(code)
        absent = sorted(path.name for path in _weights_of(folder) if not path.is_file())
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, AttributeError) as error:
        return f"its description can't be read: {error}"
    if absent:
        return f"{absent[0]} is missing"
    return None if _weights_of(folder) else f"it has no weights (*{WEIGHTS})"


def _weights_of(folder: Path) -> list[Path]:
    """The weights that are loaded: those that the index names, else the one file, else all."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob(f"*{WEIGHTS}"))


def _tokenizers_of(folder: Path) -> list[str]:
    """The repositories of the tokenizers that a model's code asks the hub for."""
    codes = (path.read_text(encoding="utf-8", errors="replace") for path in folder.glob("*.py"))
    return sorted({name for code in codes for name in _ASKED_TOKENIZER.findall(code)})


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
    """The bytes that a model is loaded from."""
    described = (path for path in folder.iterdir() if path.name.endswith(DESCRIBING))
    return sum(path.stat().st_size for path in (*described, *_weights_of(folder)))
