# ruff: noqa: INP001  a backend's folder is no package
"""Answers about an image with nothing but tensor arithmetic: proof that a machine serves, no language model.

The contract is every backend's: `init_backend`, and functions that take keyword arguments and return a
dictionary. What they say is computed with torch, on the chosen device, from the image itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from moondream_station.bundled.selftest.picture import (
        COLOURS,
        Picture,
        Region,
        load,
        regions_of,
        salient,
    )
else:  # a backend's folder is on the worker's path
    from picture import COLOURS, Picture, Region, load, regions_of, salient

PREFIX = "Self-test, no language model:"
SYNONYMS = {"gray": "grey", "violet": "purple", "magenta": "pink", "turquoise": "cyan", "teal": "cyan"}
OBJECTS = frozenset({"object", "thing", "salient", "subject", "foreground", "region", "shape", "anything"})
BRIGHT, DARK = frozenset({"bright", "light"}), frozenset({"dark"})
BRIGHT_FROM, DARK_BELOW = 0.6, 0.3
SMALLEST_SHARE = 0.01

_state: dict[str, torch.device] = {"device": torch.device("cpu")}


def init_backend(device: str | None = None, **_: Any) -> None:
    """Choose the device, and compute once on it.

    Args:
        device: "cpu", "cuda", "xpu" or "mps"; the best one that torch has by default.
    """
    chosen = torch.device(device or _best_device())
    torch.ones(8, device=chosen).sum().item()
    _state["device"] = chosen


def caption(image_url: Any = None, length: Any = "normal", stream: Any = None, **_: Any) -> dict[str, Any]:
    """Describe an image's colours, brightness and salient regions.

    Args:
        image_url: A `data:` URL, or base64.
        length: "short", "normal" or "long".
        stream: Whether `caption` is to be an iterator of words.

    Raises:
        ValueError: The image can't be used; the text says what to do.
    """
    if length not in {"short", "normal", "long"}:
        raise ValueError(f"length is {length!r}: use short, normal or long")
    picture = load(image_url, _state["device"])
    parts = [f"a {_brightness(picture)} image, mostly {_colours(picture)}"]
    if length != "short":
        found = regions_of(salient(picture))
        parts.append(f"{_count(len(found), 'salient region')}{_places(found[:3])}")
    if length == "long":
        parts.append(f"{_contrast(picture)}; {_size(picture)}")
    return {"caption": _spoken(f"{PREFIX} {'; '.join(parts)}.", stream)}


def query(question: Any = None, image_url: Any = None, stream: Any = None, **_: Any) -> dict[str, Any]:
    """Answer what numbers can answer: colours, brightness, contrast, size, how many regions, and where.

    Args:
        question: In English.
        image_url: A `data:` URL, or base64.
        stream: Whether `answer` is to be an iterator of words.

    Raises:
        ValueError: There is no question, or the image can't be used.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError("question is missing: give one as text")
    if image_url is None:
        said = "without an image there is nothing to compute; send one with the question"
    else:
        said = _answer(_words(question), load(image_url, _state["device"]))
    return {"answer": _spoken(f"{PREFIX} {said}.", stream)}


def detect(image_url: Any = None, object: Any = None, **_: Any) -> dict[str, Any]:  # noqa: A002  the API's word
    """Find regions of a colour, bright or dark ones, or salient ones.

    Args:
        image_url: A `data:` URL, or base64.
        object: A colour, alone or in a phrase ("the blue square"), "bright", "dark", "object" or "salient".

    Returns:
        `objects`, the largest first, each with `x_min`, `y_min`, `x_max`, `y_max` from 0 to 1; none for words
        that mean nothing to arithmetic.
    """
    return {"objects": [region.box for region in _find(image_url, object)]}


def point(image_url: Any = None, object: Any = None, **_: Any) -> dict[str, Any]:  # noqa: A002  the API's word
    """Find what `detect` finds, each as a point `x`, `y` inside it."""
    return {"points": [region.point for region in _find(image_url, object)]}


