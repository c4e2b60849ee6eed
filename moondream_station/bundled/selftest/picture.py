# ruff: noqa: INP001  a backend's folder is no package
"""An image as tensors on the chosen device: its colours, and the regions that can be told apart in it."""

from __future__ import annotations

import base64
import binascii
import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn.functional import max_pool2d

MAX_ENCODED_BYTES = 44 << 20
MAX_PIXELS = 50_000_000
SIDE = 256
"""Images are looked at in this size at most: enough to place a region to half a percent."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
BROKEN = (OSError, SyntaxError, EOFError, ValueError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for what is no image, or a damaged one."""

COLOURS = (
    *("black", "white", "grey"),
    *("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown"),
)
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
SALIENT_FROM = 0.25
"""Distance from the border's colour in RGB, of 1.73 at most."""
MOST_REGIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image as tensors, and what it was before it was made smaller.

    Args:
        width: In pixels, upright.
        height: In pixels, upright.
        luminance: Brightness of each pixel from 0 to 1, height by width.
        colours: Position of each pixel's colour in `COLOURS`, height by width.
        rgb: 3 by height by width, from 0 to 1.
    """

    width: int
    height: int
    luminance: torch.Tensor
    colours: torch.Tensor
    rgb: torch.Tensor

    def shares(self) -> list[tuple[float, str]]:
        """Each colour's share of the image, largest first."""
        shares = torch.stack([(self.colours == number).float().mean() for number in range(len(COLOURS))])
        return sorted(zip(shares.tolist(), COLOURS, strict=True), reverse=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A connected region: its box and a point inside it, from 0 to 1, and its share of the image."""

    box: dict[str, float]
    point: dict[str, float]
    share: float


def load(image_url: Any, device: torch.device) -> Picture:
    """An image as tensors.

    Args:
        image_url: A `data:` URL, or base64.
        device: Where they are to be.

    Raises:
        ValueError: It is missing, no image, damaged or too large; the text says what to do.
    """
    try:
        image = _open(_decode(image_url))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"it has {image.width} x {image.height} pixels")
        upright = ImageOps.exif_transpose(image)
        width, height = upright.size
        pixels = np.asarray(_on_white(upright, SIDE), dtype=np.float32)
    except BROKEN as error:
        raise ValueError(
            f"image_url can't be read as an image ({error}): send {', '.join(FORMATS)} of at most"
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
    found = torch.zeros_like(value, dtype=torch.int64)
    for name, *bounds in HSV:
        match = torch.ones_like(value, dtype=torch.bool)
        for measure, (start, end) in zip((hue, saturation, value), bounds, strict=True):
            match &= (measure >= start) & (measure < end)
        found[match] = COLOURS.index(name)
    return found


def salient(picture: Picture) -> torch.Tensor:
    """Where the colour differs from the border's median: a mask of height by width."""
    rgb = picture.rgb
    edges = (rgb[:, 0, :], rgb[:, -1, :], rgb[:, :, 0], rgb[:, :, -1])
    background = torch.cat(edges, dim=1).median(dim=1).values
    return (rgb - background[:, None, None]).square().sum(dim=0).sqrt() > SALIENT_FROM


def regions_of(mask: torch.Tensor) -> list[Region]:
    """The connected regions of a mask, largest first; specks are left out."""
    height, width = mask.shape
    labels = _label(mask)
    numbers, sizes = (tensor.tolist() for tensor in labels[mask].unique(return_counts=True))
    least = max(4, height * width // 1000)
    largest = sorted((size, number) for size, number in zip(sizes, numbers, strict=True) if size >= least)
    return [_region(labels == number, size) for size, number in reversed(largest[-MOST_REGIONS:])]


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


def _region(mask: torch.Tensor, size: int) -> Region:
    height, width = mask.shape
    ys, xs = mask.nonzero(as_tuple=True)
    distance = (ys - ys.float().mean()).square() + (xs - xs.float().mean()).square()
    nearest = int(distance.argmin())
    return Region(
        box={
            "x_min": int(xs.min()) / width,
            "y_min": int(ys.min()) / height,
            "x_max": (int(xs.max()) + 1) / width,
            "y_max": (int(ys.max()) + 1) / height,
        },
        point={"x": (int(xs[nearest]) + 0.5) / width, "y": (int(ys[nearest]) + 0.5) / height},
        share=size / (height * width),
    )


def _decode(image_url: Any) -> bytes:
    if not isinstance(image_url, str) or not image_url.strip():
        raise ValueError("there is none")
    text = image_url.strip()
    if text.startswith(("http:", "https:", "file:")):
        raise ValueError("the self-test fetches nothing")
    if len(text) > MAX_ENCODED_BYTES:
        raise ValueError(f"it has {len(text)} characters, at most {MAX_ENCODED_BYTES} are taken")
    if text.startswith("data:"):
        kind, comma, text = text.partition(",")
        if not comma or not kind.endswith(";base64"):
            raise ValueError("the data: URL is not base64")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the base64 is damaged: {error}") from error


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError("it is none of the formats below") from None


def _on_white(image: Image.Image, side: int) -> Image.Image:
    """The image made small, in RGB, on white where it is transparent."""
    small = image.convert("RGBA")
    small.thumbnail((side, side), Image.Resampling.BOX)
    white = Image.new("RGBA", small.size, "white")
    return Image.alpha_composite(white, small).convert("RGB")
