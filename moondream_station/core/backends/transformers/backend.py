# ruff: noqa: INP001  a backend's folder is no package
"""Serves Moondream's models with Hugging Face transformers.

The code of such a model is part of its repository and runs here (`trust_remote_code`), so the manifest pins
the revision. What it offers is what Moondream publishes: `caption`, `query`, `detect` and `point`.
"""

from __future__ import annotations

import base64
import binascii
import errno
import inspect
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Bars are lines without an end, and the station shows the progress itself. Both are read at import.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import requests
import torch
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
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.dynamic_module_utils import get_cached_module_file, get_relative_import_files
from transformers.utils import logging as transformers_logging

transformers_logging.disable_progress_bar()

Progress = Callable[[int, int | None, str], object]

MAX_ENCODED_BYTES = 44 << 20
MAX_PIXELS = 50_000_000
LOOK_SECONDS = 0.5
WANTED = (".json", ".py", ".safetensors")
"""What a model is loaded from; a repository may hold the same weights in other forms too."""

_lock = threading.Lock()
"""Moondream's models keep the state of a generation inside the model: one at a time."""
_loaded: dict[str, Any] = {}


class Unreachable(Exception):
    """The weights can't be had; the station reports the cause and the hint.

    Args:
        message: What failed.
        hint: What to do.
        cause: The station's code.
    """

    def __init__(self, message: str, hint: str, *, cause: str = "weights-unreachable") -> None:
        super().__init__(message)
        self.hint = hint
        self.cause = cause


def init_backend(
    model_id: str,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    compile: bool = False,  # noqa: A002, FBT001, FBT002  the manifest's word
    progress: Progress = lambda *_: None,
) -> None:
    """Get the weights and load them.

    Args:
        model_id: A repository on the hub ("vikhyatk/moondream2"), or a folder.
        revision: A commit, tag or branch of the repository; a folder has none.
        device: What torch computes on.
        dtype: The weights' type by torch's name. By default the one that the model's own code builds:
            Moondream's prepares its images in that one too (bfloat16), and fails with weights of another.
        compile: Whether the model compiles itself for a GPU, which takes minutes and makes it faster.
        progress: Told how many bytes are here, of how many.
    """
    with _explained(model_id, revision):
        source, size_bytes = _find(model_id, revision, progress)
        options: dict[str, Any] = {} if dtype is None else {"dtype": getattr(torch, dtype)}
        model = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            trust_remote_code=True,
            local_files_only=True,
            device_map={"": device},
            **options,
        )
    model = model.to(device).eval()
    if compile and device == "cuda":
        model.compile()
    _loaded["model"] = model
    progress(size_bytes, size_bytes, "bytes")


def caption(
    image_url: Any = None, length: Any = "normal", stream: Any = None, settings: Any = None, **_: Any
) -> dict[str, Any]:
    """Describe an image.

    Args:
        image_url: A `data:` URL, or base64.
        length: What the model knows: "short", "normal", "long".
        stream: Whether `caption` is to be an iterator.
        settings: `temperature`, `top_p`, `max_tokens`.

    Raises:
        ValueError: The image can't be used, or the model does not know the length.
    """
    return _text("caption", "caption", stream, _image(image_url), length=length, settings=settings)


def query(
    question: Any = None,
    image_url: Any = None,
    stream: Any = None,
    reasoning: Any = False,  # noqa: FBT002  as the client has it
    settings: Any = None,
    spatial_refs: Any = None,
    **_: Any,
) -> dict[str, Any]:
    """Answer a question, about an image or without one.

    Args:
        question: The question.
        image_url: A `data:` URL, or base64; None for a question without an image.
        stream: Whether `answer` is to be an iterator.
        reasoning: Whether the model thinks first; the answer tells how, under `reasoning`.
        settings: As for `caption`.
        spatial_refs: Points and boxes that the question is about.

    Raises:
        ValueError: There is no question, or the image can't be used.
    """
    image = None if image_url is None else _image(image_url)
    options = {"question": _word(question, "question"), "reasoning": _is_true(reasoning)}
    return _text("query", "answer", stream, image, **options, settings=settings, spatial_refs=spatial_refs)