def _find(image_url: Any, wanted: Any) -> list[Region]:
    if not isinstance(wanted, str) or not wanted.strip():
        raise ValueError("object is missing: name a colour, or bright, dark, object or salient")
    mask = _mask(_words(wanted), load(image_url, _state["device"]))
    return [] if mask is None else regions_of(mask)


def _mask(words: set[str], picture: Picture) -> torch.Tensor | None:
    """Where the image is what the words name; None where they name nothing that can be computed."""
    masks = [picture.colours == COLOURS.index(name) for name in COLOURS if name in words]
    mask = torch.stack(masks).any(dim=0) if masks else None
    for names, matches in (
        (BRIGHT, picture.luminance >= BRIGHT_FROM),
        (DARK, picture.luminance < DARK_BELOW),
    ):
        if words & names:
            mask = matches if mask is None else mask & matches
    return salient(picture) if mask is None and words & OBJECTS else mask


def _answer(words: set[str], picture: Picture) -> str:
    mask = _mask(words, picture)
    found = regions_of(salient(picture) if mask is None else mask)
    for names, say in ANSWERS:
        if words & names:
            return say(picture, found)
    if mask is None:
        return f"that is beyond arithmetic. The image is {_brightness(picture)}, mostly {_colours(picture)}"
    return f"{'yes' if found else 'no'}, {float(mask.float().mean()):.0%} of the image{_places(found[:3])}"


def _colours(picture: Picture) -> str:
    return " and ".join(
        f"{name} ({share:.0%})" for share, name in picture.shares()[:2] if share >= SMALLEST_SHARE
    )


def _brightness(picture: Picture) -> str:
    steps = ((0.15, "very dark"), (0.35, "dark"), (0.65, "medium bright"), (0.85, "bright"))
    mean = float(picture.luminance.mean())
    return next((name for below, name in steps if mean < below), "very bright")


def _contrast(picture: Picture) -> str:
    spread = float(picture.luminance.std(correction=0))
    steps = ((0.1, "low"), (0.25, "medium"))
    name = next((name for below, name in steps if spread < below), "high")
    return f"{name} contrast ({spread:.2f})"


def _size(picture: Picture) -> str:
    width, height = picture.width, picture.height
    form = "square" if width == height else "landscape" if width > height else "portrait"
    return f"{width} x {height} pixels, {form}"


def _places(found: list[Region]) -> str:
    """Where regions are, in words: " (top left, centre)"."""
    columns, rows = ("left", "", "right"), ("top", "", "bottom")
    names = [
        f"{rows[min(2, int(region.point['y'] * 3))]} {columns[min(2, int(region.point['x'] * 3))]}".strip()
        for region in found
    ]
    return f" ({', '.join(name or 'centre' for name in names)})" if names else ""


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _words(text: str) -> set[str]:
    """The words of a text, in lower case, plurals also in the singular, synonyms by their usual name."""
    found = set(re.findall(r"[a-z]+", text.lower()[:4000]))
    found |= {word.removesuffix("s") for word in found}
    return found | {SYNONYMS[word] for word in found & SYNONYMS.keys()}


def _spoken(text: str, stream: Any) -> str | Iterator[str]:
    """The text, or its words one by one; joined they are the text."""
    if not stream:
        return text
    return iter(re.findall(r"\S+\s*", text))


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return "xpu"
    return "mps" if torch.backends.mps.is_available() else "cpu"


ANSWERS: tuple[tuple[set[str], Callable[[Picture, list[Region]], str]], ...] = (
    (
        {"many", "count", "number", "where", "position", "located"},
        lambda _, found: f"{_count(len(found), 'region')}{_places(found[:3])}",
    ),
    ({"colour", "color"}, lambda picture, _: f"mostly {_colours(picture)}"),
    ({"contrast"}, lambda picture, _: _contrast(picture)),
    ({"size", "width", "height", "resolution", "dimension", "aspect"}, lambda picture, _: _size(picture)),
    (
        {"brightness", *BRIGHT, *DARK},
        lambda picture, _: f"{_brightness(picture)}, {float(picture.luminance.mean()):.2f} of 1 on average",
    ),
)
"""What a question with one of the words is answered with; the first that fits."""
