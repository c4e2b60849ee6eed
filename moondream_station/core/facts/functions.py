"""What functions take and give: by name those of Moondream's API, by their code any others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

Schema: TypeAlias = dict[str, Any]

IMAGES: Final = ("image_url", "image")
"""The arguments that are an image."""

_FRACTION: Final = "a fraction of the image's {}, from 0 (its {} edge) to 1"
_X: Final[Schema] = {"type": "number", "description": _FRACTION.format("width", "left")}
_Y: Final[Schema] = {"type": "number", "description": _FRACTION.format("height", "top")}


def _object_of(properties: Mapping[str, Schema], *optional: str) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


_BOX: Final = _object_of({"x_min": _X, "y_min": _Y, "x_max": _X, "y_max": _Y})
_POINT: Final = _object_of({"x": _X, "y": _Y})
_REASONING: Final[Schema] = {"description": "How the answer came about, where it was asked for."}

ARGUMENTS: Final[Mapping[str, Schema]] = {
    "image_url": {"type": "string", "description": "The image: a data: URL or base64. Nothing is fetched."},
    "question": {"type": "string", "description": "What to answer."},
    "object": {"type": "string", "description": 'What to find, in a few words: "dog", "red car".'},
    "length": {"type": "string", "description": "How much to say: short, normal or long."},
    "reasoning": {"type": "boolean", "description": "Whether to tell how the answer came about, too."},
    "eye": {
        "description": "The point where the eye is, as x and y: fractions of the image's width and height.",
        "anyOf": [_POINT, {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}],
    },
    "spatial_refs": {
        "type": "array",
        "description": "Points [x, y] and boxes [x_min, y_min, x_max, y_max] that the question is about.",
        "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 4},
    },
    "settings": {
        "type": "object",
        "description": "How to answer: temperature, top_p, max_tokens; for detect and point, max_objects.",
    },
    "stream": {"type": "boolean", "description": "Whether to send the answer as it is made."},
}
"""The arguments of Moondream's API."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument as the code declares it."""

    name: str
    schema: Mapping[str, Any]
    """What its annotation and default say; empty where they say nothing."""
    is_required: bool


@dataclass(frozen=True, slots=True)
class Signature:
    """A function as the code declares it."""

    summary: str = ""
    """The first line of its docstring."""
    arguments: tuple[Argument, ...] | None = None
    """None where the code does not tell."""


class FunctionShape(NamedTuple):
    """What a function takes and gives."""

    title: str
    description: str
    arguments: Schema
    answer: Schema


class _Known(NamedTuple):
    title: str
    description: str
    answer: Schema
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_KNOWN: Final[Mapping[str, _Known]] = {
    "caption": _Known(
        "Caption an image",
        "Describe an image in words.",
        _object_of({"caption": {"type": "string"}}),
        ("image_url",),
        ("length", "stream", "settings"),
    ),
    "query": _Known(
        "Ask about an image",
        "Answer a question in words, about an image or without one.",
        _object_of({"answer": {"type": "string"}, "reasoning": _REASONING}, "reasoning"),
        ("question",),
        ("image_url", "reasoning", "spatial_refs", "stream", "settings"),
    ),
    "detect": _Known(
        "Detect objects",
        "Find every instance of something in an image, each as a box in fractions of width and height.",
        _object_of({"objects": {"type": "array", "items": _BOX}}),
        ("image_url", "object"),
        ("settings",),
    ),
    "point": _Known(
        "Point at objects",
        "Find every instance of something in an image, each as a point in fractions of width and height.",
        _object_of({"points": {"type": "array", "items": _POINT}, "count": {"type": "integer"}}, "count"),
        ("image_url", "object"),
        ("spatial_refs", "settings"),
    ),
    "segment": _Known(
        "Outline an object",
        "Outline something in an image, as an SVG path in fractions of its width and height, and a box.",
        _object_of({"path": {"type": "string"}, "bbox": {"anyOf": [_BOX, {"type": "null"}]}}, "bbox"),
        ("image_url", "object"),
        ("spatial_refs", "stream", "settings"),
    ),
    "detect_gaze": _Known(
        "See where somebody looks",
        "Find the point in an image that somebody looks at; null where they look out of it.",
        _object_of({"gaze": {"anyOf": [_POINT, {"type": "null"}]}}),
        ("image_url", "eye"),
    ),
}
FUNCTIONS: Final = tuple(_KNOWN)
"""The functions of Moondream's API."""


def shape_of(name: str, signature: Signature = Signature()) -> FunctionShape:
    """What a function takes and gives, by what is known of its name, and of its code."""
    known = _KNOWN.get(name)
    properties = {} if known is None else {each: ARGUMENTS[each] for each in known.required + known.optional}
    required = list(known.required) if known else []
    if signature.arguments is not None:
        declared = {argument.name: argument for argument in signature.arguments}
        properties = {
            each: dict(argument.schema) | ARGUMENTS.get(each, {}) for each, argument in declared.items()
        }
        if known is None:
            required = [each for each, argument in declared.items() if argument.is_required]
        required = [each for each in required if each in properties]
    arguments: Schema = {"type": "object", "properties": properties, "required": required}
    if known is None:
        title = name.replace("_", " ").capitalize()
        return FunctionShape(
            title, signature.summary or f"The backend's function {name}.", arguments, {"type": "object"}
        )
    return FunctionShape(known.title, known.description, arguments, known.answer)
