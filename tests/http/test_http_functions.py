"""The backend's functions over HTTP: what goes in, what comes out, and what becomes of errors."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.facts.errors import (
    ArgumentInvalid,
    BackendError,
    NoActiveModel,
    StationError,
    UnknownFunction,
    WorkerBusy,
    WorkerFailed,
    WorkerLoading,
    WorkerReplaced,
    WorkerTimeout,
)
from moondream_station.core.facts.figures import count_tokens
from moondream_station.http.api import Answer
from moondream_station.http.functions import function_name, measure
from support.http_server import Served, serving
from support.station_api import Chunks, FakeStation, Function, chunks, echoes, gives, raises

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx2.AsyncClient]:
    """An ordinary HTTP client."""
    async with httpx2.AsyncClient(base_url=served.url, trust_env=False, timeout=20) as http:
        yield http


def sent(served: Served) -> dict[str, Any]:
    """The arguments that the backend got last, without what comes from the request's head."""
    arguments = dict(served.station.calls[-1][1])
    del arguments["_headers"], arguments["_method"]
    return arguments


@pytest.mark.parametrize(
    "path", ["/v1/caption", "/caption", "/v1/caption/", "/v1/caption/deeper", "//caption"]
)
async def test_both_spellings_call_the_function(
    served: Served, client: httpx2.AsyncClient, path: str
) -> None:
    """With and without /v1, and below it, as in 0.1; the answer carries its numbers."""
    served.station.backend["caption"] = gives({"caption": "a red square", "n": 3})
    response = await client.post(served.url + path, json={"image_url": "data:,", "length": "short"})
    assert response.status_code == 200
    answer = response.json()
    taken = answer.pop("_stats")
    assert answer == {"caption": "a red square", "n": 3}
    assert taken["tokens"] == 3
    assert set(taken) == {"tokens", "duration", "tokens_per_sec"}
    assert sent(served) == {"image_url": "data:,", "length": "short"}


async def test_a_form_gives_its_fields(served: Served, client: httpx2.AsyncClient) -> None:
    """As the body of an HTML form."""
    served.station.backend["query"] = echoes
    await client.post("/v1/query", data={"question": "Where & why?", "stream": "false"})
    assert sent(served) == {"question": "Where & why?", "stream": False}


async def test_a_multipart_form_gives_fields_and_files(served: Served, client: httpx2.AsyncClient) -> None:
    """A file arrives as a data URL, the form in which functions take images; fields may be as large."""
    served.station.backend["detect"] = echoes
    picture = bytes(range(256)) * 8192
    text = "x" * (3 << 20)
    await client.post(
        "/v1/detect", data={"object": text}, files={"image_url": ("cat.png", picture, "image/png")}
    )
    assert sent(served) == {
        "object": text,
        "image_url": "data:image/png;base64," + base64.b64encode(picture).decode(),
    }


async def test_query_parameters_are_merged_over_the_body(served: Served, client: httpx2.AsyncClient) -> None:
    """The address wins, as in 0.1."""
    served.station.backend["query"] = echoes
    await client.post("/v1/query?question=two&timeout=2.5", json={"question": "one", "a": 1})
    assert sent(served) == {"question": "two", "a": 1}
    assert served.station.calls[-1][2] == 2.5


@pytest.mark.parametrize(("given_timeout", "expected"), [(3, 3.0), ("0.5", 0.5), (None, None), ("", None)])
async def test_the_timeout_is_taken_out(
    served: Served, client: httpx2.AsyncClient, given_timeout: object, expected: float | None
) -> None:
    """It is the station's to keep, not the backend's."""
    served.station.backend["caption"] = echoes
    await client.post("/v1/caption", json={"timeout": given_timeout})
    assert served.station.calls[-1][2] == expected
    assert sent(served) == {}


@pytest.mark.parametrize("limit", ["soon", -1, 0, True, [1], {}, "nan", "inf", "1e999", 10**400])
async def test_a_bad_timeout_is_told(served: Served, client: httpx2.AsyncClient, limit: object) -> None:
    """Nothing runs under a limit that nobody meant."""
    served.station.backend["caption"] = echoes
    response = await client.post("/v1/caption", json={"timeout": limit})
    assert response.status_code == 400
    assert response.json()["code"] == "request-invalid"
    assert "timeout" in response.json()["error"]
    assert not served.station.calls


