"""The self-test backend in a real worker with a real torch."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from moondream_station.core.backends.manifest_loader import read_built_in
from moondream_station.core.backends.provide import provide_backend
from moondream_station.core.facts.errors import ArgumentInvalid
from moondream_station.core.home.layout import Home
from moondream_station.core.processes.child_process import child_environment
from moondream_station.core.worker.link import CallStream
from moondream_station.core.worker.verification import Verification, WorkerPlan
from moondream_station.core.worker.worker import Worker, open_worker
from support.backends import call, unconnected
from support.real_torch import torch_environment

pytestmark = [pytest.mark.anyio, pytest.mark.torch]
__all__ = ["torch_environment"]

PAINT = """
import base64, io, json, sys
from PIL import Image, ImageDraw

def encoded(image, form="PNG", **more):
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

scene = Image.new("RGB", (640, 480), "white")
draw = ImageDraw.Draw(scene)
draw.rectangle((64, 48, 191, 191), fill="red")
draw.ellipse((400, 240, 560, 400), fill="blue")
night = Image.new("RGB", (400, 400), (90, 90, 90))
draw = ImageDraw.Draw(night)
squares = ((40, 40, "#00003c"), (280, 40, "#0000fa"), (280, 280, "#f0f064"), (40, 280, "#fafaff"))
for left, top, colour in squares:
    draw.rectangle((left, top, left + 79, top + 79), fill=colour)
turned = Image.new("RGB", (100, 50), "green")
exif = turned.getexif()
exif[0x0112] = 6
bomb = Image.new("1", (20000, 20000))
names = "black white grey red orange yellow green cyan blue purple pink brown".split()
print(json.dumps({
    "scene": encoded(scene), "night": encoded(night), "jpeg": encoded(scene, "JPEG", quality=95),
    "transparent": encoded(Image.new("RGBA", (40, 40), (255, 0, 0, 0))),
    "turned": encoded(turned, "JPEG", exif=exif), "bomb": encoded(bomb),
    "dot": encoded(Image.new("RGB", (1, 1), "red")), "strip": encoded(Image.new("L", (3000, 1), 128)),
    "dim": encoded(Image.new("RGB", (8, 8), (60, 60, 60))),
    "pale": encoded(Image.new("RGB", (8, 8), "silver")),
    **{name: encoded(Image.new("RGB", (8, 8), name)) for name in names},
}))
"""


@pytest.fixture(scope="module")
def images(torch_environment: Path) -> dict[str, str]:
    """Images as data: URLs, painted with the environment's own Pillow."""
    done = subprocess.run([torch_environment, "-c", PAINT], check=True, capture_output=True, text=True)
    images: dict[str, str] = json.loads(done.stdout)
    return images


@asynccontextmanager
async def started(python: Path, tmp_path: Path) -> AsyncIterator[Worker]:
    """A worker in the environment."""
    async with open_worker(
        python, env=child_environment(os.environ), cwd=tmp_path, log_path=tmp_path / "worker.log"
    ) as worker:
        yield worker


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """What torch and the backend do knows nothing of the station's event loop."""
    return "asyncio"


@pytest.fixture(scope="module")
async def worker(torch_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Worker]:
    """A worker that was verified and has the self-test loaded, as a station does it, for all tests."""
    tmp_path = tmp_path_factory.mktemp("selftest")
    manifest = read_built_in()
    code = await provide_backend(
        "selftest",
        manifest.backends["selftest"],
        manifest=manifest,
        home=Home(tmp_path),
        connect=unconnected,
    )
    async with started(torch_environment, tmp_path) as worker:
        verification = await worker.verify(WorkerPlan(build="cpu"))
        await worker.init(code, manifest.models["selftest"].args, device=verification.report.device)
        yield worker


async def verified(python: Path, tmp_path: Path, plan: WorkerPlan) -> Verification:
    """What torch reports for a plan."""
    async with started(python, tmp_path) as worker:
        return await worker.verify(plan)


async def test_torch_computes_and_reports(torch_environment: Path, tmp_path: Path) -> None:
    """The report is torch's own, and as planned."""
    found = await verified(torch_environment, tmp_path, WorkerPlan(build="cpu"))
    assert found.is_ok
    assert found.detail is None
    assert found.report.torch is not None
    assert found.report.torch.endswith("+cpu")
    assert (found.report.build, found.report.device, found.report.device_count) == ("cpu", "cpu", 1)
    assert (found.report.compute_ok, found.report.max_abs_error) == (True, 0.0)
    assert found.report.seconds is not None


async def test_a_cpu_torch_is_not_taken_for_a_cuda_one(torch_environment: Path, tmp_path: Path) -> None:
    """Another build, another device, another version: each is named, with torch's reason."""
    found = await verified(torch_environment, tmp_path, WorkerPlan(build="cu126", torch="1.0"))
    assert [item.field for item in found.mismatches] == ["torch", "build", "device"]
    assert "CUDA" in str(found.detail)


