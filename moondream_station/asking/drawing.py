"""Draws what a model found into copies of images: boxes, points and masks."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError
from svg.path import Close, Line, Move, parse_path

from moondream_station.core.facts.errors import ArgumentInvalid

_COLOURS: Final = ((230, 57, 70), (29, 53, 187), (6, 148, 105), (244, 140, 6), (114, 9, 183), (0, 150, 199))
_MASK_OPACITY: Final = 110
_STEPS: Final = 24
"""Lines that stand for a curve of a mask's outline."""


class _Box(NamedTuple):
    """In pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point that is given in fractions of the box."""
        return self.left + x * (self.right - self.left), self.top + y * (self.bottom - self.top)


def save_drawn(content: bytes, answer: Mapping[str, Any], path: Path) -> bool:
    """Draw an answer's findings into a copy of an image, a PNG; False, and no file, where it has none.

    `objects` are boxes, `points` points, and `path` with `bbox` an outline in fractions of that box (SVG).
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            # As the backends read it: what was turned for the model is turned here.
            image = ImageOps.exif_transpose(opened).convert("RGBA")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ArgumentInvalid(f"it can't be drawn on: {error}") from error
    overlay = Image.new("RGBA", image.size)
    if not _draw(ImageDraw.Draw(overlay), answer, _Box(0, 0, *image.size)):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.alpha_composite(image, overlay).convert("RGB").save(path, format="PNG")
    return True


def _draw(pen: ImageDraw.ImageDraw, answer: Mapping[str, Any], whole: _Box) -> bool:
    width = max(2, round(min(whole.right, whole.bottom) / 150))
    drawn = 0
    for found in _dicts(answer.get("objects")):
        if (box := _box(found, whole)) is not None:
            pen.rectangle(box, outline=_COLOURS[drawn % len(_COLOURS)], width=width)
            drawn += 1
    for found in _dicts(answer.get("points")):
        if (x := _number(found.get("x"))) is not None and (y := _number(found.get("y"))) is not None:
            pen.circle(
                whole.place(x, y),
                width * 3,
                fill=_COLOURS[drawn % len(_COLOURS)],
                outline="white",
                width=width,
            )
            drawn += 1
    outline = answer.get("path")
    if isinstance(outline, str) and outline:
        box = _box(answer.get("bbox"), whole) or whole
        for polygon in _polygons(outline, box):
            pen.polygon(polygon, fill=(*_COLOURS[0], _MASK_OPACITY), outline=_COLOURS[0], width=width)
            drawn += 1
    return drawn > 0


def _polygons(outline: str, box: _Box) -> Iterator[list[tuple[float, float]]]:
    """The closed lines of an SVG path, curves as short lines."""
    polygon: list[tuple[float, float]] = []
    try:
        segments = list(parse_path(outline))
    except (ValueError, IndexError, TypeError) as error:
        raise ArgumentInvalid(f"the mask can't be drawn: {error}") from error
    for segment in segments:
        if isinstance(segment, Move) and polygon:
            yield polygon
            polygon = []
        steps = 1 if isinstance(segment, Move | Line | Close) else _STEPS
        points = (segment.point(step / steps) for step in range(1, steps + 1))
        polygon += [box.place(point.real, point.imag) for point in points]
    if len(polygon) > 1:
        yield polygon


def _box(found: object, whole: _Box) -> _Box | None:
    if not isinstance(found, Mapping):
        return None
    sides = [_number(found.get(name)) for name in ("x_min", "y_min", "x_max", "y_max")]
    if None in sides:
        return None
    left, top, right, bottom = (side for side in sides if side is not None)
    corners = (
        *whole.place(min(left, right), min(top, bottom)),
        *whole.place(max(left, right), max(top, bottom)),
    )
    return _Box(*corners)


def _dicts(found: object) -> Iterator[Mapping[str, Any]]:
    yield from (item for item in found if isinstance(item, Mapping)) if isinstance(found, list) else ()


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