async def test_headers_are_passed_on_without_secrets(served: Served, client: httpx2.AsyncClient) -> None:
    """A backend sees what a request said, not what opens doors; a body can't forge it."""
    served.station.backend["caption"] = echoes
    secrets = {
        "Authorization": "Bearer a",
        "X-Moondream-Auth": "b",
        "Cookie": "c",
        "Proxy-Authorization": "d",
    }
    await client.post(
        "/v1/caption", headers={"X-Trace": "t", **secrets}, json={"_method": "GET", "_headers": 1}
    )
    arguments = served.station.calls[-1][1]
    assert arguments["_method"] == "POST"
    assert arguments["_headers"]["x-trace"] == "t"
    assert not {name.lower() for name in secrets} & set(arguments["_headers"])


@pytest.mark.parametrize(
    "body",
    [b"{", b"[1]", b'"text"', b"null", b"1", b"\xff\xfe", b'{"a": NaN}', b'{"a": -Infinity}', b"[" * 200_000],
)
async def test_a_body_that_is_no_json_object_is_refused(
    served: Served, client: httpx2.AsyncClient, body: bytes
) -> None:
    """Nothing is guessed, and nothing of it brings the server down."""
    served.station.backend["caption"] = echoes
    response = await client.post("/v1/caption", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["status"] == "rejected"
    assert not served.station.calls


@pytest.mark.parametrize(
    ("body", "kind"), [("[]", "an array"), ('"a"', "a string"), ("null", "null"), ("1.5", "a number")]
)
async def test_what_a_body_is_instead_is_said_in_json_s_words(
    client: httpx2.AsyncClient, body: str, kind: str
) -> None:
    """Who sends it need not know Python's."""
    response = await client.post("/v1/caption", content=body, headers={"Content-Type": "application/json"})
    assert response.json()["error"] == f"The body must be a JSON object, not {kind}"


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "application/json; charset=utf-8"}])
async def test_an_empty_body_is_an_empty_object(
    served: Served, client: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    """A function may need nothing."""
    served.station.backend["caption"] = echoes
    assert (await client.post("/v1/caption", headers=headers)).status_code == 200
    assert sent(served) == {}


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "application/jsonp"])
async def test_a_body_of_another_kind_is_refused(
    served: Served, client: httpx2.AsyncClient, kind: str
) -> None:
    """Rather than ignored: the client would wonder where its image went."""
    served.station.backend["caption"] = echoes
    response = await client.post("/v1/caption", content=b"{}", headers={"Content-Type": kind})
    assert response.status_code == 415
    assert response.json()["code"] == "content-type-unsupported"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x"),
        ("multipart/form-data; boundary=x", b"no boundary here at all"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n"),
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(2000))),
    ],
)
async def test_a_form_that_is_none_is_refused(
    served: Served, client: httpx2.AsyncClient, kind: str, body: bytes
) -> None:
    """With a sentence, as every other request that can't be read."""
    served.station.backend["caption"] = echoes
    response = await client.post("/v1/caption", content=body, headers={"Content-Type": kind})
    assert response.status_code == 400
    assert response.json()["code"] == "request-invalid"


async def test_an_unknown_function_is_told_with_the_known_ones(
    served: Served, client: httpx2.AsyncClient
) -> None:
    """404 in the functions' own shape, also below /chat."""
    served.station.backend.update(caption=echoes, point=echoes)
    for path in ("/v1/segment", "/segment", "/chat/completions", "/v1/chat"):
        response = await client.post(path, json={})
        assert response.status_code == 404
        assert response.json().keys() == {"error", "status", "code"}
        assert response.json()["code"] == "unknown-function"
        assert response.json()["status"] == "rejected"
        assert "caption, point" in response.json()["error"]


