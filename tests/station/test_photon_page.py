"""The page's backend for Photon, on a stand-in for the client package with the signatures of 2.6.1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moondream_station.core.facts.events import ActivationFailed
from moondream_station.core.station import Station
from support.machines import GTX_1080, nvidia_linux
from support.pages import DOCS, blocks
from support.stations import HERE, Premises, failed, open_premises, switched
from support.wheels import Wheel

pytestmark = pytest.mark.anyio

PAGE = DOCS / "how-to" / "write-a-backend.md"
MODEL = "moondream-3-photon"
CUDA = nvidia_linux(driver="560.35.03", cuda="12.6", platform=HERE)
IMAGE = "data:image/png;base64,aW1hZ2U="

CLIENT = b'''
"""What `moondream` 2.6.1 has of Photon (`photon` in __init__.py, `PhotonClient`), without an engine."""

def photon(model, *, api_key=None, **runtime_config):
    return PhotonClient(api_key=api_key, model=model, **runtime_config)

class PhotonClient:
    def __init__(self, *, model, api_key=None, **runtime_config):
        self.made = {"model": model, "api_key": api_key, **runtime_config}

    def caption(self, image, length="normal", stream=False, settings=None):
        words = [f"{length} ", "of ", image.content]
        return {"caption": (word for word in words) if stream else "".join(words)}

    def query(
        self, image=None, question=None, stream=False, settings=None, reasoning=False, spatial_refs=None
    ):
        if question is None:
            raise ValueError("question parameter is required")
        answer = {"image": image and image.content, "question": question, "made": self.made}
        told = {"settings": settings, "reasoning": reasoning, "spatial_refs": spatial_refs}
        return {"answer": answer, "reasoning": told}

    def detect(self, image, object, settings=None):
        return {"objects": [{"of": object, "settings": settings, "image": image.content}]}

    def point(self, image, object, settings=None, spatial_refs=None):
        return {"points": [{"of": object, "settings": settings, "spatial_refs": spatial_refs}] * 2}

    def segment(self, image, object, spatial_refs=None, stream=False, settings=None):
        assert not stream
        return {"path": f"M {object}", "bbox": spatial_refs}
'''
IMAGES = b"""
class Image:
    def __init__(self, content):
        self.content = content

def open(file):
    return Image(file.read().decode())
"""


@pytest.fixture
def premises(tmp_path: Path) -> Any:
    """The page's manifest and backend, and an index with the stand-in."""
    with open_premises(tmp_path) as premises:
        folder = tmp_path / "photon"
        folder.mkdir()
        (folder / "backend.py").write_text(blocks(PAGE, "python")[-1])
        (folder / "requirements.txt").write_text(blocks(PAGE, "text")[-1])
        (tmp_path / "manifest.json").write_text(blocks(PAGE, "json")[-1])
        pillow = {"PIL/__init__.py": b"", "PIL/Image.py": IMAGES}
        for name, version, files in (
            ("moondream", "2.6.1", {"moondream/__init__.py": CLIENT}),
            ("pillow", "99.0", pillow),
        ):
            premises.index.add_simple(Wheel(name=name, version=version, files=files))
        yield premises


async def ask(station: Station, function: str, **arguments: object) -> Any:
    """A function's answer, with what it streams read to the end."""
    async with station.call(function, arguments, timeout_seconds=30) as answer:
        return answer if isinstance(answer, dict) else [chunk async for chunk in answer]


async def test_every_function_reaches_the_engine(premises: Premises) -> None:
    """With what the client sent, on the device that torch was verified on, once the notice is accepted."""
    async with premises.station(CUDA, serves=True) as station:
        refused = (await failed(station, MODEL)).only(ActivationFailed).error
        assert refused.code == "notice-not-accepted"
        assert "proprietary" in refused.message
        assert "telemetry" in refused.message
        await switched(station, MODEL, accept_notice=True)
        assert await ask(station, "caption", image_url=IMAGE, length="short") == {"caption": "short of image"}
        assert await ask(station, "caption", image_url=IMAGE, stream=True) == ["normal ", "of ", "image"]
        answer = await ask(station, "query", question="What?", settings={"top_p": 0.5}, reasoning=True)
        made = {"model": "moondream3.1-9B-A2B", "api_key": None, "device": "cuda"}
        assert answer == {
            "answer": {"image": None, "question": "What?", "made": made},
            "reasoning": {"settings": {"top_p": 0.5}, "reasoning": True, "spatial_refs": None},
        }
        found = await ask(station, "detect", image_url=IMAGE, object="cat")
        assert found == {"objects": [{"of": "cat", "settings": None, "image": "image"}]}
        points = await ask(station, "point", image_url=IMAGE, object="cat", spatial_refs=[[0.5, 0.5]])
        assert points["count"] == 2
        assert points["points"][0]["spatial_refs"] == [[0.5, 0.5]]
        outline = await ask(station, "segment", image_url=IMAGE, object="cat", stream=True)
        assert outline == {"path": "M cat", "bbox": None}


async def test_an_older_gpu_does_not_fit(premises: Premises) -> None:
    """The manifest says from which compute capability on the engine runs."""
    pascal = nvidia_linux(GTX_1080, driver="560.35.03", cuda="12.6", platform=HERE)
    async with premises.station(pascal) as station:
        course = await failed(station, MODEL, accept_notice=True)
    error = course.only(ActivationFailed).error
    assert error.code == "does-not-fit"
    assert "needs compute capability 8.0; " in error.message


def test_the_built_in_manifest_knows_nothing_of_it() -> None:
    """Its licence and its telemetry are for the user to judge."""
    built_in = json.loads((DOCS.parent / "moondream_station" / "bundled" / "manifest.json").read_text())
    text = json.dumps(built_in).lower()
    assert not any(word in text for word in ("photon", "kestrel"))
