"""The contract as data: a JSON Schema for every shape, made from the code."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.codec import FACTS, adapter
from moondream_station.core.facts.errors import ErrorInfo
from moondream_station.core.facts.events import Mismatch, VerificationReport
from moondream_station.core.facts.selection import Candidate, Selection
from moondream_station.core.facts.state import Status
from moondream_station.core.home.locks import Holder, StationRecord
from moondream_station.http.openai import ASKS_NOTHING, LABELS, ChatRequest
from tools.reference.schema_shapes import ACTIVATION, BY_HAND, SEQ, TIME, Schema, whole

# Every activation has these, and nothing but an activation.
_ONLY_INSIDE: Final = {
    "BackendActivationRequested",
    "ActivationWaiting",
    "ActivationSucceeded",
    "ActivationFailed",
    "ActivationCancelled",
}
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DATACLASSES: Final[dict[str, type[Any]]] = {
    "activation-holder": Holder,
    "candidate": Candidate,
    "capabilities": Capabilities,
    "mismatch": Mismatch,
    "plan": Selection,
    "station-record": StationRecord,
    "status": Status,
    "verification": VerificationReport,
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


def schemas() -> dict[str, Schema]:
    """Every shape by name: each event by the event's, the others as docs/reference names their files."""
    made = {name: _event(name) for name in FACTS}
    made["event"] = _union("Any event that is a fact.", made)
    made["snapshot"] = _snapshot()
    made["error"] = _error()
    for name, kind in _DATACLASSES.items():
        made[name] = _of(kind)
    made["plan"]["required"].remove("fit")  # there with `--model` alone
    made["chat-request"] = _chat_request()
    for name, schema in BY_HAND.items():
        made[name] = {"title": name, **schema}
    head = ("$schema", "title", "description", "type")
    for name, schema in made.items():
        ordered = {"$schema": _DIALECT, **schema}
        made[name] = {key: ordered[key] for key in head if key in ordered} | ordered
    return dict(sorted(made.items()))


def _of(kind: type[Any]) -> Schema:
    """The schema of a dataclass, whole by itself."""
    reader: TypeAdapter[Any] = adapter(kind)
    made = reader.json_schema(mode="serialization", schema_generator=_Documented)
    shapes = made.pop("$defs", {})
    body = made["items"]
    if "$ref" in body:
        body = shapes.pop(body["$ref"].removeprefix("#/$defs/"))
    return {**body, "$defs": shapes} if shapes else dict(body)


def _event(name: str) -> Schema:
    own = _of(FACTS[name])
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


def _snapshot() -> Schema:
    state = _of(Status)
    shapes = {**state.pop("$defs"), "Status": state}
    made = whole(
        "What `GET /v1/station/events` begins with where nothing is resumed; then comes what follows `seq`.",
        {"event": {"const": "Snapshot"}, "seq": SEQ, "state": {"$ref": "#/$defs/Status"}},
    )
    return {"title": "Snapshot", **made, "$defs": shapes}


def _error() -> Schema:
    made = whole("An error of the command line or of a route of the station.", {"error": _of(ErrorInfo)})
    return {"title": "error", **made}


def _chat_request() -> Schema:
    made = ChatRequest.model_json_schema(schema_generator=_Documented)
    for name, values in ASKS_NOTHING.items():
        made["properties"][name] = {"description": "Only so; anything else is refused.", "enum": list(values)}
    for name in sorted(LABELS):
        made["properties"][name] = {"description": "Changes nothing."}
    return {**made, "title": "chat-request"}


def _docstring(kind: type[Any]) -> tuple[str, dict[str, str]]:
    """A docstring's text, and what its `Args` say of each field, each as one line."""
    text, _, section = inspect.cleandoc(kind.__doc__ or "").partition("\nArgs:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return _one_line(text), {name: _one_line(words) for name, words in entries}


def _one_line(text: str) -> str:
    """Python's words as one line of JSON's: what is None here is null there."""
    return re.sub(r"\bNone\b", "null", " ".join(text.split()))
