"""`GET /openapi.json`: the routes, by the models that check requests, and the active model's functions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from moondream_station.core.facts.codec import FACTS, adapter
from moondream_station.core.facts.errors import ErrorInfo
from moondream_station.core.facts.figures import Stats
from moondream_station.core.facts.functions import IMAGES, FunctionShape, Signature, shape_of
from moondream_station.core.facts.inspection import (
    ActivationJournal,
    ActivationList,
    Removed,
    Usage,
    WorkerLog,
)
from moondream_station.core.facts.selection import Selection
from moondream_station.core.facts.state import Status
from moondream_station.core.facts.version import VERSION
from moondream_station.http.api import ROUTES, RouteInfo
from moondream_station.http.messages import CHAT_PATH, FORM_TYPES, JSON_TYPE, MODEL_PATH
from moondream_station.http.openai import ASKS_NOTHING, LABELS, ChatRequest
from moondream_station.http.requests import RemoveRequest, RollbackRequest, SwitchRequest
from moondream_station.http.shapes import ACTIVATION, ANSWERS, SEQ, TIME, Schema, whole

_INSPECTED: Final[Mapping[str, type[Any]]] = {
    "plan": Selection,
    "activations": ActivationList,
    "activation-journal": ActivationJournal,
    "worker-log": WorkerLog,
    "usage": Usage,
    "remove-answer": Removed,
}
_EVENT_STREAM: Final = "text/event-stream"
_ONLY_INSIDE: Final = {
    "BackendActivationRequested",
    "ActivationWaiting",
    "ActivationSucceeded",
    "ActivationFailed",
    "ActivationCancelled",
}
"""Every activation has these, and nothing but an activation."""
_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "moondream": {"type": "apiKey", "in": "header", "name": "X-Moondream-Auth"},
}
_ABOUT: Final = """\
Moondream Station serves a vision-language model on your own computer. A POST to /v1/FUNCTION, also without \
/v1, calls a function of the active model; /v1/chat/completions speaks OpenAI's API; /v1/station is about \
the station itself. A station that other computers reach requires its key."""
_ANY_FUNCTION: Final = FunctionShape(
    "Call a function",
    "Calls any function that the active model has, with an object's members or a form's fields as arguments.",
    {"type": "object"},
    {"type": "object"},
)
_TIMEOUT: Final[Schema] = {
    "type": "number",
    "exclusiveMinimum": 0,
    "description": "How many seconds to wait for the answer; of a stream, for each piece.",
}


class _Documented(GenerateJsonSchema):
    """Takes descriptions from docstrings, and says nothing twice."""

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        made = super().dataclass_schema(schema)
        made["description"], arguments = _docstring(schema["cls"])
        for name, field in made["properties"].items():
            field.pop("default", None)  # everything is always there
            if name in arguments:
                field["description"] = arguments[name]
        return made

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:  # noqa: ARG002  overrides
        return dict(TIME)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  overrides
        return False


def document(functions: Mapping[str, Signature]) -> dict[str, Any]:
    """The description of a station that serves these functions."""
    fixed = _fixed()
    own = {f"/v1/{name}": {"post": _function(name, shape_of(name, of))} for name, of in functions.items()}
    return {**fixed, "paths": {**fixed["paths"], **own}}


@cache
def _fixed() -> dict[str, Any]:
    """What is the same whatever the active model."""
    paths: dict[str, Any] = {route.path: {route.method.lower(): _operation(route)} for route in ROUTES}
    paths["/v1/{function}"] = {
        "parameters": [_parameter("function", "The function's name.")],
        "post": _function("function", _ANY_FUNCTION),
    }
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Moondream Station",
            "version": VERSION,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This station."}],
        "security": [{}, *({name: []} for name in _KEYS)],
        "tags": [
            {"name": "functions", "description": "The active model's functions."},
            {"name": "openai", "description": "OpenAI's API."},
            {"name": "station", "description": "The station itself."},
        ],
        "paths": paths,
        "components": {"schemas": _components(schemas()), "securitySchemes": _KEYS},
    }


