"""OpenAI's API: what becomes of a chat, by a `chat` of the backend's own or not, and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import jsonschema
import pytest

from moondream_station.core.facts.errors import ArgumentInvalid, NoActiveModel, StationError, WorkerBusy
from moondream_station.http.api import Answer
from support.http_server import Served, serving
from support.station_api import Chunks, FakeStation, chunks, gives, raises

pytestmark = pytest.mark.anyio

SCHEMAS = Path(__file__).parents[2] / "docs" / "reference" / "schemas"
CHAT = "/v1/chat/completions"
IMAGE = "data:image/png;base64," + base64.b64encode(b"an image").decode()
OTHER = "data:image/png;base64," + base64.b64encode(b"another").decode()


def check(name: str, value: object) -> None:
    """A value is of the shape that the reference says."""
    jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text())).validate(value)


def user(text: str | None, *images: str) -> dict[str, Any]:
    """A user's message."""
    parts: list[dict[str, Any]] = [] if text is None else [{"type": "text", "text": text}]
    return {
        "role": "user",
        "content": parts + [{"type": "image_url", "image_url": {"url": image}} for image in images],
    }


def says(*words: str, **rest: Any) -> Any:
    """A `query` that answers with these words, as it is asked."""
    return lambda arguments: (
        chunks(*words, **rest) if arguments["stream"] else {"answer": "".join(words), **rest}
    )


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx2.AsyncClient]:
    """An ordinary HTTP client."""
    async with httpx2.AsyncClient(base_url=served.url, trust_env=False, timeout=20) as http:
        yield http


async def complete(client: httpx2.AsyncClient, messages: Any, **body: Any) -> dict[str, Any]:
    """A whole completion."""
    asked = {"messages": messages, **body}
    check("chat-request", asked)
    response = await client.post(CHAT, json=asked)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    check("chat-completion", answer)
    return answer


async def stream(client: httpx2.AsyncClient, messages: Any, **body: Any) -> list[dict[str, Any]]:
    """The chunks of a streamed one, which ends as it must."""
    response = await client.post(CHAT, json={"messages": messages, "stream": True, **body})
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert last == "data: [DONE]"
    parsed = [json.loads(event.removeprefix("data: ")) for event in events]
    for chunk in parsed:
        check("chat-chunk", chunk)
    assert len({chunk["id"] for chunk in parsed}) == 1
    return parsed


def texts(parsed: list[dict[str, Any]]) -> list[str]:
    """The pieces of text that chunks bring."""
    deltas = [chunk["choices"][0]["delta"] for chunk in parsed if chunk["choices"]]
    return [delta["content"] for delta in deltas if delta.get("content")]


def given(served: Served) -> dict[str, Any]:
    """What the backend got last, without what comes from the request's head."""
    arguments = served.station.calls[-1][1]
    return {name: arguments[name] for name in arguments.keys() - {"_headers", "_method"}}


async def refused(client: httpx2.AsyncClient, body: Mapping[str, Any], status: int = 400) -> dict[str, Any]:
    """The error of a request that is refused, in OpenAI's shape."""
    response = await client.post(CHAT, json=body)
    assert response.status_code == status, response.text
    check("openai-error", response.json())
    error: dict[str, Any] = response.json()["error"]
    return error


async def test_the_models_are_listed_as_openai_does(served: Served, client: httpx2.AsyncClient) -> None:
    """The active one first, and each by its id."""
    (model,) = served.station.listed["models"]
    idle = {**model, "id": "a/nother", "active": False}
    served.station.listed = {**served.station.listed, "models": [idle, model]}
    listed = (await client.get("/v1/models")).json()
    check("models", listed)
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["selftest", "a/nother"]
    for entry in listed["data"]:
        one = (await client.get(f"/v1/models/{entry['id']}")).json()
        check("model", one)
        assert one == entry


