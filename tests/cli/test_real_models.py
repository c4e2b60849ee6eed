"""The backend of the real models, on a real torch: a tiny model in their form, loaded as they are."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from moondream_station.core.backends.manifest_loader import read_built_in
from moondream_station.core.environments.store import load_commit, place_of
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home
from support.commands import Served, events_of, run_json, serving, started, switch
from support.images import png_of
from support.index_traffic import Fault
from support.model_hub import COMMIT, ModelHub
from support.model_premises import ModelPremises, check_succeeded, open_model_premises
from support.posix import SIGKILL
from support.tiny_model import write_tiny_model

pytestmark = [pytest.mark.torch, pytest.mark.own_process]

IMAGE = "data:image/png;base64," + base64.b64encode(png_of(64, 64, (16, 16, 40, 40))).decode()


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPremises]:
    """A home in which `selftest` was activated."""
    with open_model_premises(tmp_path_factory.mktemp("models")) as premises:
        yield premises


@pytest.fixture(scope="module")
def station(premises: ModelPremises) -> Iterator[Served]:
    """A station that serves there, with `selftest` active at first."""
    with serving(premises) as station:
        yield station


def switched_while_held(premises: ModelPremises, disturb: Callable[[int], object]) -> dict[str, Any]:
    """Switch to `tiny`, and disturb its worker (given its pid) while it loads; gives the last event."""
    gate = premises.tiny / "hold"
    gate.touch()
    try:
        with started(premises, "switch", "tiny", "--json") as process:
            pid, last = 0, {}
            for last in events_of(process):
                pid = last["pid"] if last["event"] == "WorkerStarted" else pid
                if is_loading(last):
                    disturb(pid)
            return last
    finally:
        gate.unlink()


def refused(station: Served, path: str, body: object, status: int) -> dict[str, Any]:
    """What a path answers that refuses a body with this status."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        station.post(path, body)
    with caught.value as response:
        assert response.status == status
        answer: dict[str, Any] = json.load(response)
        return answer


def is_loading(event: dict[str, Any]) -> bool:
    """Whether an event tells how much of a model is here; verifying itself is told in steps."""
    return (event["event"], event.get("stage"), event.get("unit")) == ("StageProgressed", "verify", "bytes")


