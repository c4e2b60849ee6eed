"""The main job on a real torch, with the user's own pip configuration: switch, serve, answer the client."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.commands import Served, run, serving, switch
from support.images import png_of
from support.pages import DOCS, blocks, shell_lines
from support.real_torch import small_torch
from support.stations import processes_naming

pytestmark = [pytest.mark.torch, pytest.mark.own_process]


@dataclass(frozen=True)
class RealPremises:
    """A home in a temporary folder; everything else is as the user has it."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> Mapping[str, str]:
        """The user's own variables, with a home of ours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return {**kept, "MOONDREAM_STATION_HOME": str(self.folder / "home"), **self.variables}


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


@pytest.fixture(scope="module")
def client(premises: RealPremises) -> Path:
    """The Python of an environment with the client as it is on PyPI, without its dependencies but Pillow."""
    folder = premises.folder / "client"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    for packages in (["--no-deps", "moondream"], ["Pillow"]):
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *packages], check=True, capture_output=True
        )
    return python


def test_the_moondream_client_works_unchanged(station: Served, client: Path) -> None:
    """It gets whole and streamed answers, as from any server of Moondream's."""
    done = subprocess.run(
        [client, "-c", _CLIENT, station.address],
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


def test_the_tutorials_questions_are_answered(station: Served, premises: RealPremises) -> None:
    """Each of its lines with curl gets an answer of the form that stands below it."""
    (premises.folder / "photo.jpg").write_bytes(_PHOTO)
    shown = [line for block in blocks(_TUTORIAL, "json") for line in block.splitlines()]
    answers = [json.loads(answer) for answer in _curl(_TUTORIAL, station, premises.folder)]
    assert list(map(_form, answers)) == [_form(json.loads(line)) for line in shown]
    assert answers[0]["caption"].startswith("Self-test, no language model: a bright image, mostly white")


def test_the_tutorials_script_works(station: Served, client: Path, premises: RealPremises) -> None:
    """It prints the caption, what was found, and the caption once more, as it streams in."""
    (premises.folder / "photo.jpg").write_bytes(_PHOTO)
    (script,) = blocks(_TUTORIAL, "python")
    done = subprocess.run(
        [client, "-c", script.replace("http://localhost:2020", station.address)],
        cwd=premises.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    caption, found, streamed = done.stdout.splitlines()
    assert caption == streamed
    assert "x_min" in found


def test_the_pages_backend_works(premises: RealPremises, tmp_path: Path) -> None:
    """The example of how a backend is written, copied from its page, switched to, served and asked."""
    page = DOCS / "how-to" / "write-a-backend.md"
    requirements, shown = blocks(page, "")
    folder = tmp_path / "brightness"
    folder.mkdir()
    (folder / "backend.py").write_text(blocks(page, "python")[0])
    (folder / "requirements.txt").write_text(requirements)
    (tmp_path / "manifest.json").write_text(blocks(page, "json")[0])
    (tmp_path / "photo.jpg").write_bytes(_PHOTO)
    own = RealPremises(tmp_path, {"MOONDREAM_STATION_MANIFEST": str(tmp_path / "manifest.json")})
    assert switch(own, "brightness")[-1]["event"] == "ActivationSucceeded"
    with serving(own) as station:
        whole, measured, stream = _curl(page, station, tmp_path)
    first, second, *_ = shown.splitlines()
    assert [_form(json.loads(answer)) for answer in (whole, measured)] == [
        _form(json.loads(line)) for line in (first, second)
    ]
    assert json.loads(whole)["caption"].startswith("A bright image, at ")
    assert stream.startswith('data: {"chunk":"A "}')
    assert stream.rstrip().endswith(shown.splitlines()[-1])


_TUTORIAL = DOCS / "tutorial" / "first-caption.md"
_PHOTO = png_of(96, 64, (12, 16, 44, 44), (60, 24, 84, 48))


def _curl(page: Path, station: Served, folder: Path) -> list[str]:
    """What the page's lines with curl print."""
    lines = [line for line in shell_lines(page) if line.startswith("curl ")]
    return [
        subprocess.run(
            [*shlex.split(line.replace("http://127.0.0.1:2020", station.address)), "--silent"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for line in lines
    ]


def _form(value: Any) -> Any:
    """What a value is made of: its keys, and the kinds of what is not an object or an array."""
    match value:
        case dict():
            return {key: _form(one) for key, one in value.items()}
        case list():
            return [_form(one) for one in value]
        case str():
            return "text"
        case _:
            return "number"