async def test_a_model_that_is_not_there(client: httpx2.AsyncClient) -> None:
    """404, in OpenAI's shape."""
    response = await client.get("/v1/models/nope")
    assert response.status_code == 404
    check("openai-error", response.json())
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("messages", "function", "arguments"),
    [
        ([user("What?", IMAGE)], "query", {"question": "What?", "image_url": IMAGE}),
        ([{"role": "user", "content": "What?"}], "query", {"question": "What?"}),
        ([user(None, IMAGE)], "caption", {"image_url": IMAGE}),
        ([user("  ", IMAGE)], "caption", {"image_url": IMAGE}),
        (
            [user("Who?", OTHER), {"role": "assistant", "content": "A cat."}, user("What?", IMAGE)],
            "query",
            {"question": "What?", "image_url": IMAGE},
        ),
        (
            [user("Who?", IMAGE), {"role": "assistant", "content": "A cat."}, user("Why?")],
            "query",
            {"question": "Why?", "image_url": IMAGE},
        ),
        (
            [{"role": "system", "content": "One word."}, user("What?", IMAGE)],
            "query",
            {"question": "One word.\n\nWhat?", "image_url": IMAGE},
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": IMAGE}]}],
            "caption",
            {"image_url": IMAGE},
        ),
    ],
    ids=["both", "text", "image", "blank", "last", "earlier image", "system", "bare address"],
)
async def test_what_a_chat_becomes_without_chat(
    served: Served, client: httpx2.AsyncClient, messages: Any, function: str, arguments: dict[str, Any]
) -> None:
    """A question about the user's last image, or a caption."""
    served.station.backend |= {"query": gives({"answer": "a cat"}), "caption": gives({"caption": "a cat"})}
    answer = await complete(client, messages, model="selftest")
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "a cat"}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["model"] == "selftest"
    assert served.station.calls[-1][0] == function
    assert given(served) == {**arguments, "stream": False}


async def test_how_to_sample_is_passed_on(served: Served, client: httpx2.AsyncClient) -> None:
    """By the names that the functions have for it."""
    served.station.backend["query"] = says("a")
    await complete(client, [user("What?")], max_tokens=5, temperature=0.5, top_p=1, reasoning=True)
    assert given(served) == {
        "question": "What?",
        "settings": {"max_tokens": 5, "temperature": 0.5, "top_p": 1},
        "reasoning": True,
        "stream": False,
    }


async def test_a_backend_with_chat_gets_it(served: Served, client: httpx2.AsyncClient) -> None:
    """The messages as they were sent, with all their images, and how to sample."""
    message = {"role": "assistant", "content": "a cat", "reasoning_details": {"grounding": []}}
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    served.station.backend["chat"] = gives({"message": message, "finish_reason": "length", "usage": usage})
    messages = [{"role": "system", "content": "Short."}, user("Same?", IMAGE, OTHER)]
    answer = await complete(client, messages, max_completion_tokens=5, temperature=1, user="me", n=1)
    assert given(served) == {"messages": messages, "max_tokens": 5, "temperature": 1, "stream": False}
    (choice,) = answer["choices"]
    assert choice["message"] == message
    assert choice["finish_reason"] == "length"
    assert answer["usage"] == usage


@pytest.mark.parametrize("function", ["chat", "query"])
async def test_a_stream(served: Served, client: httpx2.AsyncClient, function: str) -> None:
    """Each piece as it comes; the first says whose, the last why it ends."""
    served.station.backend[function] = says("a ", "cat")
    parsed = await stream(client, [user("What?")])
    assert parsed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert texts(parsed) == ["a ", "cat"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in parsed] == [None, None, None, "stop"]


async def test_a_stream_of_a_backend_that_does_not_stream(served: Served, client: httpx2.AsyncClient) -> None:
    """It is one all the same."""
    served.station.backend["caption"] = gives({"caption": "a cat"})
    assert texts(await stream(client, [user(None, IMAGE)])) == ["a cat"]


async def test_usage(served: Served, client: httpx2.AsyncClient) -> None:
    """Words are counted; a stream tells them where it is asked to."""
    served.station.backend["query"] = says("a ", "cat")
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert (await complete(client, [user("What is it?")]))["usage"] == usage
    parsed = await stream(client, [user("What is it?")], stream_options={"include_usage": True})
    assert (parsed[-1]["choices"], parsed[-1]["usage"]) == ([], usage)


@pytest.mark.parametrize(
    ("stop", "limit", "text", "reason"),
    [
        ("a cat", None, "It is ", "stop"),
        (["hat", "cat"], None, "It is a ", "stop"),
        (["a dog", "catch"], None, "It is a cat in", "stop"),
        (None, 2, "It is", "length"),
        (None, 5, "It is a cat in", "stop"),
        ("is", 1, "It", "length"),
        ("It", 1, "", "stop"),
    ],
)
async def test_where_a_text_ends(
    served: Served, client: httpx2.AsyncClient, stop: Any, limit: int | None, text: str, reason: str
) -> None:
    """Before what must not be in it, and after so many words, however the backend cuts its pieces."""
    served.station.backend["query"] = says("It i", "s a c", "at", " in")
    limits = {"stop": stop, "max_tokens": limit}
    answer = await client.post(CHAT, json={"messages": [user("What?")], **limits})
    (choice,) = answer.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)
    parsed = await stream(client, [user("What?")], **limits)
    assert "".join(texts(parsed)).rstrip() == text.rstrip()
    assert parsed[-1]["choices"][0]["finish_reason"] == reason


