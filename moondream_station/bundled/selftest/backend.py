# ruff: noqa: INP001  a backend's folder is no package
"""Answers about an image with nothing but tensor arithmetic: proof that a machine serves, no language model.

The contract is every backend's: `init_backend`, and functions that take keyword arguments and return a
dictionary. What they say is computed with torch, on the chosen device, from the image itself: its colours,
and the regions that can be told apart in it.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn.functional import max_pool2d

PREFIX = "Self-test, no language model:"
SYNONYMS = {"gray": "grey", "violet": "purple", "magenta": "pink", "turquoise": "cyan", "teal": "cyan"}
OBJECTS = frozenset({"object", "thing", "salient", "subject", "foreground", "region", "shape", "anything"})
BRIGHT, DARK = frozenset({"bright", "light"}), frozenset({"dark"})
BRIGHT_FROM, DARK_BELOW = 0.6, 0.3
LOW_CONTRAST, HIGH_CONTRAST = 0.1, 0.25
SMALLEST_SHARE = 0.01

MAX_ENCODED_BYTES = 44 << 20
MAX_PIXELS = 50_000_000
SIDE = 256
"""Images are scaled down to this size at most: enough to place a region to half a percent."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
"""Those of them that Pillow has."""
BROKEN = (OSError, SyntaxError, EOFError, ValueError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for what is not an image, or a damaged one."""

HSV: tuple[tuple[str, tuple[float, float], tuple[float, float], tuple[float, float]], ...] = (
    ("red", (0, 361), (0, 2), (0, 2)),
    ("orange", (15, 42), (0, 2), (0, 2)),
    ("yellow", (42, 70), (0, 2), (0, 2)),
    ("green", (70, 165), (0, 2), (0, 2)),
    ("cyan", (165, 195), (0, 2), (0, 2)),
    ("blue", (195, 260), (0, 2), (0, 2)),
    ("purple", (260, 290), (0, 2), (0, 2)),
    ("pink", (290, 345), (0, 2), (0, 2)),
    ("purple", (290, 330), (0, 2), (0, 0.75)),
    ("pink", (0, 25), (0, 0.5), (0.75, 2)),
    ("pink", (345, 361), (0, 0.5), (0.75, 2)),
    ("brown", (0, 42), (0, 0.95), (0, 0.68)),
    ("grey", (0, 361), (0, 0.15), (0, 2)),
    ("white", (0, 361), (0, 0.15), (0.85, 2)),
    ("black", (0, 361), (0, 2), (0, 0.18)),
)
"""Colour names by hue in degrees, saturation and value, each from and below; a later line wins."""
COLOURS = tuple(dict.fromkeys(name for name, *_ in HSV))
SALIENT_FROM = 0.25
"""Distance from the border's colour in RGB, of 1.73 at most."""
MOST_REGIONS = 16


class ArgumentInvalid(ValueError):
    """The caller's argument can't be used: the station answers 400."""

    cause = "argument-invalid"

    def __init__(self, message: str, argument: str = "image_url") -> None:
        super().__init__(message)
        self.argument = argument


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image as tensors, and its upright size in pixels before it was made smaller."""

    width: int
    height: int
    luminance: torch.Tensor
    """Height by width, from 0 to 1."""
    colours: torch.Tensor
    """Height by width: each pixel's position in `COLOURS`."""
    rgb: torch.Tensor
    """3 by height by width, from 0 to 1."""


_state: dict[str, torch.device] = {"device": torch.device("cpu")}


def fetch_backend() -> int:
    """Nothing is fetched; gives the bytes that an image of the largest size takes."""
    return 4 * SIDE * SIDE * len(COLOURS)


def init_backend(device: str | None = None, **_: Any) -> None:
    """Choose the device, by default the best one that torch has, and compute once on it."""
    chosen = torch.device(device or _best_device())
    torch.ones(8, device=chosen).sum().item()
    _state["device"] = chosen


def caption(image_url: Any = None, length: Any = "normal", stream: Any = None, **_: Any) -> dict[str, Any]:
    """Describe an image's colours, brightness and salient regions."""
    if length not in ["short", "normal", "long"]:  # not in a set: a list has no hash
        raise ArgumentInvalid(f"length is {length!r}: use short, normal or long", "length")
    picture = load(image_url, _state["device"])
    parts = [f"a {_brightness(picture)} image, mostly {_colours(picture)}"]
    if length != "short":
        regions = regions_of(salient(picture))
        parts.append(_counted(regions, "salient region"))
    if length == "long":
        parts.append(f"{_contrast(picture)}; {_size(picture)}")
    return {"caption": _spoken(f"{PREFIX} {'; '.join(parts)}.", stream)}


def query(question: Any = None, image_url: Any = None, stream: Any = None, **_: Any) -> dict[str, Any]:
    """Answer what numbers can answer: colours, brightness, contrast, size, how many regions, and where."""
    if not isinstance(question, str) or not question.strip():
        raise ArgumentInvalid("question is missing: give one as text", "question")
    if image_url is None:
        answer = "without an image there is nothing to compute; send one with the question"
    else:
        answer = _answer(_words(question), load(image_url, _state["device"]))
    return {"answer": _spoken(f"{PREFIX} {answer}.", stream)}


def detect(image_url: Any = None, object: Any = None, **_: Any) -> dict[str, Any]:  # noqa: A002  the API's word
    """Find regions of a colour ("the blue square"), bright or dark ones, or salient ones, the largest first.

    None for words that mean nothing to arithmetic.
    """
    return {"objects": [_box(region) for region in _find(image_url, object)]}


def point(image_url: Any = None, object: Any = None, **_: Any) -> dict[str, Any]:  # noqa: A002  the API's word
    """Find what `detect` finds, each as a point `x`, `y` inside it."""
    return {"points": [_point(region) for region in _find(image_url, object)]}


def _find(image_url: Any, name: Any) -> list[torch.Tensor]:
    if not isinstance(name, str) or not name.strip():
        text = "object is missing: name a colour, or bright, dark, object or salient"
        raise ArgumentInvalid(text, "object")
    mask = _mask(_words(name), load(image_url, _state["device"]))
    return [] if mask is None else regions_of(mask)


def _mask(words: set[str], picture: Picture) -> torch.Tensor | None:
    """Where the image is what the words name; None where they name nothing that can be computed."""
    masks = [picture.colours == COLOURS.index(name) for name in COLOURS if name in words]
    mask = torch.stack(masks).any(dim=0) if masks else None
    light = picture.luminance
    for names, matches in ((BRIGHT, light >= BRIGHT_FROM), (DARK, light < DARK_BELOW)):
        if words & names:
            mask = matches if mask is None else mask & matches
    return salient(picture) if mask is None and words & OBJECTS else mask


def _answer(words: set[str], picture: Picture) -> str:
    mask = _mask(words, picture)
    regions = regions_of(salient(picture) if mask is None else mask)
    for names, say in ANSWERS:
        if words & {*names.split()}:
            return say(picture, regions)
    if mask is None:
        return f"that is beyond arithmetic. The image is {_brightness(picture)}, mostly {_colours(picture)}"
    return f"{'yes' if regions else 'no'}, {float(mask.float().mean()):.0%} of the image{_places(regions)}"


def _colours(picture: Picture) -> str:
    shares = [
        (float((picture.colours == number).float().mean()), name) for number, name in enumerate(COLOURS)
    ]
    largest = sorted(shares, reverse=True)[:2]
    return " and ".join(f"{name} ({share:.0%})" for share, name in largest if share >= SMALLEST_SHARE)


def _brightness(picture: Picture) -> str:
    steps = ((0.15, "very dark"), (0.35, "dark"), (0.65, "medium bright"), (0.85, "bright"))
    mean = float(picture.luminance.mean())
    return next((name for below, name in steps if mean < below), "very bright")


def _contrast(picture: Picture) -> str:
    spread = float(picture.luminance.std(correction=0))
    name = "low" if spread < LOW_CONTRAST else "medium" if spread < HIGH_CONTRAST else "high"
    return f"{name} contrast ({spread:.2f})"


def _size(picture: Picture) -> str:
    width, height = picture.width, picture.height
    form = "square" if width == height else "landscape" if width > height else "portrait"
    return f"{width} x {height} pixels, {form}"


def _places(regions: list[torch.Tensor]) -> str:
    """Where the largest regions are, in words: " (top left, centre)"."""
    columns, rows = ("left", "", "right"), ("top", "", "bottom")
    points = [_point(region) for region in regions[:3]]
    names = [f"{rows[int(point['y'] * 3)]} {columns[int(point['x'] * 3)]}".strip() for point in points]
    return f" ({', '.join(name or 'centre' for name in names)})" if names else ""


def _counted(regions: list[torch.Tensor], noun: str) -> str:
    number = len(regions)
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}{_places(regions)}"