async def test_captions_are_computed(worker: Worker, images: dict[str, str]) -> None:
    """They name the image's own colours and say that no language model speaks."""
    short, normal, long = [
        (await answered(worker, "caption", image_url=images["jpeg"], length=length))["caption"]
        for length in ("short", "normal", "long")
    ]
    assert short.startswith("Self-test, no language model: a very bright image, mostly white")
    assert "2 salient regions (bottom right, top left)" in normal
    assert "640 x 480 pixels, landscape" in long
    stream = await call(worker, "caption", {"image_url": images["jpeg"], "stream": True, "_headers": {}})
    assert isinstance(stream, CallStream)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunks) == normal
    assert len(chunks) == len(normal.split())
    for name in ("black", "grey", "orange", "yellow", "cyan", "purple", "pink", "brown"):
        said = (await answered(worker, "caption", image_url=images[name], length="short"))["caption"]
        assert f"mostly {name} (100%)" in said


async def test_questions_are_answered_from_the_image(worker: Worker, images: dict[str, str]) -> None:
    """What arithmetic can't tell is said to be beyond it; without an image too."""
    for question, words in (
        ("What colour is it?", "mostly white (87%) and blue"),
        ("Is there a red square?", "yes, 6% of the image (top left)"),
        ("Is anything green?", "no, 0% of the image"),
        ("How many things are there?", "2 regions"),
        ("Who painted it?", "beyond arithmetic"),
    ):
        answer = await answered(worker, "query", image_url=images["scene"], question=question, reasoning=True)
        assert words in answer["answer"]
    alone = await answered(worker, "query", question="Who are you?", settings={"temperature": 0})
    assert "no language model" in alone["answer"]


SIZE_WORDS = ("size", "width", "height", "resolution", "dimensions", "aspect")
COUNTING_WORDS = ("many", "count", "number", "where", "position", "located")
BRIGHT_PLACES = {"bottom right", "bottom left"}
DARK_PLACES = {"top right", "top left"}


async def test_brightness_contrast_and_size_are_answered(worker: Worker, images: dict[str, str]) -> None:
    """Each word that asks for one of them, with its figures, and the same in a long caption."""
    asked = [
        *(("night", f"What {word} is it?", "400 x 400 pixels, square") for word in SIZE_WORDS),
        ("scene", "What size is it?", "640 x 480 pixels, landscape"),
        ("scene", "What is the contrast?", "high contrast (0.29)"),
        ("night", "What is the contrast?", "medium contrast (0.19)"),
        ("grey", "What is the contrast?", "low contrast (0.00)"),
        *(
            ("night", f"Is it {word}?", "medium bright, 0.38 of 1 on average")
            for word in ("brightness", "bright", "light", "dark")
        ),
        ("black", "How bright is it?", "very dark, 0.00 of 1 on average"),
        ("dim", "How bright is it?", "dark, 0.24 of 1 on average"),
        ("pale", "How bright is it?", "bright, 0.75 of 1 on average"),
        ("white", "How bright is it?", "very bright, 1.00 of 1 on average"),
        ("night", "Which colour?", "mostly grey (84%) and blue (8%)"),
        ("night", "Which colors?", "mostly grey (84%) and blue (8%)"),
        ("scene", "Who painted it?", "that is beyond arithmetic. The image is very bright, mostly white"),
    ]
    for image, question, words in asked:
        answer = await answered(worker, "query", image_url=images[image], question=question)
        assert answer["answer"].startswith(f"Self-test, no language model: {words}"), question
    long = await answered(worker, "caption", image_url=images["scene"], length="long")
    assert "high contrast (0.29); 640 x 480 pixels, landscape." in long["caption"]


async def test_bright_and_dark_regions_are_found_and_counted(worker: Worker, images: dict[str, str]) -> None:
    """By those words alone, or as what is bright or dark of a colour; salient ones by each word for them."""
    regions = {
        "bright": BRIGHT_PLACES,
        "light": BRIGHT_PLACES,
        "dark": DARK_PLACES,
        "dark blue": DARK_PLACES,
        "bright yellow": {"bottom right"},
        "dark yellow": set(),
        "bright dark": set(),
        **dict.fromkeys(
            ["object", "thing", "salient", "subject", "foreground", "region", "shapes", "anything"],
            BRIGHT_PLACES | DARK_PLACES,
        ),
    }
    for name, places in regions.items():
        kwargs = {"image_url": images["night"], "object": name}
        boxes = (await answered(worker, "detect", **kwargs))["objects"]
        assert {place_of(box["x_min"], box["y_min"]) for box in boxes} == places, name
        points = (await answered(worker, "point", **kwargs))["points"]
        assert {place_of(**point) for point in points} == places, name
    for word in COUNTING_WORDS:
        for name, words in (("bright", "2 regions (bottom right, bottom left)"), ("", "4 regions (")):
            question = f"{word} {name} ones?"
            answer = await answered(worker, "query", image_url=images["night"], question=question)
            assert answer["answer"].startswith(f"Self-test, no language model: {words}"), question
    for synonym in ("gray", "grey"):
        assert (await answered(worker, "detect", image_url=images["night"], object=synonym))["objects"]
    for synonym, colour in (
        ("violet", "purple"),
        ("magenta", "pink"),
        ("teal", "cyan"),
        ("turquoise", "cyan"),
    ):
        assert (await answered(worker, "detect", image_url=images[colour], object=synonym))["objects"]