async def test_a_stream_that_is_over_ends_its_call(served: Served, client: httpx2.AsyncClient) -> None:
    """The backend does not compute what nobody will read."""
    endless = anyio.Event()

    async def pieces() -> AsyncIterator[str]:
        yield "a cat"
        await endless.wait()

    served.station.backend["query"] = gives(Chunks(pieces(), {}))
    assert texts(await stream(client, [user("What?")], stop="cat")) == ["a "]
    assert served.station.left == ["query"]


async def test_reasoning(served: Served, client: httpx2.AsyncClient) -> None:
    """It is in the message, as the `moondream` client names it."""
    served.station.backend["query"] = says("a cat", reasoning={"text": "It purrs.", "grounding": [1]})
    reasoning = {"reasoning": "It purrs.", "reasoning_details": {"grounding": [1]}}
    answer = await complete(client, [user("What?")], reasoning=True)
    assert answer["choices"][0]["message"].items() >= reasoning.items()
    first, *_ = await stream(client, [user("What?")], reasoning=True)
    assert first["choices"][0]["delta"].items() >= reasoning.items()
    served.station.backend["chat"] = gives({"answer": "a cat", "reasoning": "It purrs."})
    answer = await complete(client, [user("What?")])
    assert answer["choices"][0]["message"]["reasoning"] == "It purrs."


async def test_progress_is_a_comment(served: Served, client: httpx2.AsyncClient) -> None:
    """A stream begins with it, and clients skip it; a whole answer is one all the same."""
    served.station.steps = [(1, 4, "tokens")]
    served.station.backend["query"] = gives({"answer": "a cat"})
    response = await client.post(CHAT, json={"messages": [user("What?")], "stream": True})
    assert response.text.startswith(': {"done":1,"total":4,"unit":"tokens"}\n\n')
    assert texts(await stream(client, [user("What?")])) == ["a cat"]


AUDIO = {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"seed": 1}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"anything": 1}, "anything"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"timeout": -1}, "timeout"),
        ({"reasoning": True, "messages": [user(None, IMAGE)]}, "reasoning"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "What?"}, "messages"),
        ({"messages": [user("Same?", IMAGE, OTHER)]}, "messages.0.content"),
        ({"messages": [user("What?", "https://example.org/a.png")]}, "messages.0.content"),
        ({"messages": [user(None)]}, "messages.0.content"),
        ({"messages": [AUDIO]}, "messages.0.content.0"),
        ({"messages": [{"role": "tool", "content": "a", "tool_call_id": "1"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages.0.role"),
        ({"messages": [user("a", IMAGE) | {"role": "system"}]}, "messages.0.content"),
    ],
)
async def test_what_can_not_be_honoured_is_refused_by_name(
    served: Served, client: httpx2.AsyncClient, body: dict[str, Any], name: str
) -> None:
    """400, and nothing is called."""
    served.station.backend |= {"query": says("a"), "caption": says("a")}
    error = await refused(client, {"messages": [user("What?")], **body})
    assert name in error["message"]
    assert error["param"] == name or name == "timeout"
    assert not served.station.calls


async def test_what_asks_for_nothing_is_let_pass(served: Served, client: httpx2.AsyncClient) -> None:
    """Programs send defaults along, and answers back with everything that they could have held."""
    served.station.backend["query"] = says("a")
    before: dict[str, Any] = {
        "role": "assistant",
        "content": "a",
        "refusal": None,
        "tool_calls": None,
        "annotations": [],
    }
    defaults = {"n": 1, "tools": [], "logprobs": False, "presence_penalty": 0, "seed": None, "user": "me"}
    messages = [user("Who?"), before, user("What?")]
    response = await client.post(CHAT, json={"messages": messages, **defaults})
    assert response.status_code == 200
    assert given(served) == {"question": "What?", "stream": False}


async def test_another_model_than_the_active_one(served: Served, client: httpx2.AsyncClient) -> None:
    """404 that says which is; also for what the `moondream` client names by default, from another."""
    served.station.backend["query"] = says("a")
    for model in ("gpt-4o", "moondream3-preview"):
        error = await refused(client, {"model": model, "messages": [user("What?")]}, 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "'selftest' is" in error["message"]
    assert not served.station.calls


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ArgumentInvalid("image_url can't be read"), 400, "invalid_request_error"),
        (WorkerBusy("Queue is full"), 429, "rate_limit_error"),
        (NoActiveModel("No model is active"), 503, "server_error"),
    ],
)
async def test_errors_have_openai_s_shape(
    served: Served, client: httpx2.AsyncClient, error: StationError, status: int, kind: str
) -> None:
    """Whoever raises them, and with when to come back."""
    served.station.backend["query"] = raises(error)
    response = await client.post(CHAT, json={"messages": [user("What?")]})
    assert response.status_code == status
    check("openai-error", response.json())
    assert response.json()["error"]["type"] == kind
    assert response.json()["error"]["code"] == error.code
    assert ("retry-after" in response.headers) == (status == 429)


