"""The requests of the `moondream` client from PyPI, in the form in which it makes them (urllib, JSON)."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio
import pytest

from moondream_station.core.facts.errors import WorkerBusy
from moondream_station.http.api import Answer
from support.http_server import Served
from support.station_api import chunks, gives, raises

pytestmark = pytest.mark.anyio

IMAGE_URL = "data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8\xff" * 1000).decode()


def request(served: Served, function: str, payload: Mapping[str, Any]) -> urllib.request.Request:
    """A request as the client builds it, with `endpoint="http://localhost:PORT/v1"` and a key."""
    return urllib.request.Request(
        f"http://localhost:{served.port}/v1/{function}",
        data=json.dumps(payload).encode("utf-8"),
        headers={
            "Content-Type": "application/json",
            "User-Agent": "moondream-python/0.2.0",
            "X-Moondream-Auth": "my-key",
        },
    )


def ask(asked: urllib.request.Request) -> Any:
    """Read a whole answer as the client does."""
    with urllib.request.urlopen(asked) as response:
        return json.loads(response.read().decode("utf-8"))


def ask_stream(asked: urllib.request.Request) -> list[str]:
    """Read a streamed answer as the client does, line by line until it is completed."""
    parts = []
    with urllib.request.urlopen(asked) as response:
        for raw in response:
            line = raw.decode("utf-8")
            if line.startswith("data: "):
                data = json.loads(line[6:])
                if "chunk" in data:
                    parts.append(data["chunk"])
                if data.get("completed"):
                    break
    return parts


@pytest.mark.parametrize(
    ("function", "payload", "answer"),
    [
        ("caption", {"image_url": IMAGE_URL, "length": "normal", "stream": False}, {"caption": "a cat"}),
        ("query", {"question": "what?", "stream": False, "image_url": IMAGE_URL}, {"answer": "a cat"}),
        ("detect", {"image_url": IMAGE_URL, "object": "cat"}, {"objects": [{"x_min": 0.1}]}),
        ("point", {"image_url": IMAGE_URL, "object": "cat"}, {"points": [{"x": 0.5, "y": 0.5}]}),
    ],
)
async def test_whole_answers(served: Served, function: str, payload: dict[str, Any], answer: Answer) -> None:
    """The backend gets the payload as it was; the client finds the key it reads."""
    served.station.backend[function] = gives(answer)
    result = await anyio.to_thread.run_sync(ask, request(served, function, payload))
    assert isinstance(answer, Mapping)
    assert {key: result[key] for key in answer} == dict(answer)
    (_, arguments, limit) = served.station.calls[0]
    assert {key: arguments[key] for key in payload} == payload
    assert "my-key" not in json.dumps(arguments)
    assert limit is None


async def test_streamed_answers(served: Served) -> None:
    """Chunk by chunk, to `completed`."""
    served.station.backend["caption"] = gives(chunks("a ", "cat"))
    asked = request(served, "caption", {"image_url": IMAGE_URL, "length": "normal", "stream": True})
    assert await anyio.to_thread.run_sync(ask_stream, asked) == ["a ", "cat"]


@pytest.mark.parametrize("function", ["segment", "chat/completions"])
async def test_what_the_backend_lacks(served: Served, function: str) -> None:
    """An HTTP error that says so."""
    served.station.backend["caption"] = gives({})
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        await anyio.to_thread.run_sync(ask, request(served, function, {"stream": False}))
    with caught.value as error:
        assert json.load(error)["code"] == "unknown-function"


async def test_a_full_queue(served: Served) -> None:
    """An HTTP error that says when to come back."""
    served.station.backend["caption"] = raises(WorkerBusy("Queue is full"))
    with pytest.raises(urllib.error.HTTPError, match="429") as caught:
        await anyio.to_thread.run_sync(partial(ask, request(served, "caption", {})))
    with caught.value as error:
        assert error.headers["Retry-After"] == "1"
