"""The station's own routes: shapes, statuses and methods."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest

from moondream_station.core.facts.errors import StationError
from support.http_server import TOKEN, Served, serving
from support.station_api import MODELS, FakeStation

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx2.AsyncClient]:
    """An ordinary HTTP client."""
    async with httpx2.AsyncClient(base_url=served.url, trust_env=False, timeout=20) as http:
        yield http


async def test_health_models_stats_and_status_have_their_shapes(
    served: Served, client: httpx2.AsyncClient
) -> None:
    """To the letter of the contract, by both addresses of this computer."""
    assert (await client.get("/health")).json() == {"status": "ok", "server": "moondream-station"}
    models = (await client.get("/v1/models")).json()
    assert {name: models[name] for name in MODELS} == MODELS
    assert models.keys() - MODELS.keys() == {"object", "data"}
    stats = (await client.get("/v1/stats")).json()
    assert list(stats)[:9] == list(served.station.stats())
    assert {**stats, **served.station.stats()} == stats
    answer = await client.get("/v1/station")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == served.station.status()
    assert (await client.get(f"http://[::1]:{served.port}/health")).status_code == 200


async def test_the_models_are_read_beside_the_event_loop(served: Served, client: httpx2.AsyncClient) -> None:
    """They come from a file, which a slow disk must not let all other requests wait for."""
    assert (await client.get("/v1/models")).json()["models"] == MODELS["models"]
    assert (await client.get("/v1/models/selftest")).status_code == 200
    assert len(served.station.listed_in) == 2
    assert threading.current_thread() not in served.station.listed_in


async def test_a_switch_is_taken_on_and_joined(client: httpx2.AsyncClient) -> None:
    """202 with the activation's id; the same wish again joins."""
    first = await client.post("/v1/station/switch", json={"model": "selftest", "strategy": "cpu"})
    again = await client.post("/v1/station/switch", json={"model": "selftest", "strategy": None})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == {"activation": "20261123T100000Z-ab12cd", "joined": False}
    assert again.json() == {"activation": "20261123T100000Z-ab12cd", "joined": True}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "gpt"}, 404, "unknown-model"),
        ({"model": "selftest", "strategy": "fast"}, 400, "usage"),
        ({}, 400, "request-invalid"),
        ({"model": 1}, 400, "request-invalid"),
        ({"model": ""}, 400, "request-invalid"),
        ({"model": "selftest", "strategy": 1}, 400, "request-invalid"),
        ({"model": "selftest", "upgrade": 1}, 400, "request-invalid"),
        ({"model": "selftest", "anyway": "yes"}, 400, "request-invalid"),
        ({"model": "selftest", "accept_notice": 1}, 400, "request-invalid"),
        ({"model": "selftest", "python": 3}, 400, "request-invalid"),
        ({"model": "selftest", "python": "bin/python"}, 400, "request-invalid"),
        ({"model": "selftest", "python": sys.executable}, 401, "token-required"),
        ({"model": "selftest", "force": True}, 400, "request-invalid"),
        ([], 400, "request-invalid"),
    ],
)
async def test_a_switch_that_makes_no_sense_is_refused(
    served: Served, client: httpx2.AsyncClient, body: object, status: int, code: str
) -> None:
    """With the cause as code, and nothing begun."""
    response = await client.post("/v1/station/switch", json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error.keys() == {"code", "message", "hint"}
    assert error["code"] == code
    assert served.station.state.activation is None


async def test_what_a_user_allows_reaches_the_station(served: Served, client: httpx2.AsyncClient) -> None:
    """Going on where a model does not fit, and accepting its notice: each alone, and neither by itself."""
    for allowed in ({}, {"anyway": True}, {"accept_notice": True}):
        await client.post("/v1/station/switch", json={"model": "selftest", **allowed})
    assert served.station.consents == [(False, False), (True, False), (False, True)]


async def test_only_who_has_the_token_names_a_python(served: Served, client: httpx2.AsyncClient) -> None:
    """Any program of this computer may ask for a switch; naming one to run takes the station's own user."""
    wish = {"model": "selftest", "python": sys.executable}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    response = await client.post("/v1/station/switch", json=wish, headers=headers)
    assert response.status_code == 202
    assert served.station.wishes == [("selftest", None, False, Path(sys.executable))]


async def test_a_rollback_is_taken_on_and_joined(client: httpx2.AsyncClient) -> None:
    """202 as for a switch, which it is."""
    first = await client.post("/v1/station/rollback", json={"model": "selftest"})
    again = await client.post("/v1/station/rollback", json={"model": "selftest"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == {"activation": "20261123T100000Z-ab12cd", "joined": False}
    assert again.json()["joined"] is True


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "gpt"}, 404, "unknown-model"),
        ({"model": "unused"}, 409, "nothing-to-roll-back"),
        ({}, 400, "request-invalid"),
        ({"model": ""}, 400, "request-invalid"),
        ({"model": "selftest", "strategy": "cpu"}, 400, "request-invalid"),
    ],
)
async def test_a_rollback_that_leads_nowhere_is_refused(
    served: Served, client: httpx2.AsyncClient, body: object, status: int, code: str
) -> None:
    """With the cause as code, and nothing begun."""
    response = await client.post("/v1/station/rollback", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert served.station.state.activation is None


async def test_cancel_ends_what_runs_and_says_where_nothing_does(client: httpx2.AsyncClient) -> None:
    """202 with the id, then 409."""
    await client.post("/v1/station/switch", json={"model": "selftest"})
    response = await client.post("/v1/station/cancel", json={})
    assert response.status_code == 202
    assert response.json() == {"activation": "20261123T100000Z-ab12cd"}
    nothing = await client.post("/v1/station/cancel", headers={"Content-Type": "application/json"})
    assert nothing.status_code == 409
    assert nothing.json()["error"]["code"] == "nothing-running"


@pytest.mark.parametrize("path", ["/v1/station/switch", "/v1/station/rollback", "/v1/station/cancel"])
@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
async def test_posts_must_say_that_they_bring_json(
    served: Served, client: httpx2.AsyncClient, path: str, kind: str | None
) -> None:
    """What a form on any page could send is refused, whatever it contains."""
    headers = {} if kind is None else {"Content-Type": kind}
    response = await client.post(path, content=b'{"model": "selftest"}', headers=headers)
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "content-type-unsupported"
    assert served.station.state.activation is None


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/health", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("POST", "/v1/models/selftest", "GET, HEAD"),
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/station", "GET, HEAD"),
        ("GET", "/v1/station/switch", "POST"),
        ("GET", "/v1/station/rollback", "POST"),
        ("GET", "/v1/station/cancel", "POST"),
        ("POST", "/v1/station/events", "GET"),
        ("HEAD", "/v1/station/events", "GET"),
    ],
)
async def test_other_methods_are_refused_by_name(
    client: httpx2.AsyncClient, method: str, path: str, allowed: str
) -> None:
    """405 with what would be right; no function of the same name is looked for."""
    response = await client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed


