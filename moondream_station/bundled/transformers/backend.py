# ruff: noqa: INP001  a backend's folder is no package
"""Serves Moondream's models with Hugging Face transformers.

The code of such a model is part of its repository and runs here (`trust_remote_code`), so the manifest pins
the revision. What it offers is what Moondream publishes, as far as the model that is loaded has it.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

# The hub's client, which transformers imports, reads these at import. Bars are lines without an end, and the
# station shows the progress itself.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import arguments  # a backend's folder is on the worker's path
import torch
from arguments import ArgumentInvalid, decoded, settings_of
from hub import explained
from model import Caller, Model, Progress, chosen_dtype, use_physical_cores
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging
from weights import Found, find, without_network

transformers_logging.disable_progress_bar()

_TEXT_SETTINGS = ("max_tokens", "temperature", "top_p")
_OBJECT_SETTINGS = ("max_objects",)
_DEFAULT_MAX_TOKENS = 768
"""What Moondream 2 and 3 generate at most where nothing else is said (moondream.py, DEFAULT_MAX_TOKENS)."""
_STORED_ITEM_BYTES = 2
"""Moondream's weights are stored as bfloat16."""
_OPTIONAL_FUNCTIONS = ("segment", "detect_gaze")

_lock = threading.Lock()
"""Moondream's models keep the state of a generation inside the model: one at a time."""
_loaded: dict[str, Model] = {}
_fetched: dict[str, Found] = {}
"""What `fetch_backend` brought, by model."""


