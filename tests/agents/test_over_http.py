"""`/mcp`, as the SDK's own client sees it: in both eras of the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp_types import CallToolResult, TextContent, ToolListChangedNotification

from moondream_station.agents.folders import Folders
from moondream_station.core.facts.errors import ArgumentInvalid, WorkerBusy, WorkerLoading, WorkerReplaced
from moondream_station.core.facts.events import WorkerStarted
from moondream_station.core.facts.functions import Argument, Signature
from moondream_station.http.api import Answer
from support.agent_messages import INITIALIZE
from support.http_server import TOKEN, Served, serving
from support.station_api import FakeStation, chunks, echoes, gives, raises

pytestmark = pytest.mark.anyio

BOX = {"x_min": 0.1, "y_min": 0.1, "x_max": 0.5, "y_max": 0.5}
ERAS = pytest.mark.parametrize("era", ["auto", "legacy"])


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A station that agents may ask, about the files of one folder."""
    station = FakeStation()
    station.backend |= {
        "caption": gives({"caption": "a cat"}),
        "detect": gives({"objects": [BOX], "_stats": {}}),
        "read": echoes,
    }
    arguments = (
        Argument("image", {}, is_required=True),
        Argument("pages", {"type": "integer"}, is_required=False),
    )
    station.declared["read"] = Signature("Read a text aloud.", arguments)
    (tmp_path / "photo.png").write_bytes(b"an image")
    async with serving(station, agents=Folders.of([tmp_path])) as running:
        yield running


@asynccontextmanager
async def agent(served: Served, era: str = "auto", **options: Any) -> AsyncIterator[Client]:
    """An agent's session."""
    async with Client(f"{served.url}/mcp", mode=era, read_timeout_seconds=20, **options) as client:
        yield client


def text_of(result: CallToolResult) -> str:
    """The text of a result."""
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def failure(client: Client, name: str, **arguments: Any) -> str:
    """What the agent is told of a call that fails."""
    result = await client.call_tool(name, arguments)
    assert result.is_error
    return text_of(result)


@ERAS
async def test_the_tools(served: Served, tmp_path: Path, era: str) -> None:
    """The active model's functions, with what an agent can know of them."""
    async with agent(served, era) as client:
        assert client.server_info is not None
        assert client.server_info.name == "moondream-station"
        assert client.server_capabilities.tools is not None
        assert client.server_capabilities.tools.list_changed
        assert "vision-language model" in str(client.instructions)
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools.keys() == {"caption", "detect", "read"}
    detect = tools["detect"]
    assert (detect.title, detect.description) == ("Detect objects", detect.description)
    assert detect.annotations is not None
    assert detect.annotations.read_only_hint
    assert list(detect.input_schema["properties"]) == ["image", "object", "settings"]
    assert detect.input_schema["required"] == ["image", "object"]
    assert str(tmp_path) in detect.input_schema["properties"]["image"]["description"]
    assert detect.output_schema is not None
    assert detect.output_schema["properties"].keys() == {"objects"}
    assert tools["caption"].output_schema is None
    assert "stream" not in tools["caption"].input_schema["properties"]
    assert (tools["read"].description, tools["read"].annotations) == ("Read a text aloud.", None)


@ERAS
async def test_calls(served: Served, tmp_path: Path, era: str) -> None:
    """Texts are texts, findings are data; the function gets the image of the file."""
    async with agent(served, era) as client:
        caption = await client.call_tool("caption", {"image": "photo.png", "length": None})
        detect = await client.call_tool("detect", {"image": "data:,a", "object": "cat"})
        read = await client.call_tool("read", {"image": str(tmp_path / "photo.png"), "pages": 2})
    assert (text_of(caption), caption.structured_content, caption.is_error) == ("a cat", None, False)
    assert detect.structured_content == {"objects": [BOX]}
    assert text_of(detect) == '{"objects": [{"x_min": 0.1, "y_min": 0.1, "x_max": 0.5, "y_max": 0.5}]}'
    image = "data:image/png;base64,YW4gaW1hZ2U="
    assert read.structured_content == {"arguments": {"image": image, "pages": 2}}
    assert served.station.calls[0][1] == {"image_url": image}
    assert served.station.calls[1][1] == {"image_url": "data:,a", "object": "cat"}


@ERAS
async def test_what_fails_says_what_to_do(served: Served, era: str) -> None:
    """As a result that the agent reads, and nothing is called for what it got wrong itself."""
    async with agent(served, era) as client:
        assert "It has: caption, detect, read." in await failure(client, "segment", image="photo.png")
        assert "It has: caption" in await failure(client, "station/cancel")
        assert "'object' is a required property" in await failure(client, "detect", image="photo.png")
        assert "pages: 'two' is not of type 'integer'" in await failure(
            client, "read", image="a", pages="two"
        )
        assert "'imge' was unexpected" in await failure(client, "caption", image="photo.png", imge="a")
        assert "/etc/passwd' is outside of" in await failure(client, "caption", image="/etc/passwd")
        assert not served.station.calls
        unreadable = ArgumentInvalid("image_url can't be read", hint="Send a PNG.")
        served.station.backend["caption"] = raises(unreadable)
        assert await failure(client, "caption", image="photo.png") == "image can't be read. Send a PNG."
        served.station.backend["caption"] = gives({"error": "no"})
        assert await failure(client, "caption", image="photo.png") == "no."
        served.station.backend["caption"] = gives(chunks("a ", "cat"))
        assert "a cat" in text_of(await client.call_tool("caption", {"image": "photo.png"}))
        served.station.backend.clear()
        assert "`moondream-station switch MODEL`" in await failure(client, "caption", image="photo.png")


