"""The document of `GET /openapi.json`: it is valid, and what the station takes and answers is as it says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from moondream_station.core.facts.functions import FUNCTIONS, Argument, Signature
from moondream_station.http.openai import ASKS_NOTHING
from moondream_station.http.openapi import document, schemas
from support.http_server import Served
from support.station_api import chunks, echoes, gives

pytestmark = pytest.mark.anyio

BOX = {"x_min": 0.1, "y_min": 0.1, "x_max": 0.5, "y_max": 0.5}
ANSWERS: Mapping[str, Mapping[str, Any]] = {
    "caption": {"caption": "a cat"},
    "query": {"answer": "a cat", "reasoning": {"text": "It purrs."}},
    "detect": {"objects": [BOX]},
    "point": {"points": [{"x": 0.5, "y": 0.5}], "count": 1},
    "segment": {"path": "M 0 0", "bbox": BOX},
    "detect_gaze": {"gaze": None},
    "read": {"pages": 3},
}


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx2.AsyncClient]:
    """An ordinary HTTP client of a station with every function, and one of its own."""
    served.station.backend |= {name: gives(answer) for name, answer in ANSWERS.items()}
    arguments = (
        Argument("image_url", {}, is_required=True),
        Argument("pages", {"type": "integer"}, is_required=False),
    )
    served.station.declared["read"] = Signature("Read a text aloud.", arguments)
    async with httpx2.AsyncClient(base_url=served.url, trust_env=False, timeout=20) as http:
        yield http


@pytest.fixture
async def described(client: httpx2.AsyncClient) -> dict[str, Any]:
    """The document that the station gives."""
    answer: dict[str, Any] = (await client.get("/openapi.json")).json()
    return answer


def judge(described: Mapping[str, Any], schema: Mapping[str, Any]) -> Draft202012Validator:
    """What judges a shape of the document."""
    return Draft202012Validator({**schema, "components": described["components"]})


def check(described: Mapping[str, Any], path: str, response: httpx2.Response) -> None:
    """An answer is what the document says of this path and status."""
    (operation,) = (each for name, each in described["paths"][path].items() if name in {"get", "post"})
    answers = operation["responses"]
    content = answers.get(str(response.status_code), answers["default"])["content"]
    kind = response.headers["content-type"].partition(";")[0]
    schema = content[kind]["schema"]
    if kind == "application/json":
        judge(described, schema).validate(response.json())
    elif kind == "text/event-stream":
        for line in response.text.splitlines():
            if line.startswith("data: {"):
                judge(described, schema["contentSchema"]).validate(httpx2.Response(200, text=line[6:]).json())


async def test_the_document_is_valid(described: dict[str, Any]) -> None:
    """By OpenAPI's own schema; and each operation has a name of its own."""
    validate(described)
    operations = [
        each["operationId"]
        for path in described["paths"].values()
        for each in path.values()
        if "operationId" in each
    ]
    assert len(operations) == len(set(operations))


def test_names_differ_by_more_than_their_spelling() -> None:
    """What generates clients makes classes of them."""
    names = [re.sub(r"\W", "", name).lower() for name in document({})["components"]["schemas"]]
    assert len(names) == len(set(names))


def test_parts_of_one_name_are_the_same() -> None:
    """Schemas that stand side by side in the document may share their parts."""
    parts: dict[str, Any] = {}
    for name, schema in schemas().items():
        for part, shape in schema.get("$defs", {}).items():
            assert parts.setdefault(part, shape) == shape, (name, part)
    assert parts


async def test_functions_are_those_of_the_active_model(described: dict[str, Any]) -> None:
    """With what is known of their arguments: by name, or by the code."""
    own = {
        name for name, path in described["paths"].items() if path.get("post", {}).get("tags") == ["functions"]
    }
    assert own == {"/v1/{function}", *(f"/v1/{name}" for name in ANSWERS)}
    operation = described["paths"]["/v1/read"]["post"]
    assert (operation["summary"], operation["description"]) == ("Read", "Read a text aloud.")
    arguments = operation["requestBody"]["content"]["application/json"]["schema"]
    assert arguments["required"] == ["image_url"]
    assert arguments["properties"].keys() == {"image_url", "pages", "timeout"}
    assert arguments["properties"]["pages"] == {"type": "integer"}


def test_what_a_function_does_not_take_is_left_out() -> None:
    """A backend may have a function of Moondream's API with fewer arguments."""
    declared = Signature(arguments=(Argument("image_url", {}, is_required=False),))
    post = document({"caption": declared})["paths"]["/v1/caption"]["post"]
    arguments = post["requestBody"]["content"]["application/json"]["schema"]
    assert arguments["properties"].keys() == {"image_url", "timeout"}
    assert arguments["required"] == ["image_url"]