def loading(events: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """What was told of loading: bytes here, of how many."""
    return [(event["done"], event["total"]) for event in events if is_loading(event)]


@pytest.fixture(scope="module")
def switched(premises: ModelPremises, station: Served) -> list[dict[str, Any]]:
    """The events of switching from `selftest` to `tiny`."""
    assert "no language model" in station.post("/v1/caption", {"image_url": IMAGE})["caption"]
    events = switch(premises, "tiny")
    check_succeeded(events)
    return events


def test_loading_is_told_in_bytes(premises: ModelPremises, switched: list[dict[str, Any]]) -> None:
    """From nothing to everything that the model is loaded from, as progress of the last stage."""
    size = sum(path.stat().st_size for path in premises.tiny.iterdir())
    assert loading(switched)[0] == (0, size)
    assert loading(switched)[-1] == (size, size)


def test_it_captions(station: Served, switched: list[dict[str, Any]]) -> None:
    """Whole and in pieces, as long as the client wants, and with its settings."""
    whole = station.post("/v1/caption", {"image_url": IMAGE})["caption"]
    assert sorted(whole.split()) == ["crater", "dream", "moon", "station"]
    text = station.post_text("/v1/caption", {"image_url": IMAGE, "stream": True})
    sent = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
    assert "".join(part.get("chunk", "") for part in sent) == whole
    assert sent[-1] == {"completed": True}
    short = station.post("/v1/caption", {"image_url": IMAGE, "length": "short"})["caption"]
    assert whole.startswith(short)
    limited = station.post("/v1/caption", {"image_url": IMAGE, "settings": {"max_tokens": 2}})["caption"]
    assert len(limited.split()) == 2


def test_a_stream_tells_how_the_model_came_to_its_answer(
    station: Served, switched: list[dict[str, Any]]
) -> None:
    """What it thinks of is told by the number of its tokens; then what it thought, and then the words."""
    body = {"image_url": IMAGE, "question": "why?", "reasoning": True, "stream": True}
    text = station.post_text("/v1/query", body)
    sent = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
    told = [message["progress"] for message in sent if "progress" in message]
    assert 0 < told[0]["done"] < told[-1]["done"] <= 20
    assert {step["unit"] for step in told} == {"tokens"}
    thought, *words = sent[len(told) :]
    assert thought == {"reasoning": {"text": "thought", "grounding": []}}
    assert "".join(part.get("chunk", "") for part in words).endswith(" why?")


def test_it_answers_finds_and_points(station: Served, switched: list[dict[str, Any]]) -> None:
    """With the dictionaries that the client reads; it reasons only where it is asked to."""
    answer = station.post("/v1/query", {"image_url": IMAGE, "question": "which?"})
    assert answer["answer"].endswith(" which?")
    assert "reasoning" not in answer
    assert station.post("/v1/query", {"question": "which?"})["answer"] == "no image which?"
    thought = station.post("/v1/query", {"image_url": IMAGE, "question": "which?", "reasoning": True})
    assert thought["reasoning"] == {"text": "thought", "grounding": []}
    (box,) = station.post("/v1/detect", {"image_url": IMAGE, "object": "red"})["objects"]
    assert (box["x_min"], box["y_max"]) == pytest.approx((16 / 64, 39 / 64), abs=0.01)
    answer = station.post("/v1/point", {"image_url": IMAGE, "object": "red"})
    assert answer["points"][0]["x"] == pytest.approx(27.5 / 64, abs=0.01)
    assert answer["count"] == 1


def test_a_function_is_served_where_the_model_has_it(station: Served, switched: list[dict[str, Any]]) -> None:
    """The manifest lists two that not every model has: this one has the first, not the second."""
    answer = station.post("/v1/detect_gaze", {"image_url": IMAGE, "eye": {"x": 0.25, "y": 0.25}})
    assert answer["gaze"] == {"x": 0.25, "y": 0.75}
    outline = refused(station, "/v1/segment", {"image_url": IMAGE, "object": "red"}, 404)
    assert outline["code"] == "unknown-function"
    listed = station.get("/openapi.json")["paths"]
    assert "/v1/detect_gaze" in listed
    assert "/v1/segment" not in listed


@pytest.mark.parametrize(
    ("function", "body", "words"),
    [
        ("caption", {}, "image_url is missing"),
        ("caption", {"image_url": "https://example.org/a.png"}, "nothing is fetched"),
        ("caption", {"image_url": "data:image/png;base64,AAAA"}, "does not recognise the image"),
        ("caption", {"image_url": "AAA"}, "base64 is damaged"),
        ("caption", {"image_url": IMAGE, "length": "epic"}, "length must be one of short, normal"),
        ("caption", {"image_url": IMAGE, "settings": {"temperature": -1}}, "settings.temperature must be"),
        ("caption", {"image_url": IMAGE, "settings": {"max_tokens": "x"}}, "settings.max_tokens must be"),
        ("caption", {"image_url": IMAGE, "settings": {"variant": "a"}}, "settings.variant is not supported"),
        ("caption", {"image_url": IMAGE, "model": "moondream3/tune@5"}, "model names a fine-tune"),
        ("query", {"image_url": IMAGE}, "question is missing"),
        ("query", {"image_url": IMAGE, "question": "why " * 60}, "question is too long"),
        ("query", {"question": "why", "spatial_refs": [[0.1, 0.1]]}, "only be used with an image"),
        (
            "query",
            {"image_url": IMAGE, "question": "why", "spatial_refs": [[2, 0]]},
            "spatial_refs must have",
        ),
        ("detect", {"image_url": IMAGE}, "object is missing"),
        ("detect_gaze", {"image_url": IMAGE, "eye": [0.5, 2]}, "eye must have 2 numbers from 0 to 1"),
        (
            "point",
            {"image_url": IMAGE, "object": "red", "spatial_refs": [[0.1, 0.1]]},
            "spatial_refs is not known to this model's point",
        ),
    ],
)
def test_what_can_not_be_answered_says_why(
    station: Served, switched: list[dict[str, Any]], function: str, body: dict[str, Any], words: str
) -> None:
    """Each with a sentence that names the argument, before the model runs."""
    answer = refused(station, f"/v1/{function}", body, 400)
    assert (answer["status"], answer["code"]) == ("rejected", "argument-invalid")
    assert words in answer["error"]


def test_an_answer_ends_where_the_context_does(station: Served, switched: list[dict[str, Any]]) -> None:
    """60 tokens, of which the image takes 10; who asked for more than fits is told."""
    body = {"image_url": IMAGE, "question": "limit", "settings": {"max_tokens": 1000}}
    answer = station.post("/v1/query", body)
    assert answer["answer"] == "33"
    assert answer["warnings"] == ["max_tokens was 1000; the model's context has room for 33"]
    assert "warnings" not in station.post("/v1/query", {"image_url": IMAGE, "question": "limit"})


def test_an_image_is_encoded_once(station: Served, switched: list[dict[str, Any]]) -> None:
    """A second question about it does not wait for that again."""
    image = "data:image/png;base64," + base64.b64encode(png_of(32, 32, (1, 1, 4, 4))).decode()
    asked = [station.post("/v1/query", {"image_url": image, "question": "encoded"}) for _ in range(3)]
    assert len({answer["answer"] for answer in asked}) == 1


def test_a_caller_who_leaves_frees_the_model(station: Served, switched: list[dict[str, Any]]) -> None:
    """Within a token, also where nothing is streamed."""
    with pytest.raises(TimeoutError):
        station.post_text("/v1/query", {"question": "for ever"}, timeout_seconds=1)
    with station.streaming("/v1/query", {"question": "for ever", "stream": True}) as lines:
        assert b"on " in next(lines)
    assert station.post("/v1/query", {"question": "which?"})["answer"] == "no image which?"


def test_a_worker_killed_while_it_loads_fails_the_switch_alone(
    premises: ModelPremises, station: Served
) -> None:
    """It is switched back from; then, while it loads again, it is killed: what was active answers on."""
    check_succeeded(switch(premises, "selftest"))
    last = switched_while_held(premises, lambda pid: os.kill(pid, SIGKILL))
    assert (last["event"], last["error"]["code"]) == ("ActivationFailed", "worker-failed")
    assert "no language model" in station.post("/v1/caption", {"image_url": IMAGE})["caption"]


def test_cancelling_while_it_loads_ends_the_worker(premises: ModelPremises, station: Served) -> None:
    """Nobody waits for a model that hangs: its process is gone, and the old model answers."""
    pids = []

    def cancel(pid: int) -> None:
        pids.append(pid)
        run_json(premises, "cancel")

    check_succeeded(switch(premises, "selftest"))
    assert switched_while_held(premises, cancel)["event"] == "ActivationCancelled"
    assert not psutil.pid_exists(pids[0])
    assert "no language model" in station.post("/v1/caption", {"image_url": IMAGE})["caption"]


def test_a_type_is_computed_in(premises: ModelPremises, station: Served) -> None:
    """Also where the model's code makes its numbers in another one."""
    check_succeeded(switch(premises, "single"))
    assert station.post("/v1/query", {"question": "dtype"})["answer"] == "torch.float32"
    cores = psutil.cpu_count(logical=False)
    if cores and sys.platform == "linux" and len(os.sched_getaffinity(0)) == psutil.cpu_count():
        assert station.post("/v1/query", {"question": "threads"})["answer"] == str(cores)
    *_, last = switch(premises, "odd")
    assert last["event"] == "ActivationFailed"
    assert "dtype 'int8' is not a floating-point type of torch" in last["error"]["message"]
    assert station.post("/v1/caption", {"image_url": IMAGE})["caption"]


def test_what_was_found_stays_until_the_next_switch(
    premises: ModelPremises, station: Served, switched: list[dict[str, Any]]
) -> None:
    """Without a revision the newest is loaded; its worker's next start loads the same, and asks nobody."""
    hub, first, second = premises.hub, "a" * 40, "b" * 40
    hub.repositories["me/newest"], hub.commits["me/newest"] = premises.tiny, first
    events = switch(premises, "newest")
    check_succeeded(events)
    assert found_commit(premises, "newest", "me/newest") == first
    assert found_commit(premises, "newest", "me/tokenizer") == COMMIT
    hub.commits["me/newest"] = hub.commits["me/tokenizer"] = second
    hub.server.clear_requests()
    (pid,) = (event["pid"] for event in events if event["event"] == "WorkerStarted")
    os.kill(pid, SIGKILL)
    assert station.post("/v1/caption", {"image_url": IMAGE})["caption"]
    assert not hub.server.requests
    check_succeeded(switch(premises, "newest"))
    assert found_commit(premises, "newest", "me/newest") == second
    newest = {"newest": {"model_id": "me/newest"}}
    assert loaded_directly(premises, newest, HF_HUB_OFFLINE="1") == {"newest": None}
    hub.server.faults.append(Fault(match="*me/newest*", status=403))
    assert loaded_directly(premises, newest) == {"newest": None}


def test_a_model_for_transformers_5_is_served_by_the_same_code(
    premises: ModelPremises, station: Served
) -> None:
    """In an environment of its own, whose hub's client asks with httpx."""
    premises.hub.repositories["me/five"] = premises.tiny
    events = switch(premises, "five")
    check_succeeded(events)
    size = sum(path.stat().st_size for path in premises.tiny.iterdir())
    assert loading(events)[-1] == (size, size)
    assert len(station.post("/v1/caption", {"image_url": IMAGE})["caption"].split()) == 4
    answer = station.post("/v1/query", {"image_url": IMAGE, "question": "which?", "reasoning": True})
    assert answer["reasoning"] == {"text": "thought", "grounding": []}
    environment = premises.folder / "home" / "environments" / events[-1]["environment"]
    (version,) = (path.name for path in environment.rglob("transformers-*.dist-info"))
    assert version.startswith("transformers-5.13.")


def found_commit(premises: ModelPremises, model: str, repository: str) -> str:
    """The commit of a repository that the environment's record names for a model."""
    home = Home(root=premises.folder / "home")
    record = load_commit(place_of(home, read_active(home).models[model].environment))
    assert record is not None
    return str(record.found[model]["commits"][repository])


@pytest.fixture(scope="module")
def fetched(premises: ModelPremises, station: Served) -> list[dict[str, Any]]:
    """The events of switching to `hub-tiny`."""
    events = switch(premises, "hub-tiny")
    check_succeeded(events)
    return events


def test_weights_come_from_the_hub(
    premises: ModelPremises, station: Served, fetched: list[dict[str, Any]]
) -> None:
    """What is fetched is told in bytes, and draws no bars into the log."""
    told = loading(fetched)
    size = sum(path.stat().st_size for path in premises.tiny.iterdir())
    assert told[-1] == (size, size)
    assert told == sorted(told)
    assert station.post("/v1/caption", {"image_url": IMAGE})["caption"]
    assert "%|" not in (premises.folder / "home" / "logs" / "hub-tiny.log").read_text()


def test_the_real_model_without_its_weights_leaves_the_old_one_active(
    premises: ModelPremises, station: Served, fetched: list[dict[str, Any]]
) -> None:
    """The hub does not know it: the sentence names the model and the hub, the hint says what to do."""
    *_, last = switch(premises, "moondream-2")
    assert (last["event"], last["error"]["code"]) == ("ActivationFailed", "weights-unreachable")
    assert "vikhyatk/moondream2" in last["error"]["message"]
    assert "model_id" in last["error"]["hint"]
    assert run_json(premises, "status")["active"]["model"] == "hub-tiny"
    assert station.post("/v1/caption", {"image_url": IMAGE})["caption"]


_LOAD = """
import json, sys
import backend, weights

for args in json.loads(sys.argv[1]):
    try:
        backend.init_backend(**args)
        print(json.dumps(None))
    except weights.Unreachable as error:
        print(json.dumps([error.cause, str(error), error.hint]))
"""


def test_every_way_in_which_weights_can_not_be_had_has_its_sentence(
    premises: ModelPremises, switched: list[dict[str, Any]], fetched: list[dict[str, Any]]
) -> None:
    """The hub that refuses, is gone or breaks off; folders that lack something. What was fetched is kept."""
    answers = loaded_directly(premises, hub_cases(premises.hub) | folder_cases(premises))
    for name in ("fetched before", "one file damaged once", "cut off twice", "two sets of weights"):
        assert answers.pop(name) is None, name
    asked = [request.path for request in premises.hub.server.requests if "/me/two/" in request.path]
    assert any("model.safetensors" in path for path in asked)
    assert not [path for path in asked if "other.safetensors" in path]
    for name, (cause, message, hint) in answers.items():
        assert (cause, bool(hint)) == ("weights-unreachable", True), name
        assert name in message, message


def test_weights_that_do_not_fit_are_not_begun(
    premises: ModelPremises, switched: list[dict[str, Any]]
) -> None:
    """The hub says how large they are; nothing of them is fetched, only what describes them."""
    premises.hub.repositories["me/huge"] = premises.tiny
    premises.hub.huge.add("me/huge")
    premises.hub.server.clear_requests()
    (answer,) = loaded_directly(premises, {"huge": {"model_id": "me/huge"}}).values()
    cause, message, hint = answer
    assert (cause, "HF_HOME" in hint) == ("no-space", True)
    needed = r"me/huge needs \d000000\.0 GB more on the file system of /.+, and 0\.07 GB to stay free; "
    assert re.match(needed + r".+ GB are free\.", message)
    assert not [request for request in premises.hub.server.requests if ".safetensors" in request.path]


def test_what_the_hub_says_of_weights_is_held_against_the_machine(
    premises: ModelPremises, switched: list[dict[str, Any]]
) -> None:
    """Where the manifest says nothing: the switch ends before more than their beginning is fetched."""
    premises.hub.repositories["me/huge"] = premises.tiny
    premises.hub.huge.add("me/huge")
    premises.hub.server.clear_requests()
    *_, last = switch(premises, "huge")
    assert (last["event"], last["error"]["code"]) == ("ActivationFailed", "does-not-fit")
    assert re.search(r"needs \d000001\.1 GB of memory; this machine has [\d.]+ GB", last["error"]["message"])
    asked = [request for request in premises.hub.server.requests if ".safetensors" in request.path]
    assert {request.range for request in asked} == {"bytes=0-99999"}


def hub_cases(hub: ModelHub) -> dict[str, dict[str, Any]]:
    """Words that the sentence must have, and the arguments that lead to it."""
    tiny = hub.repositories["me/tiny"]
    for name in ("broken", "corrupt", "once", "cut", "busy"):
        hub.repositories[f"me/{name}"] = tiny
    hub.repositories["me/two"] = write_tiny_model(tiny.with_name("two"))
    (tiny.with_name("two") / "other.safetensors").write_bytes(b"the same, in another form")
    mute = hub.repositories["me/mute"] = write_tiny_model(tiny.with_name("mute"))
    (mute / "tiny.py").write_text((mute / "tiny.py").read_text().replace("me/tokenizer", "me/absent"))
    hub.server.faults += [
        Fault(match="/me/corrupt/*.safetensors", corrupt_byte=20),
        Fault(match="/me/once/*.safetensors", corrupt_byte=20, times=2),  # asked for its size, then fetched
        Fault(match="/me/cut/*.safetensors", close_after_bytes=20, times=3),
        Fault(match="*me/busy*", status=429),
        Fault(match="*me/gated*", status=403, headers={"X-Error-Code": "GatedRepo"}),
        Fault(match="*me/other*", status=404, headers={"X-Error-Code": "RevisionNotFound"}),
        Fault(match="*me/private*", status=401, headers={"X-Error-Code": "RepoNotFound"}),
        Fault(match="*me/down*", status=500),
        Fault(match="*me/reset*", reset_after_bytes=0),
        Fault(match="/me/broken/*.safetensors", status=403),
        Fault(match="*me/tiny*", status=500),
    ]
    return {
        "have accepted its terms": {"model_id": "me/gated"},
        "no revision 7": {"model_id": "me/other", "revision": "7"},
        "or it is private": {"model_id": "me/private"},
        "it answered 500": {"model_id": "me/down"},
        "me/reset is not available": {"model_id": "me/reset"},
        "it answered 403": {"model_id": "me/broken"},
        "There is no model two words": {"model_id": "two words"},
        "me/absent is not available": {"model_id": "me/mute"},
        "model.safetensors of me/corrupt is damaged": {"model_id": "me/corrupt"},
        "it answered 429: too many requests": {"model_id": "me/busy"},
        "one file damaged once": {"model_id": "me/once"},
        "cut off twice": {"model_id": "me/cut"},
        "two sets of weights": {"model_id": "me/two"},
        "fetched before": {"model_id": "me/tiny", "revision": COMMIT},
    }


def folder_cases(premises: ModelPremises) -> dict[str, dict[str, Any]]:
    """The same for folders, each lacking something."""
    lacking = {}
    for name in ("config.json", "words.py", "model.safetensors"):
        lacking[name] = write_tiny_model(premises.folder / "lacking" / name)
        (lacking[name] / name).unlink()
    damaged = write_tiny_model(premises.folder / "lacking" / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    absent = premises.folder / "lacking" / "nothing"
    return {
        "config.json is missing": {"model_id": str(lacking["config.json"])},
        "words.py is missing": {"model_id": str(lacking["words.py"])},
        "it has no weights": {"model_id": str(lacking["model.safetensors"])},
        "are damaged": {"model_id": str(damaged)},
        "does not exist": {"model_id": str(absent)},
    }


def loaded_directly(
    premises: ModelPremises, cases: dict[str, dict[str, Any]], **variables: str
) -> dict[str, Any]:
    """What the backend says to each case, in one process of the environment that the station made for it."""
    record = read_active(Home(root=premises.folder / "home")).models["tiny"]
    python = premises.folder / "home" / "environments" / record.environment / "venv" / "bin" / "python"
    code = Path(str(read_built_in().provenance.folder)) / "transformers"
    done = subprocess.run(
        [python, "-c", _LOAD, json.dumps(list(cases.values()))],
        env={**premises.environ, "HF_HUB_DISABLE_XET": "1", **variables},  # as workers have it
        cwd=code,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))