@pytest.mark.parametrize("path", ["/favicon.ico", "/v1/", "/v1/_private", "/a-b", "/v1/a.b", "/%2e%2e/etc"])
async def test_what_can_be_no_function_is_not_found(
    served: Served, client: httpx2.AsyncClient, path: str
) -> None:
    """By any method, whether a model is active or not."""
    for method in ("GET", "POST"):
        assert (await client.request(method, path)).status_code == 404
    assert not served.station.calls


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
async def test_functions_are_called_by_post_alone(
    served: Served, client: httpx2.AsyncClient, method: str
) -> None:
    """A link or an image tag on a page calls nothing."""
    served.station.backend["caption"] = echoes
    response = await client.request(method, "/v1/caption")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert not served.station.calls


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (WorkerBusy("The queue is full"), 429, "rejected"),
        (NoActiveModel("No model is active", hint="Switch to one."), 503, "rejected"),
        (WorkerLoading("The model still loads"), 503, "rejected"),
        (WorkerReplaced("Another worker took its place"), 503, "rejected"),
        (WorkerTimeout("No answer in 30 s"), 504, "timeout"),
        (BackendError("division by zero"), 500, "error"),
        (ArgumentInvalid("image_url is missing"), 400, "rejected"),
        (WorkerFailed("The worker died"), 500, "error"),
        (UnknownFunction("There is no function 'caption'"), 404, "rejected"),
        (StationError("Anything else"), 500, "error"),
    ],
)
async def test_errors_keep_their_cause(
    served: Served, client: httpx2.AsyncClient, error: StationError, status: int, kind: str
) -> None:
    """A status that clients understand, 0.1's shape, and the code that names the cause."""
    served.station.backend["caption"] = raises(error)
    response = await client.post("/v1/caption", json={})
    assert response.status_code == status
    answer = response.json()
    assert (answer["status"], answer["code"]) == (kind, error.code)
    assert answer["error"].startswith(error.message)
    is_over_soon = isinstance(error, WorkerBusy | WorkerLoading | WorkerReplaced)
    assert ("retry-after" in response.headers) == is_over_soon


async def test_without_a_model_the_station_answers(served: Served, client: httpx2.AsyncClient) -> None:
    """Where no functions are known, the call itself says why: 503, not 404."""

    class WithoutModel(dict[str, Any]):
        def __missing__(self, key: str) -> Any:
            return raises(NoActiveModel("No model is active"))

    served.station.backend = WithoutModel()
    response = await client.post("/v1/caption", json={})
    assert response.status_code == 503
    assert response.json()["code"] == "no-active-model"


async def test_a_backend_that_answers_with_an_error_has_failed(
    served: Served, client: httpx2.AsyncClient
) -> None:
    """Its own words, and a status that says so."""
    served.station.backend["caption"] = gives({"error": "no image", "detail": 1})
    response = await client.post("/v1/caption", json={})
    assert response.status_code == 500
    assert response.json() == {
        "error": "no image",
        "detail": 1,
        "status": "error",
        "code": "backend-error",
    }


@pytest.mark.parametrize("answer", [{"x": math.nan}, {"x": object()}, {"x": math.inf}])
async def test_an_answer_without_json_form_is_the_backends_fault(
    served: Served, client: httpx2.AsyncClient, answer: Answer
) -> None:
    """Said as such, not as a mistake of the station."""
    served.station.backend["caption"] = gives(answer)
    response = await client.post("/v1/caption", json={})
    assert response.status_code == 500
    assert response.json()["code"] == "backend-error"


async def test_a_mistake_of_the_station_is_answered_without_its_details(
    served: Served, client: httpx2.AsyncClient
) -> None:
    """What nobody expected goes to the log; the client hears that it happened, and the server goes on."""

    def broken(_arguments: Mapping[str, Any]) -> Answer:
        raise ZeroDivisionError("secret detail")

    served.station.backend["caption"] = broken
    response = await client.post("/v1/caption", json={})
    assert response.status_code == 500
    assert response.json()["code"] == "internal-error"
    assert "Internal error (a bug in Moondream Station): ZeroDivisionError" in response.json()["error"]
    assert "secret" not in response.text
    assert (await client.get("/health")).status_code == 200


