"""OpenAI's chat completions, by the active backend's functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from moondream_station.core.facts.errors import ArgumentInvalid, UnknownFunction, UnknownModel
from moondream_station.http.api import MethodRefused, StationApi
from moondream_station.http.chat_answer import ChatForm
from moondream_station.http.functions import Exchange, answer_call
from moondream_station.http.messages import read_call

LABELS: Final = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
"""They name a request, and change nothing in its answer."""
_CLIENTS_DEFAULT: Final = "moondream3-preview"
"""What the `moondream` client names where its user named no model."""
ASKS_NOTHING: Final[Mapping[str, tuple[Any, ...]]] = {
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (False, True),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
}
"""What can't be honoured, and the values with which it asks for nothing."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Text(_Strict):
    type: Literal["text"]
    text: str


class _Address(_Strict):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class _Image(_Strict):
    type: Literal["image_url"]
    image_url: Annotated[
        _Address,
        BeforeValidator(
            lambda value: {"url": value} if isinstance(value, str) else value,
            json_schema_input_type=_Address | str,
        ),
    ]


_Part = Annotated[_Text | _Image, Field(discriminator="type")]


class _Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[_Part],
        BeforeValidator(
            lambda value: [{"type": "text", "text": value}] if isinstance(value, str) else value,
            json_schema_input_type=list[_Part] | str,
        ),
    ]
    name: str = ""
    reasoning: str = ""
    reasoning_details: dict[str, Any] = {}

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content if isinstance(part, _Text)).strip()

    @property
    def images(self) -> list[str]:
        return [part.image_url.url for part in self.content if isinstance(part, _Image)]


class _StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatRequest(_Strict):
    """The body of `POST /v1/chat/completions`; null counts as left out."""

    messages: Annotated[list[_Message], Field(min_length=1)]
    model: str = ""
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(max_length=4),
        BeforeValidator(
            lambda value: [value] if isinstance(value, str) else value,
            json_schema_input_type=list[str] | str,
        ),
    ] = []
    reasoning: bool | None = None

    @property
    def limit(self) -> int | None:
        """How many tokens the answer may have."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def settings(self) -> dict[str, Any]:
        """How to sample, by the names that functions and OpenAI share; without what was not said."""
        settings = {"max_tokens": self.limit, "temperature": self.temperature, "top_p": self.top_p}
        return {name: value for name, value in settings.items() if value is not None}


class _Call(NamedTuple):
    function: str
    arguments: dict[str, Any]
    prompt: str
    """The text of it, for `usage`."""


async def complete_chat(station: StationApi, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `POST /v1/chat/completions`, or raise why not."""
    request = Request(scope, receive)
    if request.method != "POST":
        raise MethodRefused(f"{scope['path']} takes POST, not {request.method}", headers={"Allow": "POST"})
    body, timeout_seconds = await read_call(request)
    context = {name: body.pop(name) for name in ("_headers", "_method")}
    chat = _read(body)
    active = station.state.active
    # The `moondream` client always names a model.
    is_default = chat.model == _CLIENTS_DEFAULT and "moondream-python" in request.headers.get(
        "user-agent", ""
    )
    if active and not is_default and chat.model not in {"", active.model}:
        raise UnknownModel(
            f"The model {chat.model!r} is not active; {active.model!r} is",
            hint=f"Name {active.model!r} or no model, or activate the other: POST /v1/station/switch.",
        )
    functions = station.functions()
    call = _as_chat(chat, body) if "chat" in functions else _as_question(chat, functions)
    form = ChatForm(
        model=active.model if active else "",
        prompt=call.prompt,
        stops=chat.stop,
        limit=chat.limit,
        includes_usage=chat.stream_options.include_usage,
    )
    arguments = {**call.arguments, "stream": chat.stream}
    if call.function != "chat":  # whose signature is to tell what the backend can honour
        arguments |= context
    body.clear()
    await answer_call(
        Exchange(station, call.function, arguments, timeout_seconds, form, scope, receive, send)
    )


