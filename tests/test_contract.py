"""The public contract: what the real commands, files and routes give is of the shapes that are published."""

from __future__ import annotations

import http.client
import json
import urllib.error
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource

from moondream_station.core.facts.codec import event_from_json
from moondream_station.http.api import ROUTES
from support.commands import Served, run, run_json, serving, switch
from support.facts import order_broken
from support.machines import RTX_4090, nvidia_linux
from support.stations import Premises, activate, open_premises

SCHEMAS = Path(__file__).parents[1] / "docs" / "reference" / "schemas"


@cache
def _registry() -> Registry[Any]:
    resources = [Resource.from_contents(json.loads(path.read_text())) for path in SCHEMAS.glob("*.json")]
    return Registry().with_resources((resource.id() or "", resource) for resource in resources)


def check(name: str, data: object) -> None:
    """Hold data against the schema of a shape."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    validator = Draft202012Validator(schema, registry=_registry())
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(data)]
    assert errors == [], (name, data)


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """Premises with two models, one of them active."""
    with open_premises(tmp_path_factory.mktemp("contract")) as premises:
        premises.add_model("colours")
        premises.add_model("shapes", supported_os=["plan9"])
        activate(premises, "colours")
        yield premises


@pytest.fixture(scope="module")
def station(premises: Premises) -> Iterator[Served]:
    """A station that serves there."""
    with serving(premises) as station:
        station.post("/v1/caption", {})
        yield station


@pytest.mark.parametrize("arguments", [("colours",), ("colours", "--upgrade"), ("shapes",), ("nope",)])
def test_events_of_a_switch(premises: Premises, arguments: tuple[str, ...]) -> None:
    """Every line is an event of one activation, in the contract's order, growing, read back as it was."""
    events = switch(premises, *arguments)
    for event in events:
        check("event", event)
        check(event["event"], event)
    assert len({event["activation"] for event in events}) == 1
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))
    assert order_broken([event_from_json(event).fact for event in events]) is None


def test_files_of_the_home(premises: Premises, station: Served) -> None:
    """What other programs may read in the home is of its published shape."""
    check("active", json.loads(premises.home.active.read_text()))
    check("station-record", json.loads(premises.home.station.read_text()))
    for journal in premises.home.activations.glob("*.jsonl"):
        for line in journal.read_text().splitlines():
            if "event" in json.loads(line):
                check("event", json.loads(line))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("torch",), 0),
        (("torch>=2.7.0", "torchvision"), 0),
        (("torch>=99",), 1),
        (("--strategy", "guide"), 0),
        (("--strategy", "cu118"), None),
        (("--python", "3.12"), None),
        (("--offline", "torch>=2.4,<2.6"), 0),
        (("--model", "colours"), 0),
    ],
)
def test_plan(premises: Premises, arguments: tuple[str, ...], code: int | None) -> None:
    """One object, and the exit code says whether there is a build."""
    plan = run_json(premises, "plan", *arguments)
    check("plan", plan)
    if code is not None:
        assert run(premises, "plan", *arguments).returncode == code
        assert (plan["build"] is None) == (code == 1)


def test_plan_for_another_machine(premises: Premises, tmp_path: Path) -> None:
    """A record is of its shape, and answers instead of this computer."""
    record = nvidia_linux(RTX_4090, driver="550.54.14", cuda="12.4").to_json()
    check("machine", record)
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(record))
    plan = run_json(premises, "plan", "--machine", str(path), "torch")
    check("plan", plan)
    assert plan["build"].startswith("cu12")


def test_status_and_models(premises: Premises) -> None:
    """The same shapes with and without a station that serves."""
    check("status", run_json(premises, "status"))
    check("models", run_json(premises, "models"))
    unsupported = run_json(premises, "models")["models"][1]
    assert (unsupported["id"], unsupported["supported"]) == ("shapes", False)
    assert unsupported["reason"]


def test_doctor_and_its_record(premises: Premises, tmp_path: Path) -> None:
    """The report is of its shape, here and for a record; the record is of its own."""
    path = tmp_path / "machine.json"
    check("doctor", run_json(premises, "doctor", "--offline"))
    assert run(premises, "doctor", "--offline", "--record", str(path)).returncode == 0
    check("machine", json.loads(path.read_text()))
    check("doctor", run_json(premises, "doctor", "--machine", str(path)))
    assert run(premises, "doctor", "--machine", "no-such-file").returncode == 2


