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
import httpx2
import pytest

from moondream_station.core.facts.errors import BackendError, WorkerBusy
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


def ask_outline(asked: urllib.request.Request) -> list[dict[str, Any]]:
    """Read a streamed outline as the client does."""
    updates: list[dict[str, Any]] = []
    with urllib.request.urlopen(asked) as response:
        for raw in response:
            if raw.startswith(b"data: "):
                data = json.loads(raw[6:])
                match data.get("type"):
                    case "bbox":
                        updates.append({"bbox": data["bbox"]})
                    case "path_delta" if data["chunk"]:
                        updates.append({"chunk": data["chunk"]})
                    case "final":
                        updates.append({"path": data["path"], "bbox": data["bbox"], "completed": True})
                        break
                    case _:
                        assert data.keys() == {"stats"}
    return updates


BOX = {"x_min": 0.1, "y_min": 0.1, "x_max": 0.5, "y_max": 0.5}
FINAL = {"path": "M 0 0 L 1 1", "bbox": BOX, "completed": True}
PIECES: list[dict[str, Any]] = [{"bbox": BOX}, {"chunk": "M 0 0 "}, {"chunk": "L 1 1"}, FINAL]


@pytest.mark.parametrize(
    ("answer", "updates"),
    [
        ({"path": "M 0 0 L 1 1", "bbox": BOX}, [{"bbox": BOX}, FINAL]),
        (chunks("M 0 0 ", "L 1 1", bbox=BOX), PIECES),
        (chunks({"bbox": BOX}, {"chunk": "M 0 0 "}, {"chunk": "L 1 1"}, FINAL), PIECES),
        ({"path": ""}, [{"path": "", "bbox": None, "completed": True}]),
    ],
    ids=["whole", "a path in pieces", "updates as of the client's own models", "nothing found"],
)
async def test_streamed_outlines(served: Served, answer: Answer, updates: list[dict[str, Any]]) -> None:
    """Whatever the backend does, the client gets box, pieces and the whole outline."""
    served.station.backend["segment"] = gives(answer)
    asked = request(served, "segment", {"image_url": IMAGE_URL, "object": "cat", "stream": True})
    assert await anyio.to_thread.run_sync(ask_outline, asked) == updates


async def test_a_whole_outline(served: Served) -> None:
    """As any function's answer."""
    served.station.backend["segment"] = gives({"path": "M 0 0", "bbox": BOX})
    asked = request(served, "segment", {"image_url": IMAGE_URL, "object": "cat", "stream": False})
    result = await anyio.to_thread.run_sync(ask, asked)
    assert (result["path"], result["bbox"]) == ("M 0 0", BOX)


@pytest.mark.parametrize("answer", [{"error": "no"}, chunks("M", then=BackendError("no"))])
async def test_a_streamed_outline_that_fails(served: Served, answer: Answer) -> None:
    """Its stream ends with the reason, or is none."""
    served.station.backend["segment"] = gives(answer)
    async with httpx2.AsyncClient(base_url=served.url, trust_env=False) as client:
        response = await client.post("/v1/segment", json={"stream": True})
    assert (
        response.text.rstrip()
        .removeprefix("data: ")
        .endswith('"error":"no","status":"error","code":"backend-error"}')
    )


def chat_payload(served: Served, *, stream: bool) -> urllib.request.Request:
    """A chat as the client asks for it: always with a model."""
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE_URL}}]}
    payload = {"model": "moondream3-preview", "messages": [message], "stream": stream}
    return request(served, "chat/completions", payload | {"max_completion_tokens": 9, "temperature": 0.5})


async def test_a_whole_chat(served: Served) -> None:
    """The client finds the message, also with a backend that has no `chat`."""
    served.station.backend["caption"] = gives({"caption": "a cat"})
    result = await anyio.to_thread.run_sync(ask, chat_payload(served, stream=False))
    assert result["choices"][0]["message"] == {"role": "assistant", "content": "a cat"}
    assert served.station.calls[0][1]["settings"] == {"max_tokens": 9, "temperature": 0.5}


async def test_a_streamed_chat(served: Served) -> None:
    """Piece by piece, to `[DONE]`."""
    served.station.backend["caption"] = gives(chunks("a ", "cat"))

    def read(asked: urllib.request.Request) -> list[str]:
        with urllib.request.urlopen(asked) as response:
            lines = [line.decode().strip().removeprefix("data: ") for line in response if line.strip()]
        assert lines.pop() == "[DONE]"
        return [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines]

    asked = chat_payload(served, stream=True)
    assert list(filter(None, await anyio.to_thread.run_sync(read, asked))) == ["a ", "cat"]


async def test_what_the_backend_lacks(served: Served) -> None:
    """An HTTP error that says so."""
    served.station.backend["caption"] = gives({})
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        await anyio.to_thread.run_sync(ask, request(served, "segment", {"stream": False}))
    with caught.value as error:
        assert json.load(error)["code"] == "unknown-function"


async def test_a_full_queue(served: Served) -> None:
    """An HTTP error that says when to come back."""
    served.station.backend["caption"] = raises(WorkerBusy("Queue is full"))
    with pytest.raises(urllib.error.HTTPError, match="429") as caught:
        await anyio.to_thread.run_sync(partial(ask, request(served, "caption", {})))
    with caught.value as error:
        assert error.headers["Retry-After"] == "1"