def detect(
    image_url: Any = None,
    object: Any = None,  # noqa: A002  the client's word
    settings: Any = None,
    **others: Any,
) -> dict[str, Any]:
    """Boxes around things.

    Args:
        image_url: A `data:` URL, or base64.
        object: What to look for; `obj` is understood too, as Moondream Station 0.1 did.
        settings: `max_objects`.
        others: Nothing else is used.

    Raises:
        ValueError: Nothing is named, or the image can't be used.
    """
    wanted = _word(object or others.get("obj"), "object")
    return {"objects": _ask("detect", _image(image_url), object=wanted, settings=settings)["objects"]}


def point(
    image_url: Any = None,
    object: Any = None,  # noqa: A002  the client's word
    settings: Any = None,
    spatial_refs: Any = None,
    **others: Any,
) -> dict[str, Any]:
    """Points on things, and how many there are.

    Args:
        image_url: A `data:` URL, or base64.
        object: What to look for; or `obj`.
        settings: `max_objects`.
        spatial_refs: Points and boxes that it is about.
        others: Nothing else is used.

    Raises:
        ValueError: Nothing is named, or the image can't be used.
    """
    wanted = _word(object or others.get("obj"), "object")
    options = {"object": wanted, "settings": settings, "spatial_refs": spatial_refs}
    points = _ask("point", _image(image_url), **options)["points"]
    return {"points": points, "count": len(points)}


def _text(function: str, key: str, stream: Any, image: Any, **options: Any) -> dict[str, Any]:
    """The answer of a function that gives text; whole, or piece by piece under the same key."""
    if not stream:
        return _ask(function, image, **options)

    def pieces() -> Iterator[str]:
        with _lock:
            yield from _call(function, image, stream=True, **options)[key]

    return {key: pieces()}


def _ask(function: str, image: Any, **options: Any) -> dict[str, Any]:
    with _lock:
        return _call(function, image, **options)


def _call(function: str, image: Any, **options: Any) -> dict[str, Any]:
    """Call the model with what is given and what it knows: revisions differ in what they take."""
    method = getattr(_loaded["model"], function)
    known = inspect.signature(method).parameters
    given = {name: value for name, value in options.items() if value not in (None, False)}
    if "reasoning" in options and "reasoning" in known:
        given["reasoning"] = options["reasoning"]  # on by default in Moondream 3, off in the client
    if isinstance(given.get("settings"), dict):
        # moondream2 2025-06-21 reads the variant of any settings, without asking whether it is there.
        given["settings"] = {**given["settings"], "variant": None}
    if strange := sorted(given.keys() - known.keys()):
        raise ValueError(f"this model takes no {', '.join(strange)} for {function}: leave it out")
    answer: dict[str, Any] = method(image, **given)
    return answer


def _find(model_id: str, revision: str | None, progress: Progress) -> tuple[str, int]:
    """Bring everything that the model is loaded from; gives what to load, and its size in bytes."""
    folder = Path(model_id).expanduser()
    if folder.is_dir():
        if (lack := _lack(folder)) is not None:
            raise Unreachable(f"The model in {folder} is not whole: {lack}.", "Copy it there again, whole.")
        _offer_code(folder)
        progress(0, _size(folder), "bytes")
        return str(folder), _size(folder)
    if folder.is_absolute() or model_id.startswith((".", "~")):
        raise Unreachable(f"There is no folder {folder}.", "The model's `model_id` in the manifest names it.")
    known = _cached(model_id, revision)
    if known is None or revision is None:
        try:
            known = _fetch(model_id, revision, progress)
        except (requests.RequestException, OfflineModeIsEnabled, LocalEntryNotFoundError):
            if known is None:
                raise
    else:
        progress(0, _size(known), "bytes")
    return model_id, _size(known)


