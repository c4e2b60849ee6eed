"""The main job on a real torch, with the user's own pip configuration: switch, serve, answer the client."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.commands import Served, run, serving, switch
from support.images import png_of
from support.real_torch import small_torch
from support.stations import processes_naming

pytestmark = pytest.mark.torch


@dataclass(frozen=True)
class RealPremises:
    """A home in a temporary folder; everything else is as the user has it."""

    folder: Path

    @property
    def environ(self) -> Mapping[str, str]:
        """The user's own variables, with a home of ours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return {**kept, "MOONDREAM_STATION_HOME": str(self.folder / "home")}


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPremises]:
    """A home in which `selftest` was activated."""
    if small_torch() is None:
        pytest.skip("pip's find-links have no torch +cpu wheel for this Python")
    premises = RealPremises(tmp_path_factory.mktemp("real"))
    *_, last = switch(premises, "selftest")
    assert (last["event"], last["build"], last["degraded"]) == ("ActivationSucceeded", "cpu", None), last
    yield premises
    assert processes_naming(premises.folder) == []


@pytest.fixture(scope="module")
def station(premises: RealPremises) -> Iterator[Served]:
    """A station that serves it."""
    with serving(premises) as station:
        yield station


def test_the_second_run_reuses_the_environment(premises: RealPremises) -> None:
    """Nothing is locked or downloaded again."""
    events = switch(premises, "selftest")
    names = [event["event"] for event in events]
    assert "RequirementsLocked" not in names
    assert next(event for event in events if event["event"] == "EnvironmentBuilt")["reused"] is True
    report = next(event for event in events if event["event"] == "VerificationCompleted")["report"]
    assert (report["build"], report["device"], report["compute_ok"]) == ("cpu", "cpu", True)


def test_it_computes_answers(station: Served) -> None:
    """A red square on white is described, found and pointed at."""
    image = "data:image/png;base64," + base64.b64encode(png_of(64, 64, (16, 16, 40, 40))).decode()
    caption = station.post("/v1/caption", {"image_url": image})
    assert "no language model" in caption["caption"]
    assert "red" in caption["caption"]
    assert "red" in station.post("/v1/query", {"image_url": image, "question": "Which colours?"})["answer"]
    (box,) = station.post("/v1/detect", {"image_url": image, "object": "red"})["objects"]
    assert box["x_min"] == pytest.approx(16 / 64, abs=0.05)
    assert box["y_max"] == pytest.approx(40 / 64, abs=0.05)
    (point,) = station.post("/v1/point", {"image_url": image, "object": "red"})["points"]
    assert point["x"] == pytest.approx(28 / 64, abs=0.05)


_CLIENT = """
import io, sys
import moondream
from PIL import Image
model = moondream.vl(endpoint=sys.argv[1] + "/v1")
image = Image.open(io.BytesIO(sys.stdin.buffer.read()))
whole = model.caption(image)["caption"]
streamed = "".join(model.caption(image, stream=True)["caption"])
assert whole == streamed and "red" in whole, (whole, streamed)
assert "red" in model.query(image, "Which colours?")["answer"]
assert "red" in "".join(model.query(image, "Which colours?", stream=True)["answer"])
assert len(model.detect(image, "red")["objects"]) == 1
assert len(model.point(image, "red")["points"]) == 1
"""


def test_the_moondream_client_works_unchanged(station: Served, premises: RealPremises) -> None:
    """The client as it is on PyPI, without its dependencies but Pillow, in an environment of its own."""
    folder = premises.folder / "client"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    for packages in (["--no-deps", "moondream"], ["Pillow"]):
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *packages], check=True, capture_output=True
        )
    done = subprocess.run(
        [python, "-c", _CLIENT, station.address],
        input=png_of(64, 64, (16, 16, 40, 40)),
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_status_tells_what_torch_said(premises: RealPremises, station: Served) -> None:
    """The verification that stands in the environment is shown."""
    shown = run(premises, "status").stdout
    assert "Active: selftest (cpu build, torch " in shown
    assert station.get("/v1/station")["verification"]["compute_ok"] is True