def place_of(x: float, y: float) -> str:
    """The quarter of the image that a point lies in."""
    return f"{'bottom' if y > 0.5 else 'top'} {'right' if x > 0.5 else 'left'}"


@pytest.mark.parametrize("image", ["scene", "jpeg"])
async def test_objects_are_found_where_they_are(worker: Worker, images: dict[str, str], image: str) -> None:
    """Boxes and points are right to a percent; words that mean nothing find nothing."""
    kwargs = {"image_url": images[image]}
    (box,) = (await answered(worker, "detect", object="the red square", **kwargs))["objects"]
    assert box == pytest.approx({"x_min": 0.1, "y_min": 0.1, "x_max": 0.3, "y_max": 0.4}, abs=0.01)
    (place,) = (await answered(worker, "point", object="blue", **kwargs))["points"]
    assert place == pytest.approx({"x": 0.75, "y": 0.667}, abs=0.01)
    assert len((await answered(worker, "detect", object="objects", **kwargs))["objects"]) == 2
    assert await answered(worker, "detect", object="person", **kwargs) == {"objects": []}
    assert await answered(worker, "point", object="green", **kwargs) == {"points": []}


async def test_odd_images_are_seen_as_a_viewer_shows_them(worker: Worker, images: dict[str, str]) -> None:
    """Turned by their EXIF, on white where transparent, however small or flat; bare base64 is fine."""
    said = {
        name: (await answered(worker, "caption", image_url=images[name], length="long"))["caption"]
        for name in ("turned", "transparent", "dot", "strip")
    }
    assert "50 x 100 pixels, portrait" in said["turned"]
    assert "mostly white (100%)" in said["transparent"]
    assert "mostly red (100%)" in said["dot"]
    assert "3000 x 1 pixels" in said["strip"]
    bare = images["red"].partition(",")[2]
    assert (await answered(worker, "detect", image_url=bare, object="red"))["objects"]


async def test_wrong_input_says_what_to_send(worker: Worker, images: dict[str, str]) -> None:
    """Each is an error of that one request, in words for whoever sent it."""
    broken = base64.b64encode(base64.b64decode(images["jpeg"].partition(",")[2])[:3000]).decode()
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("caption", {}, "it is missing"),
        ("caption", {"image_url": "http://127.0.0.1/x.png"}, "fetches nothing"),
        ("caption", {"image_url": "file:///etc/passwd"}, "fetches nothing"),
        ("caption", {"image_url": "no base64!"}, "base64 is damaged"),
        ("caption", {"image_url": "data:text/plain,hello"}, "not base64"),
        ("caption", {"image_url": base64.b64encode(b"text").decode()}, "format is not supported"),
        ("caption", {"image_url": broken}, "truncated"),
        ("caption", {"image_url": images["bomb"]}, "megapixels"),
        ("caption", {"image_url": images["red"], "length": "epic"}, "use short, normal or long"),
        ("caption", {"image_url": images["red"], "length": ["short"]}, "use short, normal or long"),
        ("query", {"image_url": images["red"]}, "question is missing"),
        ("detect", {"image_url": images["red"]}, "object is missing"),
    ]
    for function, kwargs, words in wrong:
        with pytest.raises(ArgumentInvalid, match=words) as caught:
            await call(worker, function, kwargs)
        name = words.partition(" ")[0] if function != "caption" else "image_url"
        assert caught.value.argument == ("length" if "length" in kwargs else name)
    assert worker.failure is None


async def test_a_torch_that_can_not_be_loaded_is_reported(torch_environment: Path, tmp_path: Path) -> None:
    """A library that is missing is a mismatch with the loader's words, not a dead worker."""
    broken = tmp_path / "torch"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')")
    env = {**child_environment(os.environ), "PYTHONPATH": str(tmp_path)}
    async with open_worker(torch_environment, env=env, cwd=tmp_path, log_path=tmp_path / "log") as worker:
        found = await worker.verify(WorkerPlan(build="cpu"))
    assert found.detail == "OSError: libtorch_cpu.so: cannot open shared object file"
    assert "compute_ok" in [item.field for item in found.mismatches]


async def answered(worker: Worker, function: str, **kwargs: Any) -> dict[str, Any]:
    """A whole answer."""
    answer = await call(worker, function, kwargs)
    assert isinstance(answer, dict)
    return answer
