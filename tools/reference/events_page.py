"""The reference of events, docs/reference/events.md, made from the events' schemas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tools.reference.schema_shapes import Schema

_HEAD: Final = """\
# Events

Made from the code by `python -m tools.reference.schemas --write docs/reference`; don't edit.

Every step of the station is published as a fact: by `switch --json` one a line, by `GET /v1/station/events`
as server-sent events, in the journals below `activations/`. Each has these fields, and its own beside them:

| field | type | meaning |
|---|---|---|
| `event` | text | The event's name. |
| `seq` | integer | Grows within a home, also across restarts; gaps are legal. |
| `at` | text | When: UTC, `2026-11-22T10:00:00.123456Z`. |
| `activation` | text | The activation it belongs to; absent outside any. |

Byte counts are integers, durations are seconds. What is not known is null. A JSON Schema of each event lies
under [schemas](schemas), of any of them in [event.json](schemas/event.json).

An activation's events come in this order: requested, waiting (where another process holds the home), probes,
capabilities, build selected, requirements locked, download progress, environment built, worker started,
verification, and after a fallback again from build selected on; last exactly one of `ActivationSucceeded`,
`ActivationFailed` and `ActivationCancelled`. `StageStarted` and `StageProgressed` stand between them. The
`WorkerStopped` of a worker that was replaced comes after that and belongs to no activation. For a slow
reader, and of the past, only the last progress of each file and of each stage is kept; no other is left out.

## Each event
"""


def events_page(facts: Sequence[Schema], snapshot: Schema) -> str:
    """The page as Markdown.

    Args:
        facts: The schemas of the events, in the order in which the page shows them.
        snapshot: The schema of the message that stands for the past.
    """
    shapes: dict[str, Schema] = {}
    parts = [_HEAD]
    for schema in facts:
        shapes |= schema.get("$defs", {})
        own = {**schema, "properties": _own(schema, "event", "seq", "at", "activation")}
        parts.append(f"### {schema['title']}\n\n{_table(own)}")
    parts.append(f"### Snapshot\n\n{_table({**snapshot, 'properties': _own(snapshot, 'event')})}")
    shapes |= snapshot["$defs"]
    parts.append("## Shapes inside events\n")
    for name, schema in sorted(shapes.items()):
        parts.append(f"### {name}\n\n{_table(schema) if 'properties' in schema else _values(schema)}")
    return "\n".join(parts)


def _own(schema: Schema, *others: str) -> dict[str, Schema]:
    return {name: field for name, field in schema["properties"].items() if name not in others}


def _table(schema: Schema) -> str:
    fields = schema["properties"].items()
    rows = [["field", "type", "meaning"], ["---", "---", "---"]]
    rows += [[f"`{name}`", _type(field), field.get("description", "")] for name, field in fields]
    if not any(row[2] for row in rows[2:]):
        rows = [row[:2] for row in rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"{schema['description']}\n", *lines, ""])


def _values(schema: Schema) -> str:
    return f"{schema['description']} One of {_type(schema)}.\n"


def _type(field: Schema) -> str:  # noqa: PLR0911  one return a kind of type
    """A field's type in words; the shapes it names are links."""
    match field:
        case {"$ref": str(reference)}:
            name = reference.removeprefix("#/$defs/")
            return f"[{name}](#{name.lower()})"
        case {"anyOf": [*choices]}:
            return " or ".join(map(_type, choices))
        case {"enum": [*values]}:
            return ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`"
        case {"type": "array", "prefixItems": [*items]}:
            return f"list of {' and '.join(map(_type, items))}"
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"type": "object", "additionalProperties": dict(items)}:
            return f"object of {_type(items)}"
        case {"type": str(kind)}:
            return {"string": "text", "boolean": "true or false"}.get(kind, kind)
        case _:
            raise ValueError(f"no words for the type {field}")