@pytest.mark.parametrize("answer", [{"objects": []}, {"error": "no"}, {"answer": "a", "usage": {"a": {1}}}])
async def test_an_answer_that_is_none(served: Served, client: httpx2.AsyncClient, answer: Answer) -> None:
    """It is the backend's fault."""
    served.station.backend["query"] = gives(answer)
    error = await refused(client, {"messages": [user("What?")]}, 500)
    assert error["code"] == "backend-error"


async def test_a_function_that_is_missing(served: Served, client: httpx2.AsyncClient) -> None:
    """404 that says what there is."""
    served.station.backend["detect"] = gives({"objects": []})
    error = await refused(client, {"messages": [user("What?")]}, 404)
    assert "detect" in error["message"]


@pytest.mark.parametrize("part", [chunks("a ", then=WorkerBusy("no")), chunks("a ", 5)])
async def test_an_error_in_mid_stream(served: Served, client: httpx2.AsyncClient, part: Answer) -> None:
    """It is the last message, and `[DONE]` does not follow."""
    served.station.backend["query"] = gives(part)
    response = await client.post(CHAT, json={"messages": [user("What?")], "stream": True})
    last = response.text.strip().split("\n\n")[-1]
    check("openai-error", json.loads(last.removeprefix("data: ")))


async def test_bodies_that_can_not_be_read(client: httpx2.AsyncClient) -> None:
    """They are refused in OpenAI's shape too."""
    for body, kind, status in ((b"{", "application/json", 400), (b"a", "text/plain", 415)):
        response = await client.post(CHAT, content=body, headers={"Content-Type": kind})
        assert response.status_code == status
        check("openai-error", response.json())


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
async def test_a_client_that_leaves_ends_its_call(served: Served, streams: bool) -> None:  # noqa: FBT001  both kinds
    """Within a token, though the backend would go on for ever."""
    begun, ended = anyio.Event(), anyio.Event()

    async def pieces() -> AsyncIterator[str]:
        try:
            while True:
                yield "word "
                await anyio.sleep(0.01)
        finally:
            ended.set()

    async def silent(_: Mapping[str, Any]) -> Answer:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        return {}

    served.station.backend["query"] = gives(Chunks(pieces(), {})) if streams else silent
    body = json.dumps({"messages": [user("What?")], "stream": streams})
    head = f"Host: 127.0.0.1:{served.port}\nContent-Type: application/json\nContent-Length: {len(body)}\n\n"
    async with served.line() as line:
        await line.send(f"POST {CHAT} HTTP/1.1\n{head}")
        await line.send(body.encode())
        if streams:
            await line.read_head()
        else:
            await begun.wait()
    with anyio.fail_after(2):
        await ended.wait()


async def test_no_model_is_active() -> None:
    """503, whatever model is named."""

    class Idle(FakeStation):
        def functions(self) -> frozenset[str]:
            return frozenset()

    station = Idle()
    station.backend["query"] = raises(NoActiveModel("No model is active"))
    async with serving(station) as served, httpx2.AsyncClient(base_url=served.url, trust_env=False) as client:
        assert (await refused(client, {"messages": [user("What?")]}, 503))["code"] == "no-active-model"


async def test_the_openai_package(served: Served) -> None:
    """Unchanged."""
    import openai  # noqa: PLC0415  a second that only this test should pay

    served.station.backend["query"] = says("a ", "cat")
    messages = [user("What?", IMAGE)]

    def ask() -> tuple[Any, ...]:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as sdk:
            create: Any = partial(sdk.chat.completions.create, model="selftest", messages=messages)
            pieces = [chunk.choices[0].delta.content for chunk in create(stream=True)]
            with pytest.raises(openai.BadRequestError, match="tools"):
                create(tools=[{"type": "function", "function": {"name": "a"}}])
            with pytest.raises(openai.NotFoundError, match="selftest"):
                create(model="other")
            listed = [model.id for model in sdk.models.list()]
            return listed, create().choices[0].message.content, [piece for piece in pieces if piece]

    assert await anyio.to_thread.run_sync(ask) == (["selftest"], "a cat", ["a ", "cat"])
