# ruff: noqa: INP001  a backend's folder is no package
"""Serves Moondream's models with Hugging Face transformers.

The code of such a model is part of its repository and runs here (`trust_remote_code`), so the manifest pins
the revision. What it offers is what Moondream publishes: `caption`, `query`, `detect` and `point`.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import io
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

# Bars are lines without an end, and the station shows the progress itself. Both are read at import.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

if TYPE_CHECKING:
    from moondream_station.bundled.transformers.weights import Progress, explained, find
else:  # a backend's folder is on the worker's path
    from weights import Progress, explained, find

transformers_logging.disable_progress_bar()

MAX_ENCODED_BYTES = 44 << 20
MAX_PIXELS = 50_000_000

_lock = threading.Lock()
"""Moondream's models keep the state of a generation inside the model: one at a time."""
_loaded: dict[str, Any] = {}
_fetched: dict[tuple[str, str | None], tuple[str, int]] = {}
"""What `fetch_backend` brought: what to load, and its size in bytes, by model and revision."""

_STORED_ITEM_BYTES = 2
"""Moondream's weights are stored as bfloat16."""


class ArgumentInvalid(ValueError):
    """The caller's argument can't be used: the station answers 400."""

    cause = "argument-invalid"

    def __init__(self, message: str, argument: str = "image_url") -> None:
        super().__init__(message)
        self.argument = argument


def fetch_backend(
    model_id: str, revision: str | None = None, dtype: str | None = None, progress: Progress = lambda *_: None
) -> int:
    """Get the weights, while the previous model keeps answering; gives the bytes of memory that they take."""
    with explained(model_id, revision):
        _, size_bytes = _fetched[model_id, revision] = find(model_id, revision, progress)
    widening = getattr(torch, dtype).itemsize / _STORED_ITEM_BYTES if dtype is not None else 1
    return int(size_bytes * max(1, widening))


def init_backend(
    model_id: str,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    compile: bool = False,  # noqa: A002, FBT001, FBT002  the manifest's word
    progress: Progress = lambda *_: None,
) -> None:
    """Load the weights; get them first where `fetch_backend` has not.

    `model_id` is a repository on the hub, or a folder, which has no `revision`. `dtype` is torch's name of
    the weights' type; by default it is the one that the model's own code builds: Moondream's prepares its
    images in that one too (bfloat16), and fails with weights of another.
    """
    with explained(model_id, revision):
        source, size_bytes = _fetched.get((model_id, revision)) or find(model_id, revision, progress)
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
    """Describe an image, given as a `data:` URL or base64; `length` is what the model knows."""
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
    """Answer a question, about an image or without one; with `reasoning` the answer tells how, too."""
    image = None if image_url is None else _image(image_url)
    options = {"question": _word(question, "question"), "reasoning": _is_true(reasoning)}
    return _text("query", "answer", stream, image, **options, settings=settings, spatial_refs=spatial_refs)


def detect(
    image_url: Any = None,
    object: Any = None,  # noqa: A002  the client's word
    settings: Any = None,
    **others: Any,
) -> dict[str, Any]:
    """Boxes around things. `obj` is understood too, as Moondream Station 0.1 did."""
    name = _word(object or others.get("obj"), "object")
    return {"objects": _ask("detect", _image(image_url), object=name, settings=settings)["objects"]}


def point(
    image_url: Any = None,
    object: Any = None,  # noqa: A002  the client's word
    settings: Any = None,
    spatial_refs: Any = None,
    **others: Any,
) -> dict[str, Any]:
    """Points on things, and how many there are."""
    name = _word(object or others.get("obj"), "object")
    options = {"object": name, "settings": settings, "spatial_refs": spatial_refs}
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
        text = f"this model does not accept {', '.join(strange)} for {function}: leave it out"
        raise ArgumentInvalid(text, strange[0])
    answer: dict[str, Any] = method(image, **given)
    return answer


def _image(image_url: Any) -> Image.Image:
    """The image, upright, in RGB."""
    Image.init()
    formats = [name for name in Image.OPEN if name != "EPS"]  # which Pillow lets Ghostscript run
    try:
        image = Image.open(io.BytesIO(_decoded(image_url)), formats=formats)
        if image.width * image.height > MAX_PIXELS:
            raise ArgumentInvalid(f"it has {image.width} x {image.height} pixels; the limit is {MAX_PIXELS}")
        return _with_8_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        is_unknown = isinstance(error, UnidentifiedImageError)
        why = "Pillow does not recognise the image" if is_unknown else error
        raise ArgumentInvalid(f"image_url can't be used: {why}") from error


def _with_8_bits(image: Image.Image) -> Image.Image:
    """Grey values of more bits scaled down: Pillow's own conversion cuts them off at 255.

    Pillow does not tell what white is. Whole numbers are of 16 bits unless one is larger; fractions have the
    smallest usual range that they fit.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image).astype(np.float32))
    most = float(values.max(initial=0))
    usual = (1, 255, 65535) if image.mode == "F" else (65535, 2**31 - 1)
    white = next((limit for limit in usual if most <= limit), most)
    return Image.fromarray(np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8))


def _decoded(image_url: Any) -> bytes:
    """The bytes of a `data:` URL (RFC 2397; scheme and parameters in any case), or of the base64 itself."""
    text = _word(image_url, "image_url").strip()
    if len(text) > MAX_ENCODED_BYTES:
        raise ArgumentInvalid(f"it has {len(text)} characters; the limit is {MAX_ENCODED_BYTES}")
    scheme = text[:6].lower()
    if scheme.startswith(("http:", "https:", "file:")):
        raise ArgumentInvalid("nothing is fetched; send the image itself, as a data: URL or base64")
    if scheme.startswith("data:"):
        kind, _, encoded = text.partition(",")
        if kind.rpartition(";")[2].strip().lower() != "base64":
            raise ArgumentInvalid("the data: URL is not base64")
        text = unquote(encoded)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ArgumentInvalid(f"the base64 is damaged: {error}") from error


def _word(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ArgumentInvalid(f"{name} is missing: give one as text", name)
    return value


def _is_true(value: Any) -> bool:
    """Whether a form or JSON says yes."""
    return value is True or (isinstance(value, str) and value.strip().lower() in {"true", "1", "yes"})
