"""A model of the tests' own that needs nothing but torch: an image's bytes, through one layer, in words."""

from __future__ import annotations

import base64
from typing import Any

import torch

WORDS = ("moon", "dream", "station", "crater")

loaded: dict[str, Any] = {}


def init_backend(**_: object) -> None:
    """Put the layer onto the accelerator, where there is one."""
    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
    elif hasattr(torch, "xpu") and torch.xpu.is_available():
        device = "xpu"
    elif torch.backends.mps.is_available():
        device = "mps"
    torch.manual_seed(20251129)
    loaded["layer"] = torch.nn.Linear(256, len(WORDS)).to(device)


def caption(
    image_url: str, length: str = "normal", *, stream: bool = False, **_: object
) -> dict[str, object]:
    """The words in the order that the layer gives them."""
    content = bytearray(base64.b64decode(image_url.partition(",")[2]))
    counts = torch.bincount(torch.frombuffer(content, dtype=torch.uint8).int(), minlength=256)
    layer = loaded["layer"]
    device = layer.weight.device
    with torch.inference_mode():
        order = layer((counts / len(content)).to(device)).argsort(descending=True).tolist()
    words = [f"{WORDS[number]} " for number in order[: 1 if length == "short" else None]]
    return {"caption": iter(words) if stream else "".join(words), "device": str(device)}