def test_errors_of_commands(premises: Premises, tmp_path: Path) -> None:
    """Every failure is one line with code, message and hint."""
    for arguments in [
        ("cancel",),
        ("plan", "torch>>1"),
        ("models", "--nope"),
        ("logs", "another"),
        ("remove", "another"),
    ]:
        error = run_json(premises, *arguments)
        check("error", error)
    broken = tmp_path / "manifest.json"
    broken.write_text("{")
    said = run(premises, "plan", "--model", "a", "--json", MOONDREAM_STATION_MANIFEST=str(broken))
    assert said.returncode == 1
    assert json.loads(said.stdout)["error"]["code"] == "manifest-invalid"


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/health", "health"),
        ("/v1/models", "models"),
        ("/v1/models/colours", "model"),
        ("/v1/stats", "stats"),
        ("/v1/station", "status"),
        ("/v1/station/doctor", "doctor"),
        ("/v1/station/plan?model=colours", "plan"),
        ("/v1/station/activations", "activations"),
        ("/v1/station/logs", "worker-log"),
        ("/v1/station/usage", "usage"),
    ],
)
def test_routes(station: Served, path: str, shape: str) -> None:
    """What a route gives is of its shape."""
    check(shape, station.get(path))


def test_the_station_describes_itself(station: Served) -> None:
    """Its document is valid, has the active model's functions as their code has them, and holds."""
    described = station.get("/openapi.json")
    validate(described)
    paths = described["paths"]
    slow = paths["/v1/slow"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert slow["properties"]["seconds"] == {"default": 0.3}
    answers = {
        "/v1/caption": station.post("/v1/caption", {}),
        "/v1/slow": station.post("/v1/slow", {"seconds": 0}),
    }
    for route in ROUTES:
        if route.method == "GET" and "{" not in route.path and route.answer and not route.is_stream:
            answers[route.path] = station.get(route.path + ("?model=colours" if route.query else ""))
    for path, answer in answers.items():
        (operation,) = paths[path].values()
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": described["components"]}).validate(answer)


def test_functions(station: Served) -> None:
    """Answers, streams and errors of functions."""
    check("function-answer", station.post("/v1/caption", {}))
    check("function-answer", station.post("/caption", {"length": "short"}))
    for line in station.post_text("/v1/caption", {"stream": True}).splitlines():
        if line:
            assert line.startswith("data: ")
            check("function-stream", json.loads(line.removeprefix("data: ")))
    refused: list[tuple[str, object, int]] = [
        ("/v1/nope", {}, 404),
        ("/v1/caption", [], 400),
        ("/v1/refuse", {}, 500),
    ]
    for path, body, status in refused:
        with pytest.raises(urllib.error.HTTPError) as caught:
            station.post(path, body)
        assert caught.value.code == status
        check("function-error", json.load(caught.value))
        caught.value.close()


def test_chat(station: Served) -> None:
    """Completions, whole and streamed, and errors."""
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:,"}]}]}
    check("chat-request", body)
    check("chat-completion", station.post("/v1/chat/completions", body))
    *lines, last = station.post_text("/v1/chat/completions", {**body, "stream": True}).split("\n\n")[:-1]
    assert last == "data: [DONE]"
    for line in lines:
        check("chat-chunk", json.loads(line.removeprefix("data: ")))
    with pytest.raises(urllib.error.HTTPError) as caught:
        station.post("/v1/chat/completions", {})
    check("openai-error", json.load(caught.value))
    caught.value.close()


def test_switch_and_cancel_routes(station: Served) -> None:
    """202 with the activation, 404 and 409 with an error."""
    for path, body, status in [
        ("/v1/station/cancel", {}, 409),
        ("/v1/station/switch", {"model": "nope"}, 404),
        ("/v1/station/nothing", {}, 404),
    ]:
        with pytest.raises(urllib.error.HTTPError) as caught:
            station.post(path, body)
        assert caught.value.code == status
        check("error", json.load(caught.value))
        caught.value.close()
    check("switch-answer", station.post("/v1/station/switch", {"model": "colours"}))


def test_the_event_stream(station: Served) -> None:
    """A snapshot first; then events, each under its number; from a number on, what followed it."""
    first = _messages(station, 1)[0]
    check("snapshot", first[1])
    assert first[0] == first[1]["seq"] == first[1]["state"]["station"]["seq"]
    station.post("/v1/station/switch", {"model": "colours"})
    for number, event in _messages(station, 3, after=first[0]):
        check("event", event)
        assert number == event["seq"] > first[0]


def _messages(station: Served, count: int, *, after: int | None = None) -> list[tuple[int, Any]]:
    connection = http.client.HTTPConnection(station.address.removeprefix("http://"), timeout=60)
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    connection.request("GET", "/v1/station/events", headers=headers)
    response = connection.getresponse()
    found: list[tuple[int, Any]] = []
    number = 0
    while len(found) < count:
        line = response.readline().decode().strip()
        if line.startswith("id: "):
            number = int(line.removeprefix("id: "))
        elif line.startswith("data: "):
            found.append((number, json.loads(line.removeprefix("data: "))))
        else:
            assert line == "" or line.startswith(":")
    connection.close()
    return found