async def test_unknown_paths_of_the_station_are_not_found_in_its_own_shape(
    client: httpx2.AsyncClient,
) -> None:
    """They are no functions."""
    for method in ("GET", "POST"):
        response = await client.request(method, "/v1/station/nonsense")
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not-found"


async def test_head_is_get_without_a_body(client: httpx2.AsyncClient) -> None:
    """For those who only want to know whether it is there."""
    response = await client.head("/health")
    assert response.status_code == 200
    assert response.content == b""


async def test_doctor_is_passed_through(served: Served, client: httpx2.AsyncClient) -> None:
    """Its report as it is, or its error in the station's shape."""
    assert (await client.get("/v1/station/doctor")).json()["format"] == "moondream-station/doctor/1"

    async def fails() -> Mapping[str, Any]:
        await anyio.lowlevel.checkpoint()
        raise StationError("No report")

    served.station.examine = fails
    response = await client.get("/v1/station/doctor")
    assert response.status_code == 500
    assert response.json() == {"error": {"code": "internal-error", "message": "No report", "hint": None}}


async def test_doctor_ends_with_its_client(served: Served) -> None:
    """An examination that nobody reads does not go on."""
    waits, cancelled = anyio.Event(), anyio.Event()

    async def endless() -> Mapping[str, Any]:
        waits.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    served.station.examine = endless
    async with served.line() as line:
        await line.send("GET /v1/station/doctor HTTP/1.1\nHost: localhost\n\n")
        await waits.wait()
    await cancelled.wait()


async def test_doctor_ends_with_the_station() -> None:
    """The client is told that the station stops."""
    waits = anyio.Event()

    async def endless() -> Mapping[str, Any]:
        waits.set()
        await anyio.sleep_forever()
        raise AssertionError

    station = FakeStation()
    station.examine = endless
    async with serving(station) as served, served.line() as line:
        await line.send("GET /v1/station/doctor HTTP/1.1\nHost: localhost\n\n")
        await waits.wait()
        served.stopping.set()
        reply = await line.read_reply()
        assert reply.status == 503
        assert json.loads(reply.body)["error"]["code"] == "station-stopping"