async def test_a_streamed_answer_comes_chunk_by_chunk(served: Served, client: httpx2.AsyncClient) -> None:
    """Chunks, their numbers, and the end, as data lines without names or ids."""
    served.station.backend["caption"] = gives(chunks("a ", "réd\n\u2028", "\ud800"))
    response = await client.post("/v1/caption", json={"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.content.decode("ascii").split("\n\n")
    assert lines.pop() == ""
    messages = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert messages[:3] == [{"chunk": "a "}, {"chunk": "réd\n\u2028"}, {"chunk": "\ud800"}]
    assert messages[3]["stats"]["tokens"] == 3
    assert messages[4:] == [{"completed": True}]
    assert sent(served) == {"stream": True}


async def test_an_error_in_mid_stream_is_its_last_message(served: Served, client: httpx2.AsyncClient) -> None:
    """The status is sent already; the client is told all the same, and nothing says completed."""
    served.station.backend["caption"] = gives(chunks("a", then=WorkerFailed("The worker died")))
    response = await client.post("/v1/caption", json={"stream": True})
    assert messages_of(response.text) == [
        {"chunk": "a"},
        {"error": "The worker died", "status": "error", "code": "worker-failed"},
    ]


def messages_of(text: str) -> list[dict[str, Any]]:
    """What a stream sent."""
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n")[:-1]]


async def test_a_stream_tells_what_the_answer_holds_beside_it(
    served: Served, client: httpx2.AsyncClient
) -> None:
    """First of all, as the reasoning; nothing that clients would take for a message of the stream's."""
    thought = {"text": "a tail", "grounding": []}
    served.station.backend["query"] = gives(chunks("cat", reasoning=thought, completed=True, chunk="x"))
    response = await client.post("/v1/query", json={"stream": True})
    first, *rest = messages_of(response.text)
    assert first == {"reasoning": thought}
    assert rest[0] == {"chunk": "cat"}
    assert rest[-1] == {"completed": True}


@pytest.mark.parametrize(
    ("answer", "last"),
    [
        (gives(chunks("cat")), [{"chunk": "cat"}, {"stats": ...}, {"completed": True}]),
        (gives({"answer": "cat"}), [{"answer": "cat", "_stats": ...}, {"completed": True}]),
        (
            raises(WorkerFailed("The worker died")),
            [{"error": "The worker died", "status": "error", "code": "worker-failed"}],
        ),
    ],
)
async def test_a_stream_tells_how_far_its_first_word_is(
    served: Served, client: httpx2.AsyncClient, answer: Function, last: list[dict[str, Any]]
) -> None:
    """It has begun then, whatever comes of it; an answer that is not streamed is told whole all the same."""
    served.station.backend["query"] = answer
    served.station.steps = [(3, None, "tokens")]
    response = await client.post("/v1/query", json={"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *rest = messages_of(response.text)
    assert first == {"progress": {"done": 3, "total": None, "unit": "tokens"}}
    timed = [{name: ... if "stats" in name else part for name, part in message.items()} for message in rest]
    assert timed == last


async def test_a_whole_answer_waits_in_silence(served: Served, client: httpx2.AsyncClient) -> None:
    """Who does not ask for a stream gets none."""
    served.station.backend["query"] = gives({"answer": "cat"})
    served.station.steps = [(3, None, "tokens")]
    assert (await client.post("/v1/query", json={})).json()["answer"] == "cat"


async def test_a_chunk_without_json_form_ends_the_stream_with_an_error(
    served: Served, client: httpx2.AsyncClient
) -> None:
    """As any other failure of the backend."""
    served.station.backend["caption"] = gives(chunks(math.nan))
    response = await client.post("/v1/caption", json={"stream": True})
    assert json.loads(response.text.removeprefix("data: "))["code"] == "backend-error"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_client_that_leaves_cancels_its_call(served: Served, streams: bool) -> None:  # noqa: FBT001  both kinds
    """Nobody computes for nobody."""
    waits, cancelled = anyio.Event(), anyio.Event()

    async def endless() -> AsyncIterator[Any]:
        yield "first"
        await never()

    async def never() -> None:
        waits.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async def function(_arguments: Mapping[str, Any]) -> Answer:
        if not streams:
            await never()
        return Chunks(endless(), {})

    served.station.backend["caption"] = function
    async with served.line() as line:
        query = "?stream=true" if streams else ""
        await line.send(f"POST /v1/caption{query} HTTP/1.1\nHost: localhost\nContent-Length: 0\n\n")
        await waits.wait()
    await cancelled.wait()


@pytest.mark.parametrize("streams", [False, True])
async def test_a_station_that_stops_gives_up_its_calls(streams: bool) -> None:  # noqa: FBT001  both kinds
    """The client is told, by status or by the last message, and no handler is left behind."""
    waits = anyio.Event()

    async def endless() -> AsyncIterator[Any]:
        yield "first"
        waits.set()
        await anyio.sleep_forever()

    async def function(_arguments: Mapping[str, Any]) -> Answer:
        if not streams:
            waits.set()
            await anyio.sleep_forever()
        return Chunks(endless(), {})

    station = FakeStation()
    station.backend["caption"] = function
    async with serving(station) as served, served.line() as line:
        query = "?stream=true" if streams else ""
        await line.send(f"POST /v1/caption{query} HTTP/1.1\nHost: localhost\nContent-Length: 0\n\n")
        await waits.wait()
        served.stopping.set()
        if streams:
            status, _ = await line.read_head()
            text = "".join([await line.read_line() for _ in range(8)])
            assert status == 200
        else:
            reply = await line.read_reply()
            assert reply.status == 503
            text = reply.body.decode()
        assert '"code":"station-stopping"' in text
    assert station.left == ["caption"]


@given(st.text())
def test_any_path_names_a_function_or_none(path: str) -> None:
    """What it names could be one in Python, and is none that Python keeps to itself."""
    try:
        name = function_name(path)
    except StationError as error:
        assert error.code in {"unknown-function", "not-found"}  # noqa: PT017  either outcome is right
    else:
        assert name.isidentifier()
        assert not name.startswith("_")


def test_numbers_are_counted_as_in_0_1() -> None:
    """Words of the texts at the top; seconds to two digits, their rate to one, zero where there is none."""
    assert count_tokens({"caption": " a  red\nsquare ", "n": 1, "more": ["x y"], "reasoning": "yes"}) == 4
    assert measure(7, 0.333333) == {"tokens": 7, "duration": 0.33, "tokens_per_sec": 21.0}
    assert measure(0, 0.0) == {"tokens": 0, "duration": 0.0, "tokens_per_sec": 0.0}


@pytest.mark.parametrize("number", ["1e999", "-1e999", "[1, 2e400]", "NaN", "9" * 5000])
async def test_numbers_that_json_can_not_hold_are_refused(client: httpx2.AsyncClient, number: str) -> None:
    """As every body that is not JSON: the backend would get an infinity that nobody sent."""
    response = await client.post(
        "/v1/caption",
        content=f'{{"length": {number}}}'.encode(),
        headers={"Content-Type": "application/json"},
    )
    assert (response.status_code, response.json()["code"]) == (400, "request-invalid")
    assert "number" in response.json()["error"]
    assert "sys." not in response.json()["error"]


@pytest.mark.parametrize("path", ["/v1/caption", "/v1/station/switch"])
async def test_a_compressed_body_is_refused(client: httpx2.AsyncClient, path: str) -> None:
    """With what is understood (RFC 9110, 8.4 and 15.5.16), instead of as broken JSON."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = await client.post(path, content=gzip.compress(b"{}"), headers=headers)
    assert (response.status_code, response.headers["Accept-Encoding"]) == (415, "identity")
    assert "content-encoding-unsupported" in response.text


async def test_an_argument_that_does_not_fit_is_named(served: Served, client: httpx2.AsyncClient) -> None:
    """In a field of its own, so that a program need not read the sentence."""
    error = ArgumentInvalid("object is missing: give one as text")
    error.argument = "object"
    served.station.backend["detect"] = raises(error)
    response = await client.post("/v1/detect", json={})
    assert (response.status_code, response.json()["argument"]) == (400, "object")
    assert response.json()["code"] == "argument-invalid"


async def test_a_client_is_an_address_and_the_key_that_came_from_it(
    served: Served, client: httpx2.AsyncClient
) -> None:
    """So that two programs on one computer can be told apart, by a key that nothing keeps."""
    served.station.backend["caption"] = echoes
    for headers in ({}, {}, {"X-Moondream-Auth": "key-a"}, {"Authorization": "Bearer key-b"}):
        await client.post("/v1/caption", json={"stream": not headers}, headers=headers)
    first, again, *others = served.station.clients
    assert first == again
    assert len({first, *others}) == 3
    assert "key-" not in str(others)