def _words(text: str) -> set[str]:
    """The words of a text, in lower case, plurals also in the singular, synonyms by their usual name."""
    words = set(re.findall(r"[a-z]+", text.lower()[:4000]))
    words |= {word.removesuffix("s") for word in words}
    return words | {SYNONYMS[word] for word in words & SYNONYMS.keys()}


def _spoken(text: str, stream: Any) -> str | Iterator[str]:
    """The text, or its words one by one; joined they are the text."""
    return iter(re.findall(r"\S+\s*", text)) if stream else text


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return "xpu"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load(image_url: Any, device: torch.device) -> Picture:
    """A `data:` URL or base64 as tensors; a ValueError says what to send instead."""
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        image = Image.open(io.BytesIO(_decoded(image_url)), formats=formats)
        if image.width * image.height > MAX_PIXELS:
            raise ArgumentInvalid(f"it has {image.width} x {image.height} pixels")
        upright = ImageOps.exif_transpose(image)
        width, height = upright.size
        pixels = np.asarray(_on_white(upright, SIDE), dtype=np.float32)
    except BROKEN as error:
        why = "its format is not supported" if isinstance(error, UnidentifiedImageError) else error
        raise ArgumentInvalid(
            f"image_url can't be read as an image ({why}): send {', '.join(formats)} of at most"
            f" {MAX_PIXELS // 1_000_000} megapixels as a data: URL or base64"
        ) from error
    rgb = torch.from_numpy(pixels).to(device).permute(2, 0, 1) / 255
    weights = torch.tensor([0.2126, 0.7152, 0.0722], device=rgb.device)
    luminance = (rgb * weights[:, None, None]).sum(dim=0)
    return Picture(width=width, height=height, luminance=luminance, colours=classify(rgb), rgb=rgb)


