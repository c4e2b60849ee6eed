"""Images as both bundled backends read them: every depth of grey, every spelling of a `data:` URL."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import moondream_station
from support.real_torch import torch_environment

pytestmark = pytest.mark.torch
__all__ = ["torch_environment"]

_HERE = Path(__file__).parent
_PNG = base64.b64encode((_HERE / "inputs" / "grey30-16bit.png").read_bytes()).decode()

_PAINT = """
import base64, io, json
import numpy as np
from PIL import Image

def encoded(values, kind, form):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), values, dtype=kind)).save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()

print(json.dumps({
    "16-bit TIFF": encoded(20000, "<u2", "TIFF"), "I": encoded(20000, "int32", "TIFF"),
    "32-bit I": encoded(655_350_000, "int32", "TIFF"), "black I": encoded(0, "int32", "TIFF"),
    "F to 1": encoded(0.305, "float32", "TIFF"), "F to 255": encoded(77.8, "float32", "TIFF"),
    "F to 65535": encoded(20000, "float32", "TIFF"),
}))
"""


def _read(python: Path, urls: dict[str, str]) -> dict[str, dict[str, Any]]:
    bundled = Path(moondream_station.__file__).parent / "bundled"
    done = subprocess.run(
        [python, _HERE / "image_reader.py", bundled],
        input=json.dumps(urls),
        check=True,
        capture_output=True,
        text=True,
    )
    pixels: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return pixels


def test_grey_of_every_depth_is_scaled_and_not_cut_off(torch_environment: Path) -> None:
    """16-bit PNG and TIFF, whole numbers and fractions: 30 % is dark grey, not white."""
    done = subprocess.run([torch_environment, "-c", _PAINT], check=True, capture_output=True, text=True)
    images = {"16-bit PNG": _PNG, **json.loads(done.stdout)}
    for backend, pixels in _read(torch_environment, images).items():
        assert pixels.pop("black I") == [0, 0, 0], backend
        assert pixels == {key: [78, 78, 78] for key in pixels}, backend


def test_a_data_url_may_be_spelled_in_any_case(torch_environment: Path) -> None:
    """Scheme and parameters don't mind case or space, and what is percent-encoded is decoded."""
    quoted = _PNG.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    urls = [
        *(f"DATA:image/png;base64,{_PNG}", f"data:image/png;BASE64,{_PNG}", f"data:;base64,{_PNG}"),
        *(f"data:image/png; base64,{_PNG}", f"Data:image/png;name=a.png;Base64 ,{quoted}"),
    ]
    for backend, pixels in _read(torch_environment, dict(zip("abcde", urls, strict=True))).items():
        assert set(map(tuple, pixels.values())) == {(78, 78, 78)}, backend


def test_what_is_no_base64_or_elsewhere_is_said(torch_environment: Path) -> None:
    """A `data:` URL of plain text, and an address in any case, in both backends."""
    urls = {"text": "DATA:text/plain,hello", "address": "HTTPS://host.example/a.png"}
    for backend, errors in _read(torch_environment, urls).items():
        assert "not base64" in errors["text"], backend
        assert "fetche" in errors["address"], backend
