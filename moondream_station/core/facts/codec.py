"""Facts and other frozen data as JSON, and back.

Writing goes by value and needs nothing but the standard library, so that publishing stays cheap. Reading goes
by type and is strict: pydantic does it, and is imported when something is read first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

from moondream_station.core.facts.events import Event, Fact

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

T = TypeVar("T")

COMMON_FIELDS: Final = ("event", "seq", "at", "activation")
FACTS: Final[Mapping[str, type[Fact]]] = {kind.__name__: kind for kind in get_args(Fact)}

_STRICT: Final[ConfigDict] = {
    "strict": True,
    "extra": "forbid",
    "allow_inf_nan": False,
    "json_schema_serialization_defaults_required": True,
}


def event_to_json(event: Event) -> dict[str, Any]:
    """An event as the command line, HTTP and the journal show it: its own fields, then the fact's."""
    data: dict[str, Any] = {"event": event.name, "seq": event.seq, "at": time_to_text(event.at)}
    if event.activation is not None:
        data["activation"] = _text(event.activation)
    return data | _fields(event.fact)


def event_from_json(data: Mapping[str, Any]) -> Event:
    """The event that `event_to_json` wrote; ValueError where a name, a field or a type is another."""
    name, seq, activation = data.get("event"), data.get("seq"), data.get("activation")
    kind = FACTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"unknown event {name!r}")
    if not isinstance(seq, int) or isinstance(seq, bool) or seq < 0:
        raise ValueError(f"{name}: seq is {seq!r}, not a whole number")
    if "activation" in data and not isinstance(activation, str):
        raise ValueError(f"{name}: activation is {activation!r}, not a text")
    own = {key: value for key, value in data.items() if key not in COMMON_FIELDS}
    return Event(seq=seq, at=time_from_text(data.get("at")), activation=activation, fact=from_json(kind, own))


def to_json(value: Any) -> Any:  # noqa: PLR0911  one return a kind of value
    """Frozen data as what `json.dumps` takes; TypeError where it holds anything else.

    JSON has no infinity and no not-a-number, so both become null. Text that is not Unicode (undecodable bytes
    of a file name) is escaped with backslashes.
    """
    match value:
        case Enum():
            return to_json(value.value)
        case str():
            return _text(value)
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {_text(str(key)): to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json(item) for item in value]
        case datetime():
            return time_to_text(value)
        case Path():
            return _text(str(value))
        case _ if is_dataclass(value) and not isinstance(value, type):
            return _fields(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form here")


def from_json(kind: type[T], data: Any) -> T:
    """The dataclass that `to_json` wrote; ValueError where a field is unknown, missing or of another type.

    The annotations say what is accepted, defaults what may be missing.
    """
    try:
        # By way of text, because only there a strict reader takes a list for a tuple and a text for an enum.
        text = json.dumps([data], allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"{kind.__name__}: {error}") from error
    reader = adapter(kind)
    from pydantic import ValidationError  # noqa: PLC0415  imported by then, as the reader is pydantic's

    try:
        return reader.validate_json(text)[0]
    except ValidationError as invalid:  # whose text has many lines, and an address at pydantic's
        first = invalid.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        raise ValueError(f"{place or kind.__name__}: {first['msg']}") from invalid


def time_to_text(moment: datetime) -> str:
    """An aware moment as the contract writes it: UTC, microseconds, `2026-11-22T10:00:00.123456Z`."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def time_from_text(text: Any) -> datetime:
    """The moment that `time_to_text` wrote; ValueError where it is written in any other way."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not a time")  # noqa: TRY004  one error for whatever comes from outside
    moment = datetime.fromisoformat(text) if text.endswith("Z") else None
    if moment is None or time_to_text(moment) != text:
        raise ValueError(f"{text!r} is not written as 2026-11-22T10:00:00.123456Z")
    return moment


def adapter(kind: type[T]) -> TypeAdapter[list[T]]:
    """The strict reader of lists of a dataclass, made once.

    Of lists, because pydantic takes a configuration for what contains dataclasses, and hands it down to them,
    but none beside a dataclass itself.
    """
    known: TypeAdapter[list[T]] | None = _adapters.get(kind)
    if known is None:
        from pydantic import TypeAdapter  # noqa: PLC0415  60 ms that nothing which only writes should pay

        known = _adapters[kind] = TypeAdapter(list[kind], config=_STRICT)  # type: ignore[valid-type]
    return known


def _fields(value: Any) -> dict[str, Any]:
    kind = type(value)
    names = _field_names.get(kind)
    if names is None:
        names = _field_names[kind] = tuple(field.name for field in fields(value))
    return {name: to_json(getattr(value, name)) for name in names}


def _text(value: str) -> str:
    # str() also turns a member of a string enum into plain text.
    return str(value) if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


_adapters: Final[dict[type[Any], Any]] = {}
_field_names: Final[dict[type[Any], tuple[str, ...]]] = {}