def _operation(route: RouteInfo) -> dict[str, Any]:
    is_openai = route.path in {CHAT_PATH, "/v1/models", f"{MODEL_PATH}{{id}}"}
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", route.path.removeprefix("/v1")).strip("_") or "page",
        "summary": route.gives[0].upper() + route.gives[1:],
        "tags": ["openai" if is_openai else "station"],
    }
    if names := re.findall(r"{(\w+)}", route.path):
        of = "activation" if route.path.startswith("/v1/station/") else "model"
        operation["parameters"] = [_parameter(name, f"The {of}'s {name}.") for name in names]
    if route.query:
        operation["parameters"] = [_parameter(name, text, "query") for name, text in route.query.items()]
    if route.request:
        operation["requestBody"] = {"required": True, "content": {JSON_TYPE: {"schema": _ref(route.request)}}}
    if route.answer is None:
        kind = "text/html" if route.path == "/" else "text/plain"
        content = {kind: {"schema": {"type": "string"}}}
    elif route.is_stream:
        content = _stream_of("event", "snapshot")
    else:
        content = {JSON_TYPE: {"schema": _ref(route.answer)}}
    if route.path == CHAT_PATH:
        content |= _stream_of("chat-chunk")
    error = "openai-error" if route.path == CHAT_PATH or route.path.startswith(MODEL_PATH) else "error"
    operation["responses"] = _responses(route.status, content, error)
    return operation


def _function(name: str, shape: FunctionShape) -> dict[str, Any]:
    arguments = {
        **shape.arguments,
        "properties": {**shape.arguments.get("properties", {}), "timeout": _TIMEOUT},
    }
    form = {name: {"schema": _as_form(arguments)} for name in FORM_TYPES}
    answer = {
        **shape.answer,
        "properties": {**shape.answer.get("properties", {}), "_stats": _ref("answer-stats")},
        "required": [*shape.answer.get("required", ()), "_stats"],
    }
    pieces = _stream_of("segment-stream" if name == "segment" else "function-stream")
    return {
        "operationId": name,
        "summary": shape.title,
        "description": shape.description,
        "tags": ["functions"],
        "requestBody": {"content": {JSON_TYPE: {"schema": arguments}, **form}},
        "responses": _responses(200, {JSON_TYPE: {"schema": answer}, **pieces}, "function-error"),
    }


def _as_form(arguments: Schema) -> Schema:
    """Fields are text, and a file may be the image."""
    fields = {
        name: {
            "description": "The image as a file, or as a data: URL."
            if name in IMAGES
            else schema.get("description", "")
        }
        for name, schema in arguments["properties"].items()
    }
    return {**arguments, "properties": fields}


def _responses(status: int, content: Mapping[str, Any], error: str) -> dict[str, Any]:
    return {
        str(status): {"description": "Accepted." if status == 202 else "The answer.", "content": content},  # noqa: PLR2004
        "default": {"description": "Why there is none.", "content": {JSON_TYPE: {"schema": _ref(error)}}},
    }


def _stream_of(*messages: str) -> dict[str, Any]:
    """A stream of server-sent events; OpenAPI 3.1 can say of it just what each message's data is."""
    one = [_ref(name) for name in messages]
    schema = {
        "type": "string",
        "contentMediaType": JSON_TYPE,
        "contentSchema": {"oneOf": one} if one[1:] else one[0],
    }
    return {
        _EVENT_STREAM: {"schema": schema | {"description": "Server-sent events; this is the data of each."}}
    }


def _parameter(name: str, description: str, place: str = "path") -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": {"type": "string"},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _components(named: Mapping[str, Schema]) -> dict[str, Schema]:
    """Schemas side by side, where they can name each other, and each other's parts."""
    beside = dict(named)
    names: dict[int | str, str] = {id(schema): name for name, schema in named.items()}
    for schema in named.values():
        for part, shape in schema.get("$defs", {}).items():
            if part.lower() in named:  # `Status` of the snapshot, which is `status`
                names[part] = part.lower()
            elif part not in named:
                beside[part] = shape
    return {
        name: {key: _moved(value, names) for key, value in schema.items() if key not in {"$defs", "title"}}
        for name, schema in sorted(beside.items())
    }


def _moved(value: Any, names: Mapping[int | str, str]) -> Any:
    """A part of a schema where that is a component: what stands beside it is referred to."""
    if id(value) in names:
        return _ref(names[id(value)])
    match value:
        case {"$ref": str(place)}:
            part = place.removeprefix("#/$defs/")
            return {**value, **_ref(names.get(part, part))}
        case dict():
            return {key: _moved(item, names) for key, item in value.items()}
        case list():
            return [_moved(item, names) for item in value]
        case _:
            return value