def _read(body: dict[str, Any]) -> ChatRequest:
    """Check a body, and take out of it what asks for nothing."""
    for name, value in list(body.items()):
        if value is None or name in LABELS or value in ASKS_NOTHING.get(name, ()):
            del body[name]
        elif name not in ChatRequest.model_fields:
            supported = ", ".join(sorted(ChatRequest.model_fields))
            raise _invalid(name, "is not supported here", hint=f"Leave it out; supported are {supported}.")
    if isinstance(messages := body.get("messages"), list):
        body["messages"] = list(map(_without_nothing, messages))
    try:
        chat = ChatRequest.model_validate(body)
    except ValidationError as error:
        first = min(
            error.errors(include_input=False, include_url=False),
            key=lambda found: found["type"] != "extra_forbidden",  # it may be why something else is missing
        )
        kind = f"{first.get('ctx', {}).get('tag')!r}"
        reason = {
            "extra_forbidden": "is not supported here",
            "missing": "is missing",
            "union_tag_invalid": f"is of the type {kind}; text and image_url are supported",
        }.get(first["type"], f"can't be used: {first['msg']}")
        # The fifth name is the type of a message's part.
        raise _invalid(".".join(map(str, (*first["loc"][:4], *first["loc"][5:]))), reason) from None
    if chat.stream_options.include_usage and not chat.stream:
        raise _invalid("stream_options", "is for streams: set 'stream' to true")
    for number, message in enumerate(chat.messages):
        _check_images(message, f"messages.{number}.content")
    return chat


def _without_nothing(message: Any) -> Any:
    """Clients send an answer back with everything that it could have held."""
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if value not in (None, [])}


def _check_images(message: _Message, name: str) -> None:
    if message.images and message.role != "user":
        raise _invalid(name, "has an image; only messages of the role 'user' can have one")
    for url in message.images:
        if url[:5].lower() != "data:":
            raise _invalid(
                name,
                f"has the image_url {url!r:.60}, and the station fetches none",
                hint="Send the image itself, as a data URL: data:image/jpeg;base64,…",
            )


def _invalid(name: str, reason: str, *, hint: str | None = None) -> ArgumentInvalid:
    error = ArgumentInvalid(f"{name} {reason}", hint=hint)
    error.argument = name
    return error


def _as_chat(chat: ChatRequest, body: Mapping[str, Any]) -> _Call:
    arguments = {"messages": body["messages"], **chat.settings}
    if chat.reasoning is not None:
        arguments["reasoning"] = chat.reasoning
    return _Call("chat", arguments, "\n".join(message.text for message in chat.messages))


def _as_question(chat: ChatRequest, functions: frozenset[str]) -> _Call:
    """The call of `query`, or of `caption` where nothing is asked about the image."""
    number, last = len(chat.messages) - 1, chat.messages[-1]
    if last.role != "user":
        raise _invalid(f"messages.{number}.role", f"is {last.role!r}: the last message must be the user's")
    if len(last.images) > 1:
        raise _invalid(
            f"messages.{number}.content", f"has {len(last.images)} images; the active model takes one"
        )
    # A question may be about the image of an earlier one.
    image = next((images[-1] for message in reversed(chat.messages) if (images := message.images)), None)
    arguments: dict[str, Any] = {} if image is None else {"image_url": image}
    if chat.settings:
        arguments["settings"] = chat.settings
    rules = [message.text for message in chat.messages if message.role in {"system", "developer"}]
    function, question = "caption", "\n\n".join(filter(None, [*rules, last.text]))
    if question:
        function, arguments["question"] = "query", question
        if chat.reasoning is not None:
            arguments["reasoning"] = chat.reasoning
    elif chat.reasoning:
        raise _invalid("reasoning", "requires a question")
    elif image is None:
        raise _invalid(f"messages.{number}.content", "has neither text nor an image")
    if functions and function not in functions:
        raise UnknownFunction(
            f"The active model has no function 'chat', and no {function!r} to answer in its place",
            hint=f"It has: {', '.join(sorted(functions))}.",
        )
    return _Call(function, arguments, question)
