# ruff: noqa: INP001  a backend's folder is no package
"""What a caller may ask for, checked before the model runs: each mistake is named by its argument."""

from __future__ import annotations

import base64
import binascii
import io
import json
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_ENCODED_BYTES = 44 << 20
MAX_PIXELS = 50_000_000


class ArgumentInvalid(ValueError):
    """The caller's argument can't be used: the station answers 400."""

    cause = "argument-invalid"

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(f"{argument} {message}")
        self.argument = argument


def word(value: Any, name: str) -> str:
    """A text that says something."""
    if not isinstance(value, str) or not value.strip():
        raise ArgumentInvalid(name, "is missing: give one as text")
    return value


def boolean(value: Any) -> bool:
    """Whether a form or JSON says yes."""
    return value is True or (isinstance(value, str) and value.strip().lower() in {"true", "1", "yes"})


def settings_of(value: Any, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Sampling settings; forms send JSON and numbers as text. A variant would be fetched from elsewhere."""
    value = _from_json(value, "settings")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ArgumentInvalid("settings", "must be an object")
    given = {key: item for key, item in value.items() if item is not None}
    if strange := sorted(map(str, given.keys() - {*allowed})):
        raise ArgumentInvalid(
            f"settings.{strange[0]}", f"is not supported; this function takes {', '.join(allowed)}"
        )
    return {key: _number(key, item) for key, item in given.items()}


def _number(key: str, value: Any) -> float | int:
    name = f"settings.{key}"
    is_whole = key.startswith("max_")
    try:
        number = (
            float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
        )
    except ValueError:
        number = None
    if number is None or (is_whole and not number.is_integer()):
        raise ArgumentInvalid(name, f"must be a {'whole ' if is_whole else ''}number, not {value!r}")
    least, most = {"temperature": (0, 100), "top_p": (0, 1)}.get(key, (1, 2**31))
    if not least <= number <= most:
        raise ArgumentInvalid(name, f"must be from {least} to {most}, not {value}")
    return int(number) if is_whole else number


def references(value: Any) -> list[tuple[float, ...]] | None:
    """Points (x, y) and boxes (x_min, y_min, x_max, y_max), in parts of the image's width and height."""
    value = _from_json(value, "spatial_refs")
    if not value:
        return None
    if not isinstance(value, list):
        raise ArgumentInvalid("spatial_refs", "must be a list of points and boxes")
    return [point(item, "spatial_refs", (2, 4)) for item in value]


def point(value: Any, name: str, sizes: tuple[int, ...] = (2,)) -> tuple[float, ...]:
    """Numbers from 0 to 1, as many as one of `sizes` says."""
    numbers = list(value.values()) if isinstance(value, dict) else value
    is_right = isinstance(numbers, (list, tuple)) and len(numbers) in sizes
    if not is_right or not all(type(number) in {int, float} and 0 <= number <= 1 for number in numbers):
        wanted = " or ".join(map(str, sizes))
        raise ArgumentInvalid(name, f"must have {wanted} numbers from 0 to 1 each, not {str(value)[:80]}")
    return tuple(float(number) for number in numbers)


def _from_json(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError:
        raise ArgumentInvalid(name, "is not valid JSON") from None


def decoded(image_url: Any) -> bytes:
    """The image's file, from a `data:` URL or base64."""
    text = word(image_url, "image_url").strip()
    if text[:6].lower().startswith(("http:", "https:", "file:")):
        raise _no_image("nothing is fetched; send the image itself, as a data: URL or base64")
    if len(text) > MAX_ENCODED_BYTES:
        raise _no_image(f"it has {len(text)} characters; the limit is {MAX_ENCODED_BYTES}")
    try:
        return base64.b64decode("".join(_base64_of(text).split()), validate=True)
    except binascii.Error as error:
        raise _no_image(f"the base64 is damaged: {error}") from error


def opened(content: bytes) -> Image.Image:
    """The image, upright, in RGB."""
    Image.init()
    formats = [name for name in Image.OPEN if name != "EPS"]  # which Pillow lets Ghostscript run
    try:
        image = Image.open(io.BytesIO(content), formats=formats)
        if image.width * image.height > MAX_PIXELS:
            raise _no_image(f"it has {image.width} x {image.height} pixels; the limit is {MAX_PIXELS}")
        return _with_8_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except ArgumentInvalid:
        raise
    except UnidentifiedImageError:
        raise _no_image("Pillow does not recognise the image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _no_image(str(error)) from error


def _no_image(reason: str) -> ArgumentInvalid:
    return ArgumentInvalid("image_url", f"can't be used: {reason}")


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


def _base64_of(text: str) -> str:
    """What a `data:` URL (RFC 2397; scheme and parameters in any case) has encoded, or the text itself."""
    if text[:5].lower() != "data:":
        return text
    kind, comma, encoded = text.partition(",")
    if not comma or kind.rpartition(";")[2].strip().lower() != "base64":
        raise _no_image("the data: URL is not base64")
    return unquote(encoded)
