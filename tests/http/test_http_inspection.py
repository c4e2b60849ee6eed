"""What can be looked at over HTTP beside the state; and forgetting a model."""

from __future__ import annotations

import httpx2
import pytest

from support.http_server import Served
from support.station_api import PLAN, USAGE

pytestmark = pytest.mark.anyio


async def test_what_can_be_looked_at(served: Served) -> None:
    """Plans by model and strategy, journals by id, the worker's log, memory and disk."""
    inspection = served.station.inspection
    inspection.journals["a-1"] = {"activation": "a-1", "events": [], "notes": ["$ uv lock"]}
    inspection.lines = ["loaded"]
    async with httpx2.AsyncClient(base_url=served.url, trust_env=False) as client:
        assert (await client.get("/v1/station/plan?model=selftest&strategy=cpu")).json() == PLAN
        assert (await client.get("/v1/station/plan?model=selftest")).json() == PLAN
        assert inspection.planned == [("selftest", "cpu"), ("selftest", None)]
        assert (await client.get("/v1/station/activations")).json() == {"activations": []}
        assert (await client.get("/v1/station/activations/a-1")).json() == inspection.journals["a-1"]
        assert (await client.get("/v1/station/logs")).json() == {"model": "selftest", "lines": ["loaded"]}
        assert (await client.get("/v1/station/logs?model=other")).json()["model"] == "other"
        assert (await client.get("/v1/station/usage")).json() == USAGE


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/station/plan", 400, "request-invalid"),
        ("/v1/station/plan?model=gpt", 404, "unknown-model"),
        ("/v1/station/activations/a-2", 404, "not-found"),
        ("/v1/station/activations/../../config", 404, "not-found"),
    ],
)
async def test_what_is_not_there(served: Served, path: str, status: int, code: str) -> None:
    """An error in the usual shape."""
    reply = await served.exchange(f"GET {path} HTTP/1.1\nHost: HOST\n\n")
    assert (reply.status, f'"{code}"' in reply.body.decode()) == (status, True)


async def test_a_model_is_forgotten(served: Served) -> None:
    """202 with the model; the one that is served stays, and a body without a model is refused."""
    async with httpx2.AsyncClient(base_url=served.url, trust_env=False) as client:
        gone = await client.post("/v1/station/remove", json={"model": "other"})
        kept = await client.post("/v1/station/remove", json={"model": "selftest"})
        bodies: list[object] = [{}, {"model": 1}, []]
        wrong = [await client.post("/v1/station/remove", json=body) for body in bodies]
    assert (gone.status_code, gone.json()) == (202, {"model": "other"})
    assert (kept.status_code, kept.json()["error"]["code"]) == (409, "station-running")
    assert [answer.status_code for answer in wrong] == [400, 400, 400]
    assert served.station.inspection.removed == ["other"]