def fetch_backend(
    model_id: str,
    revision: str | None = None,
    dtype: str | None = None,
    device: str = "cpu",
    commits: dict[str, str] | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Get the weights, while the previous model keeps answering.

    Gives the bytes of memory that they take, and the commits of what was found: given again as `commits`,
    they keep the model the same, whatever its repository gets.
    """
    item_bytes = getattr(chosen_dtype(dtype, device), "itemsize", _STORED_ITEM_BYTES)
    factor = max(1, item_bytes / _STORED_ITEM_BYTES)

    def announce(weights_bytes: int) -> None:
        needed = int(weights_bytes * factor)
        progress(needed, needed, "bytes of memory")

    with explained(model_id, revision):
        found = _fetched[model_id] = find(model_id, revision, commits or {}, progress, announce)
    return {"memory_bytes": int(found.size_bytes * factor), "args": {"commits": found.commits}}


def init_backend(
    model_id: str,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    commits: dict[str, str] | None = None,
    compile: bool = False,  # noqa: A002, FBT001, FBT002  the manifest's word
    progress: Progress = lambda *_: None,
) -> None:
    """Load the weights; get them first where `fetch_backend` has not.

    `model_id` is a repository on the hub, or a folder, which has no `revision`. `dtype` is what to compute
    in, by torch's name; by default what the model's code builds (bfloat16), and float32 on a CPU without
    instructions for that. `commits` are those of what is loaded, by repository, where they are known.
    """
    computed = chosen_dtype(dtype, device)
    with explained(model_id, revision):
        found = _fetched.get(model_id) or find(model_id, revision, commits or {}, progress)
        with without_network(found):
            loaded = AutoModelForCausalLM.from_pretrained(
                found.source,
                revision=found.commits.get(model_id),
                trust_remote_code=True,
                local_files_only=True,
                device_map={"": device},
            )
    if device == "cpu":
        use_physical_cores()
    model = Model(loaded.to(device).eval(), device, computed)
    progress(found.size_bytes, found.size_bytes, "bytes")
    model.finish(is_compiled=compile, progress=progress)
    _loaded["model"] = model
    for name in _OPTIONAL_FUNCTIONS:
        if model.function(name) is None:
            globals()[name] = None  # the station says that there is no such function


def caption(
    image_url: Any = None,
    length: Any = "normal",
    stream: Any = None,
    settings: Any = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = lambda *_: None,
    **others: Any,
) -> dict[str, Any]:
    """Describe an image, given as a `data:` URL or base64; `length` is what the model knows."""
    _check_others(others)
    lengths = _loaded["model"].lengths()
    if not isinstance(length, str) or (lengths is not None and length not in lengths):
        raise ArgumentInvalid("length", f"must be one of {', '.join(lengths or ('short', 'normal', 'long'))}")
    options = {"length": length, "settings": settings_of(settings, _TEXT_SETTINGS)}
    return _text("caption", "caption", stream, decoded(image_url), options, (cancelled, progress))


def query(
    question: Any = None,
    image_url: Any = None,
    stream: Any = None,
    reasoning: Any = False,  # noqa: FBT002  as the client has it
    settings: Any = None,
    spatial_refs: Any = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = lambda *_: None,
    **others: Any,
) -> dict[str, Any]:
    """Answer a question, about an image or without one; with `reasoning` the answer tells how, too."""
    _check_others(others)
    options = {
        "question": arguments.word(question, "question"),
        "reasoning": arguments.boolean(reasoning),
        "settings": settings_of(settings, _TEXT_SETTINGS),
        "spatial_refs": arguments.references(spatial_refs),
    }
    if options["spatial_refs"] and image_url is None:
        raise ArgumentInvalid("spatial_refs", "can only be used with an image")
    image = None if image_url is None else decoded(image_url)
    return _text("query", "answer", stream, image, options, (cancelled, progress))


def detect(
    image_url: Any = None,
    object: Any = None,  # noqa: A002  the client's word
    settings: Any = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = lambda *_: None,
    **others: Any,
) -> dict[str, Any]:
    """Boxes around things. `obj` is understood too, as Moondream Station 0.1 did."""
    options = _sought(object, settings, _OBJECT_SETTINGS, others)
    return {"objects": _ask("detect", decoded(image_url), options, (cancelled, progress))["objects"]}


def point(
    image_url: Any = None,
    object: Any = None,  # noqa: A002  the client's word
    settings: Any = None,
    spatial_refs: Any = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = lambda *_: None,
    **others: Any,
) -> dict[str, Any]:
    """Points on things, and how many there are."""
    options = _sought(object, settings, _OBJECT_SETTINGS, others)
    options["spatial_refs"] = arguments.references(spatial_refs)
    points = _ask("point", decoded(image_url), options, (cancelled, progress))["points"]
    return {"points": points, "count": len(points)}


def segment(
    image_url: Any = None,
    object: Any = None,  # noqa: A002  the client's word
    settings: Any = None,
    spatial_refs: Any = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = lambda *_: None,
    **others: Any,
) -> dict[str, Any]:
    """The outline of a thing, as the model gives it: an SVG path, and its box."""
    options = _sought(object, settings, _TEXT_SETTINGS, others)
    options["spatial_refs"] = arguments.references(spatial_refs)
    return _ask("segment", decoded(image_url), options, (cancelled, progress))


def detect_gaze(
    image_url: Any = None,
    eye: Any = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Progress = lambda *_: None,
    **others: Any,
) -> dict[str, Any]:
    """Where somebody looks whose eye is at a point; `gaze` is null where they look out of the image."""
    _check_others(others)
    return _ask(
        "detect_gaze", decoded(image_url), {"eye": arguments.point(eye, "eye")}, (cancelled, progress)
    )


def _sought(name: Any, settings: Any, known: tuple[str, ...], others: dict[str, Any]) -> dict[str, Any]:
    obj = others.pop("obj", None)
    _check_others(others)
    return {"object": arguments.word(name or obj, "object"), "settings": settings_of(settings, known)}


def _check_others(others: dict[str, Any]) -> None:
    """Refuse what would change the answer and can't be honoured: a fine-tune of the hosted service."""
    model = others.get("model")
    if isinstance(model, str) and "/" in model:
        raise ArgumentInvalid(
            "model", f"names a fine-tune ({model}); only the active model itself answers here"
        )


def _text(
    function: str,
    key: str,
    stream: Any,
    content: bytes | None,
    options: dict[str, Any],
    caller: Caller,
) -> dict[str, Any]:
    """The answer of a function that gives text; whole, or piece by piece under the same key."""
    if not stream:
        return _ask(function, content, options, caller)

    def run() -> Iterator[Any]:
        with _lock:
            answer = _call(function, content, {**options, "stream": True}, caller)
            yield answer
            yield from answer[key]

    pieces = run()
    return {**next(pieces), key: pieces}  # what comes beside the text, its reasoning, is there before it


def _ask(function: str, content: bytes | None, options: dict[str, Any], caller: Caller) -> dict[str, Any]:
    with _lock:
        return _call(function, content, options, caller)


def _call(function: str, content: bytes | None, options: dict[str, Any], caller: Caller) -> dict[str, Any]:
    """Call the model with what is given and what it knows: revisions differ in what they take."""
    model = _loaded["model"]
    method = model.function(function)
    known = inspect.signature(method).parameters
    given = {name: value for name, value in options.items() if value not in (None, False, {})}
    if "reasoning" in options and "reasoning" in known:
        given["reasoning"] = options["reasoning"]  # on by default in Moondream 3, off in the client
    if strange := sorted(given.keys() - known.keys()):
        raise ArgumentInvalid(strange[0], f"is not known to this model's {function}: leave it out")
    model.work_for(caller)
    try:
        image = None
        if content is not None:
            image = model.encoded(hashlib.sha256(content).hexdigest(), arguments.opened(content))
        notes = _limit(given, image) if function in {"caption", "query"} else {}
        if given.get("settings"):
            # moondream2 2025-06-21 reads the variant of any settings, without asking whether it is there.
            given["settings"] = {**given["settings"], "variant": None}
        answer: dict[str, Any] = method(image, **given)
    except torch.OutOfMemoryError:
        model.forget_images()
        raise
    return {**answer, **notes}


def _limit(given: dict[str, Any], image: Any) -> dict[str, Any]:
    """Let the answer end where the model's context does; gives what to tell the caller about it."""
    model = _loaded["model"]
    room = model.context_left(given.get("question"), image, len(given.get("spatial_refs") or ()))
    if room is None:
        return {}
    room //= 2 if given.get("reasoning") else 1  # the thought may have as many as the answer
    if room < 1:
        raise ArgumentInvalid("question", "is too long: with the image it fills the model's context")
    asked = given.get("settings", {}).get("max_tokens")
    if (asked or _DEFAULT_MAX_TOKENS) > room:
        given["settings"] = {**given.get("settings", {}), "max_tokens": room}
    if asked is None or asked <= room:
        return {}
    return {"warnings": [f"max_tokens was {asked}; the model's context has room for {room}"]}