def classify(rgb: torch.Tensor) -> torch.Tensor:
    """Each pixel's position in `COLOURS`. `rgb` is 3 by height by width, from 0 to 1."""
    red, green, blue = rgb
    value = rgb.amax(dim=0)
    chroma = value - rgb.amin(dim=0)
    safe = chroma.clamp_min(1e-6)
    hue = torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    hue = torch.where(value == red, (green - blue) / safe, hue) * 60 % 360
    saturation = chroma / value.clamp_min(1e-6)
    positions = torch.zeros_like(value, dtype=torch.int64)
    for name, *bounds in HSV:
        match = torch.ones_like(value, dtype=torch.bool)
        for measure, (start, end) in zip((hue, saturation, value), bounds, strict=True):
            match &= (measure >= start) & (measure < end)
        positions[match] = COLOURS.index(name)
    return positions


def salient(picture: Picture) -> torch.Tensor:
    """Where the colour differs from the border's median: a mask of height by width."""
    rgb = picture.rgb
    border = (rgb[:, 0, :], rgb[:, -1, :], rgb[:, :, 0], rgb[:, :, -1])
    background = torch.cat(border, dim=1).median(dim=1).values
    return (rgb - background[:, None, None]).square().sum(dim=0).sqrt() > SALIENT_FROM


