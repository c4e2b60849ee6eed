"""Chats with a worker that has a `chat` of its own, over HTTP: what it gets, and when it is free again."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from support.commands import Served, serving
from support.stations import activate, open_premises

TALKER = """\
ended = []


def chat(messages, stream=False, max_tokens=None):
    said = messages[-1]["content"]
    if not stream:
        return {"message": {"role": "assistant", "content": f"{len(messages)}: {said}"}, "ended": ended}
    return {"message": words()}


def words():
    try:
        while True:
            yield "word "
    finally:
        ended.append("stream")


def ends(**kwargs):
    return {"ended": ended}
"""


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A station that serves a model that talks for ever, one call at a time."""
    with open_premises(tmp_path_factory.mktemp("talker")) as premises:
        premises.add_model("talker", source=TALKER)
        activate(premises, "talker")
        with serving(premises) as served:
            yield served


def ask(station: Served, **body: Any) -> Any:
    """A whole answer of the station's to a chat about the weather."""
    return station.post("/v1/chat/completions", {"messages": MESSAGES, **body})


MESSAGES = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": "No."},
    {"role": "user", "content": "Sun?"},
]


def test_the_backend_gets_the_whole_chat(station: Served) -> None:
    """As it was sent; its message is the answer's."""
    answer = ask(station, model="talker", max_tokens=9)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "3: Sun?"}


def test_what_the_backend_has_no_parameter_for_is_refused(station: Served) -> None:
    """By its name, by the worker."""
    with pytest.raises(urllib.error.HTTPError, match="400") as caught:
        ask(station, temperature=0.5)
    with caught.value as response:
        error = json.load(response)["error"]
    assert (error["param"], error["type"]) == ("temperature", "invalid_request_error")


def test_a_stream_that_is_cut_frees_the_worker(station: Served) -> None:
    """At the next token: the only worker answers the next client."""
    with station.streaming("/v1/chat/completions", {"messages": MESSAGES, "stream": True}) as lines:
        assert any(b"word" in line for line in lines)
    assert ask(station)["choices"][0]["message"]["content"] == "3: Sun?"
    assert station.post("/v1/ends", {})["ended"] == ["stream"]


def test_a_stream_that_is_over_frees_the_worker(station: Served) -> None:
    """Nothing is computed that was not asked for."""
    before = len(station.post("/v1/ends", {})["ended"])
    text = station.post_text("/v1/chat/completions", {"messages": MESSAGES, "stream": True, "max_tokens": 3})
    assert text.endswith("data: [DONE]\n\n")
    assert text.count("word") == 3
    assert len(station.post("/v1/ends", {})["ended"]) == before + 1


def test_the_openai_package(station: Served) -> None:
    """Whole, and a stream that its user leaves."""
    import openai  # noqa: PLC0415  a second that only this test should pay

    before = len(station.post("/v1/ends", {})["ended"])
    with openai.OpenAI(base_url=f"{station.address}/v1", api_key="none", max_retries=0) as client:
        create: Any = client.chat.completions.create
        with create(model="talker", messages=MESSAGES, stream=True) as stream:
            assert any(chunk.choices[0].delta.content for chunk in stream)
        answer = create(model="talker", messages=MESSAGES)
    assert answer.choices[0].message.content == "3: Sun?"
    assert len(station.post("/v1/ends", {})["ended"]) == before + 1