@pytest.mark.parametrize(
    "path", ["/health", "/openapi.json", "/v1/models", "/v1/models/selftest", "/v1/stats"]
)
async def test_what_is_got(client: httpx2.AsyncClient, described: dict[str, Any], path: str) -> None:
    """Answers are as described; so is the error of a method that is not."""
    name = "/v1/models/{id}" if path.endswith("selftest") else path
    response = await client.get(path)
    assert response.status_code == 200
    check(described, name, response)
    check(described, name, await client.post(path, json={}))


@pytest.mark.parametrize("path", ["/v1/station", "/v1/station/doctor", "/v1/models/nope", "/v1/nope"])
async def test_the_rest_that_is_got(client: httpx2.AsyncClient, described: dict[str, Any], path: str) -> None:
    """The station's status and doctor, and errors of what is not there."""
    name = {"/v1/models/nope": "/v1/models/{id}", "/v1/nope": "/v1/{function}"}.get(path, path)
    check(described, name, await client.get(path))


@pytest.mark.parametrize("name", ANSWERS)
async def test_functions(
    served: Served, client: httpx2.AsyncClient, described: dict[str, Any], name: str
) -> None:
    """Whole, streamed, and refused."""
    path = f"/v1/{name}"
    asked = {"image_url": "data:,", "question": "What?", "object": "cat", "eye": [0.5, 0.5], "timeout": 5}
    schema = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    judge(described, schema).validate(asked)
    whole = await client.post(path, json=asked)
    assert whole.status_code == 200
    check(described, path, whole)
    assert not judge(described, schema).is_valid({**asked, "timeout": 0})
    refused = await client.post(path, json={**asked, "timeout": 0})
    assert refused.status_code == 400
    check(described, path, refused)
    served.station.backend[name] = gives(chunks("M 0", " 1"))
    check(described, path, await client.post(path, json={**asked, "stream": True}))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": ""},
        {"model": 1},
        {"model": "selftest"},
        {"model": "selftest", "strategy": None},
        {"model": "selftest", "strategy": "cpu", "upgrade": True, "anyway": False, "accept_notice": True},
        {"model": "selftest", "strategy": 5},
        {"model": "selftest", "upgrade": None},
        {"model": "selftest", "anyway": "yes"},
        {"model": "selftest", "python": None},
        {"model": "selftest", "python": ["/usr/bin/python3"]},
        {"model": "selftest", "colour": "blue"},
    ],
    ids=str,
)
async def test_what_is_taken_is_what_is_described(
    client: httpx2.AsyncClient, described: dict[str, Any], body: dict[str, Any]
) -> None:
    """A body that fits the document is never invalid, and any other one is."""
    for path in ("/v1/station/switch", "/v1/station/rollback"):
        operation = described["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        response = await client.post(path, json=body)
        assert judge(described, schema).is_valid(body) == (response.status_code == 202), response.text
        check(described, path, response)


async def test_cancel(client: httpx2.AsyncClient, described: dict[str, Any]) -> None:
    """Refused, then accepted."""
    refused = await client.post("/v1/station/cancel", json={})
    check(described, "/v1/station/cancel", refused)
    await client.post("/v1/station/switch", json={"model": "selftest"})
    accepted = await client.post("/v1/station/cancel", json={})
    assert (refused.status_code, accepted.status_code) == (409, 202)
    check(described, "/v1/station/cancel", accepted)


async def test_chat(served: Served, client: httpx2.AsyncClient, described: dict[str, Any]) -> None:
    """Whole, streamed and refused."""
    path = "/v1/chat/completions"
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "What?"}]}
    schema = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for further, status in (({}, 200), ({"stream": True}, 200), ({"n": 2}, 400), ({"stop": []}, 200)):
        response = await client.post(path, json=body | further)
        assert response.status_code == status
        assert judge(described, schema).is_valid(body | further) == (status == 200)
        check(described, path, response)


def test_every_function_of_the_api_can_be_described() -> None:
    """Also without its code."""
    validate(document(dict.fromkeys(FUNCTIONS, Signature())))


@pytest.mark.parametrize("name", ASKS_NOTHING)
def test_what_asks_for_nothing_is_described(name: str) -> None:
    """Those values, and no others."""
    described = document({})
    judges = judge(described, described["components"]["schemas"]["chat-request"]["properties"][name])
    assert all(judges.is_valid(value) for value in ASKS_NOTHING[name])
    for value in (5, "no", ["audio"], ["text", "text"], {"type": "json"}, {"a": 1}, None):
        assert not judges.is_valid(value)


async def test_without_a_model_no_function_is_listed(served: Served, client: httpx2.AsyncClient) -> None:
    """But for the one that stands for any."""
    served.station.backend.clear()
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert [path for path in paths if paths[path].get("post", {}).get("tags") == ["functions"]] == [
        "/v1/{function}"
    ]
    served.station.backend["echo"] = echoes
    assert "/v1/echo" in (await client.get("/openapi.json")).json()["paths"]