def regions_of(mask: torch.Tensor) -> list[torch.Tensor]:
    """The connected regions of a mask, each a mask, the largest first; specks are left out."""
    labels = _label(mask)
    numbers, sizes = (tensor.tolist() for tensor in labels[mask].unique(return_counts=True))
    least = max(4, mask.numel() // 1000)
    largest = sorted((size, number) for size, number in zip(sizes, numbers, strict=True) if size >= least)
    return [labels == number for _, number in reversed(largest[-MOST_REGIONS:])]


def _label(mask: torch.Tensor) -> torch.Tensor:
    """Give each connected region one number of its own: the largest spreads until nothing changes."""
    inside = mask.float()
    numbers = torch.arange(1, mask.numel() + 1, device=mask.device, dtype=torch.float32).reshape(mask.shape)
    labels = numbers * inside
    while True:
        spread = labels
        for _ in range(16):
            spread = max_pool2d(spread[None, None], 3, stride=1, padding=1)[0, 0] * inside
        if torch.equal(spread, labels):
            return labels
        labels = spread


def _box(region: torch.Tensor) -> dict[str, float]:
    height, width = region.shape
    ys, xs = region.nonzero(as_tuple=True)
    return {
        "x_min": int(xs.min()) / width,
        "y_min": int(ys.min()) / height,
        "x_max": (int(xs.max()) + 1) / width,
        "y_max": (int(ys.max()) + 1) / height,
    }


def _point(region: torch.Tensor) -> dict[str, float]:
    """The point of a region that is nearest to its centre."""
    height, width = region.shape
    ys, xs = region.nonzero(as_tuple=True)
    nearest = int(((ys - ys.float().mean()).square() + (xs - xs.float().mean()).square()).argmin())
    return {"x": (int(xs[nearest]) + 0.5) / width, "y": (int(ys[nearest]) + 0.5) / height}


def _decoded(image_url: Any) -> bytes:
    """The bytes of a `data:` URL (RFC 2397; scheme and parameters in any case), or of the base64 itself."""
    text = image_url.strip() if isinstance(image_url, str) else ""
    if not text:
        raise ArgumentInvalid("it is missing")
    if len(text) > MAX_ENCODED_BYTES:
        raise ArgumentInvalid(f"it has {len(text)} characters; the limit is {MAX_ENCODED_BYTES}")
    scheme = text[:6].lower()
    if scheme.startswith(("http:", "https:", "file:")):
        raise ArgumentInvalid("the self-test fetches nothing")
    if scheme.startswith("data:"):
        kind, _, encoded = text.partition(",")
        if kind.rpartition(";")[2].strip().lower() != "base64":
            raise ArgumentInvalid("the data: URL is not base64")
        text = unquote(encoded)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ArgumentInvalid(f"the base64 is damaged: {error}") from error


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


def _on_white(image: Image.Image, side: int) -> Image.Image:
    """The image made small, in RGB, on white where it is transparent."""
    small = _with_8_bits(image).convert("RGBA")
    small.thumbnail((side, side), Image.Resampling.BOX)
    white = Image.new("RGBA", small.size, "white")
    return Image.alpha_composite(white, small).convert("RGB")


ANSWERS: tuple[tuple[str, Callable[[Picture, list[torch.Tensor]], str]], ...] = (
    ("many count number where position located", lambda _, regions: _counted(regions, "region")),
    ("colour color", lambda picture, _: f"mostly {_colours(picture)}"),
    ("contrast", lambda picture, _: _contrast(picture)),
    ("size width height resolution dimension aspect", lambda picture, _: _size(picture)),
    (
        "brightness bright light dark",
        lambda picture, _: f"{_brightness(picture)}, {float(picture.luminance.mean()):.2f} of 1 on average",
    ),
)
"""What a question with one of these words is answered with; the first that fits."""