def schemas() -> dict[str, Schema]:
    """Every shape of HTTP by name, each whole by itself; an event's by the event's."""
    made = {name: _event(name) for name in FACTS}
    made["event"] = _union("Any event that is a fact.", made)
    made["stats"] = dataclass_schema(Stats)
    made["status"] = dataclass_schema(Status)
    made["snapshot"] = _snapshot(made["status"])
    made["error"] = whole(
        "An error of the command line or of a route of the station.", {"error": dataclass_schema(ErrorInfo)}
    )
    made |= {name: dataclass_schema(kind) for name, kind in _INSPECTED.items()}
    made["plan"]["required"].remove("fit")  # there where it is about a model
    made["plan"]["required"].remove("unrelated")  # for the table on a terminal alone
    del made["plan"]["properties"]["unrelated"]
    made["chat-request"] = _chat_request()
    made["remove-request"] = _model_schema(RemoveRequest)
    made["rollback-request"] = _model_schema(RollbackRequest)
    made["switch-request"] = _model_schema(SwitchRequest)
    return {**made, **ANSWERS}


def dataclass_schema(kind: type[Any]) -> Schema:
    """The schema of a dataclass, whole by itself."""
    reader: TypeAdapter[Any] = adapter(kind)
    made = reader.json_schema(mode="serialization", schema_generator=_Documented)
    shapes = made.pop("$defs", {})
    body = made["items"]
    if "$ref" in body:
        body = shapes.pop(body["$ref"].removeprefix("#/$defs/"))
    return {**body, "$defs": shapes} if shapes else dict(body)


def _model_schema(model: type[BaseModel]) -> Schema:
    made = model.model_json_schema(schema_generator=_Documented)
    del made["title"]
    return made


def _event(name: str) -> Schema:
    own = dataclass_schema(FACTS[name])
    common: Schema = {"event": {"const": name}, "seq": SEQ, "at": TIME, "activation": ACTIVATION}
    required = [*common, *own["required"]]
    if name not in _ONLY_INSIDE:
        required.remove("activation")
    return {**own, "properties": {**common, **own["properties"]}, "required": required}


def _union(description: str, members: dict[str, Schema]) -> Schema:
    shapes: dict[str, Schema] = {}
    for name, member in members.items():
        shapes |= member.get("$defs", {})
        shapes[name] = {key: value for key, value in member.items() if key != "$defs"}
    return {
        "title": "event",
        "description": description,
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in members],
        "$defs": shapes,
    }


def _snapshot(state: Schema) -> Schema:
    shapes = {**state["$defs"], "Status": {key: value for key, value in state.items() if key != "$defs"}}
    made = whole(
        "What `GET /v1/station/events` begins with where nothing is resumed; then comes what follows `seq`.",
        {"event": {"const": "Snapshot"}, "seq": SEQ, "state": {"$ref": "#/$defs/Status"}},
    )
    return {"title": "Snapshot", **made, "$defs": shapes}


def _chat_request() -> Schema:
    made = _model_schema(ChatRequest)
    for name, values in ASKS_NOTHING.items():
        only = {"anyOf": [_exactly(value) for value in values]} if values[1:] else _exactly(values[0])
        made["properties"][name] = {"description": "Only so; anything else is refused.", **only}
    for name in sorted(LABELS):
        made["properties"][name] = {"description": "Changes nothing."}
    return made


def _exactly(value: Any) -> Schema:
    """This value alone, in words that tools for OpenAPI understand: an enumeration of lists they don't."""
    match value:
        case list():
            size = len(value)
            return {
                "type": "array",
                "items": {"enum": value} if value else {},
                "minItems": size,
                "maxItems": size,
            }
        case dict():
            return whole("", {name: _exactly(item) for name, item in value.items()})
        case _:
            return {"const": value}


def _docstring(kind: type[Any]) -> tuple[str, dict[str, str]]:
    """A docstring's text, and what its `Args` say of each field, each as one line."""
    text, _, section = inspect.cleandoc(kind.__doc__ or "").partition("\nArgs:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return _one_line(text), {name: _one_line(words) for name, words in entries}


def _one_line(text: str) -> str:
    """Python's words as one line of JSON's: what is None here is null there."""
    return re.sub(r"\bNone\b", "null", " ".join(text.split()))