async def test_what_is_over_soon_is_waited_for(served: Served) -> None:
    """A model that still loads, a full queue, a switch in the middle: none of it is an agent's affair."""
    errors = iter((WorkerLoading("loads"), WorkerBusy("Queue is full"), WorkerReplaced("switched")))

    def busy(_: Mapping[str, Any]) -> Answer:
        if error := next(errors, None):
            raise error
        return {"caption": "a cat"}

    served.station.backend["caption"] = busy
    async with agent(served) as client:
        assert text_of(await client.call_tool("caption", {"image": "photo.png"})) == "a cat"


def publish_a_switch(station: FakeStation, functions: Mapping[str, Callable[..., Any]]) -> None:
    """Another model with other functions becomes active."""
    station.backend = dict(functions)
    station.bus.publish(WorkerStarted(model="other", pid=1))


async def test_agents_hear_of_a_switch(served: Served) -> None:
    """Of one that changes the tools, once, in a session's own stream."""
    heard, told = anyio.create_memory_object_stream[Any](8)

    async def hear(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            await heard.send(message)

    async with heard, told, agent(served, "legacy", message_handler=hear) as client:
        assert len((await client.list_tools()).tools) == 3
        functions = dict(served.station.backend)
        publish_a_switch(served.station, functions)  # the same ones again
        publish_a_switch(served.station, {"caption": functions["caption"]})
        await told.receive()
        assert [tool.name for tool in (await client.list_tools()).tools] == ["caption"]
        publish_a_switch(served.station, functions)
        await told.receive()
        assert told.statistics().current_buffer_used == 0


async def test_agents_that_listen_hear_of_a_switch(served: Served) -> None:
    """As the protocol has it from 2026 on."""
    async with agent(served) as client:
        await client.list_tools()
        async with client.listen(tools_list_changed=True) as changes:
            publish_a_switch(served.station, {"caption": served.station.backend["caption"]})
            await anext(changes)
        assert [tool.name for tool in (await client.list_tools()).tools] == ["caption"]


class Silent:
    """A function that never answers; it tells when it has begun, and when nobody waits any more."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.ended = anyio.Event()

    async def __call__(self, _: Mapping[str, Any]) -> Answer:
        """Wait."""
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.ended.set()
        raise AssertionError


@ERAS
async def test_a_call_that_is_cancelled_frees_the_worker(served: Served, era: str) -> None:
    """Whether the agent says so or closes its stream."""
    served.station.backend["caption"] = silent = Silent()
    async with agent(served, era) as client:
        async with anyio.create_task_group() as calls:
            calls.start_soon(partial(client.call_tool, "caption", {"image": "photo.png"}))
            await silent.begun.wait()
            calls.cancel_scope.cancel()
        await silent.ended.wait()
        served.station.backend["caption"] = gives({"caption": "a cat"})
        assert text_of(await client.call_tool("caption", {"image": "photo.png"})) == "a cat"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "evil.example"}, 403, "host-forbidden"),
        ({"Origin": "http://evil.example"}, 403, "origin-forbidden"),
        ({"Origin": "http://localhost:1"}, 403, "origin-forbidden"),
    ],
)
async def test_others_may_not_ask(served: Served, headers: dict[str, str], status: int, code: str) -> None:
    """The rules of every route hold."""
    async with httpx2.AsyncClient(base_url=served.url, trust_env=False) as client:
        for method in ("POST", "GET", "DELETE"):
            response = await client.request(method, "/mcp", json=INITIALIZE, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_a_station_on_the_network_wants_its_token() -> None:
    """As for every other route."""
    async with (
        serving(FakeStation(), bound="0.0.0.0", agents=Folders()) as served,
        httpx2.AsyncClient(base_url=served.url, trust_env=False) as client,
    ):
        accepts = {"Accept": "application/json, text/event-stream"}
        assert (await client.post("/mcp", json=INITIALIZE, headers=accepts)).status_code == 401
        accepts["Authorization"] = f"Bearer {TOKEN}"
        assert (await client.post("/mcp", json=INITIALIZE, headers=accepts)).status_code == 200


async def test_it_is_off_where_nobody_asked_for_it() -> None:
    """404, and how to have it."""
    async with (
        serving(FakeStation()) as served,
        httpx2.AsyncClient(base_url=served.url, trust_env=False) as client,
    ):
        for method in ("POST", "GET"):
            response = await client.request(method, "/mcp", json=INITIALIZE)
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (404, "mcp-disabled")
            assert '"mcp": true' in error["hint"]