def _cached(model_id: str, revision: str | None) -> Path | None:
    """The repository as it was fetched before, where it is whole."""
    try:
        folder = Path(snapshot_download(model_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if _lack(folder) is None else None


def _fetch(model_id: str, revision: str | None, progress: Progress) -> Path:
    """Fetch what is missing, weights last, so that what is whole has them."""
    info = HfApi().model_info(model_id, revision=revision, files_metadata=True)
    wanted = [file for file in info.siblings or () if file.rfilename.endswith(WANTED)]
    wanted.sort(key=lambda file: file.size or 0)
    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=model_id, repo_type="model"), "blobs")
    names = {(file.lfs.sha256 if file.lfs else file.blob_id): file.size or 0 for file in wanted}
    with _watched(lambda: progress(_here(blobs, names), sum(names.values()), "bytes")):
        for file in wanted:
            hf_hub_download(model_id, file.rfilename, revision=revision or info.sha)
    return Path(snapshot_download(model_id, revision=revision or info.sha, local_files_only=True))


@contextmanager
def _watched(tell: Callable[[], object]) -> Iterator[None]:
    """Tell again and again, from a thread, while the block is worked on."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            tell()

    watching = threading.Thread(target=watch, name="progress", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
    tell()


def _here(blobs: Path, names: dict[str | None, int]) -> int:
    """How many bytes of some files are here, finished or not."""
    total = 0
    for name, size in names.items():
        for path in (blobs / f"{name}", blobs / f"{name}.incomplete"):
            if path.exists():
                total += min(size, path.stat().st_size)
                break
    return total


def _lack(folder: Path) -> str | None:
    """What a folder lacks of a model, None where it is whole."""
    try:
        code = _entry(folder)
        if code is not None:
            get_relative_import_files(code)
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            missing = sorted(name for name in shards if not (folder / name).is_file())
            return f"{missing[0]} is missing" if missing else None
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, AttributeError) as error:
        return f"its description can't be read: {error}"
    return None if any(folder.glob("*.safetensors")) else "it has no weights (*.safetensors)"


def _entry(folder: Path) -> Path | None:
    """The module that its code begins with; None where it comes from another repository, or from nowhere."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
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
    return sum(path.stat().st_size for path in folder.rglob("*") if path.name.endswith(WANTED))


@contextmanager
def _explained(model_id: str, revision: str | None) -> Iterator[None]:
    """Say what failed, and what to do, in words that fit all the ways in which weights can't be had."""
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
            f"{model_id} can't be kept or read: {error.strerror}: {error.filename or constants.HF_HOME}.",
            "Make room, or set HF_HOME to a folder that you may write to.",
            cause="no-space" if is_full else "weights-unreachable",
        )
    response = error.response if isinstance(error, HfHubHTTPError) else None
    said = f"it answered {response.status_code}" if response is not None else _reason(error)
    return Unreachable(
        f"{model_id} can't be had from {hub}: {said}.",
        "Check the network and the proxy; or set HF_ENDPOINT to a mirror, or let `model_id` name a folder.",
    )


def _reason(error: BaseException) -> str:
    """What lies at the bottom of an error of the network: requests and urllib3 wrap it several times."""
    for inner in (*error.args, getattr(error, "reason", None), error.__cause__):
        if isinstance(inner, BaseException):
            return _reason(inner)
    said = getattr(error, "strerror", None) or str(error)
    return str(said).strip().partition("\n")[0].rstrip(".")


def _image(image_url: Any) -> Image.Image:
    """The image, upright, in RGB."""
    try:
        image = Image.open(io.BytesIO(_decoded(image_url)))
        _check_pixels(image)
        return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise ValueError("image_url can't be used: it is no image that Pillow knows") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image_url can't be used: {error}") from error


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels, at most {MAX_PIXELS} are taken")


def _decoded(image_url: Any) -> bytes:
    text = _word(image_url, "image_url").strip()
    if text.startswith(("http:", "https:", "file:")):
        raise ValueError("nothing is fetched; send the image itself, as a data: URL or base64")
    if len(text) > MAX_ENCODED_BYTES:
        raise ValueError(f"it has {len(text)} characters, at most {MAX_ENCODED_BYTES} are taken")
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the base64 is damaged: {error}") from error


def _word(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is missing: give one as text")
    return value


def _is_true(value: Any) -> bool:
    """Whether a form or JSON says yes."""
    return value is True or (isinstance(value, str) and value.strip().lower() in {"true", "1", "yes"})
