"""What the routes answer where no dataclass stands for it, as JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from moondream_station.core.facts.selection import FitVerdict

Schema: TypeAlias = dict[str, Any]

TIME: Final[Schema] = {
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
    "description": "UTC, with microseconds.",
}
ACTIVATION: Final[Schema] = {"type": "string", "description": "The activation's id; ids sort by time."}
SEQ: Final[Schema] = {
    "type": "integer",
    "minimum": 0,
    "description": "Grows within a home, also across restarts; gaps are legal.",
}

_TEXT: Final[Schema] = {"type": "string"}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_COUNT_OR_NULL: Final[Schema] = {"type": ["integer", "null"], "minimum": 0}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_SECONDS: Final[Schema] = {"type": "number", "minimum": 0}
_YES_OR_NO: Final[Schema] = {"type": "boolean"}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}


def whole(description: str, properties: Mapping[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    """An object of exactly these properties, all of them required but the optional ones."""
    return {
        "description": description,
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def list_of(items: Schema) -> Schema:
    """An array of these."""
    return {"type": "array", "items": items}


_FUNCTION_STATS: Final = whole(
    "What an answer took.", {"tokens": _COUNT, "duration": _SECONDS, "tokens_per_sec": _SECONDS}
)

_FINDING: Final = whole(
    "What one check of the doctor found.",
    {
        "id": _TEXT,
        "section": _TEXT,
        "status": {"enum": ["ok", "warning", "error", "skipped"]},
        "summary": _TEXT,
        "detail": _TEXT_OR_NULL,
        "remedy": {
            "anyOf": [
                whole("What to do.", {"text": _TEXT, "commands": _TEXTS}),
                {"type": "null"},
            ]
        },
        "seconds": _SECONDS,
    },
)

_DOCTOR: Final = whole(
    "`doctor --json` and `GET /v1/station/doctor`; `ok` is false if and only if a finding is an error.",
    {
        "format": {"const": "moondream-station/doctor/1"},
        "ok": _YES_OR_NO,
        "findings": list_of(_FINDING),
    },
) | {
    "if": {"properties": {"findings": {"contains": {"properties": {"status": {"const": "error"}}}}}},
    "then": {"properties": {"ok": {"const": False}}},
    "else": {"properties": {"ok": {"const": True}}},
}

_MODEL: Final = whole(
    "One of the manifest's models.",
    {
        "id": _TEXT,
        "name": _TEXT,
        "description": _TEXT_OR_NULL,
        "version": _TEXT_OR_NULL,
        "backend": _TEXT_OR_NULL,
        "supported": _YES_OR_NO,
        "reason": _TEXT_OR_NULL,
        "installed": _YES_OR_NO,
        "active": _YES_OR_NO,
        "fit": whole(
            "Whether the model fits this machine, and the sum.",
            {"verdict": {"enum": [str(verdict) for verdict in FitVerdict]}, "reason": _TEXT},
        ),
        "system_requirements": {"type": ["object", "null"]},
        "notice": {
            "anyOf": [
                whole(
                    "What must be accepted before a switch.",
                    {"text": _TEXT, "url": _TEXT_OR_NULL, "accepted": _YES_OR_NO},
                ),
                {"type": "null"},
            ]
        },
        "environment": {
            "anyOf": [
                whole(
                    "What is installed for it, and the environment it had before.",
                    {
                        "name": _TEXT,
                        "build": _TEXT_OR_NULL,
                        "torch": _TEXT_OR_NULL,
                        "previous": _TEXT_OR_NULL,
                    },
                ),
                {"type": "null"},
            ]
        },
    },
    optional=("fit", "system_requirements", "notice", "environment"),
)

_OPENAI_MODEL: Final = whole(
    "A model, in OpenAI's form.",
    {"id": _TEXT, "object": {"const": "model"}, "created": {"const": 0}, "owned_by": _TEXT},
)
_CHAT_USAGE: Final[Schema] = {
    "description": "The backend's own count of tokens, or the number of words.",
    "type": "object",
}


def _completion(kind: str, description: str, message: str, *, optional: tuple[str, ...] = ()) -> Schema:
    choice = whole(
        "The only answer.",
        {
            "index": {"const": 0},
            message: {"type": "object", "properties": {"role": {"const": "assistant"}, "content": _TEXT}},
            "logprobs": {"type": "null"},
            "finish_reason": _TEXT_OR_NULL,
        },
    )
    return whole(
        description,
        {
            "id": _TEXT,
            "object": {"const": kind},
            "created": _COUNT,
            "model": _TEXT,
            "choices": list_of(choice) | {"maxItems": 1},
            "usage": _CHAT_USAGE,
        },
        optional=optional,
    )


ANSWERS: Final[Mapping[str, Schema]] = {
    "cancel-answer": whole("The answer of `POST /v1/station/cancel`.", {"activation": ACTIVATION}),
    "chat-chunk": _completion(
        "chat.completion.chunk",
        "A message of the stream that `POST /v1/chat/completions` answers with `stream`; `[DONE]` ends it.",
        "delta",
        optional=("usage",),
    ),
    "chat-completion": _completion(
        "chat.completion", "The answer of `POST /v1/chat/completions`.", "message"
    ),
    "doctor": _DOCTOR,
    "function-answer": {
        "description": "The answer of `POST /v1/FUNCTION`: the backend's own, and what it took.",
        "type": "object",
        "properties": {"_stats": _FUNCTION_STATS},
        "required": ["_stats"],
    },
    "function-error": whole(
        "What `POST /v1/FUNCTION` answers when there is no answer.",
        {
            "error": _TEXT,
            "status": {"enum": ["rejected", "timeout", "error"]},
            "code": _TEXT,
            "argument": _TEXT,
        },
        optional=("argument",),
    ),
    "answer-stats": _FUNCTION_STATS,
    "function-stream": {
        "description": "One message of the stream that `POST /v1/FUNCTION` answers with `stream`.",
        "oneOf": [
            whole(
                "How far the answer is, before its first piece; only from backends that say it.",
                {
                    "progress": whole(
                        "Done, of how many, and of what.",
                        {"done": _COUNT, "total": _COUNT_OR_NULL, "unit": _TEXT},
                    )
                },
            ),
            {
                "description": "What the answer holds beside its text, such as `reasoning`: before it.",
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"not": {"enum": ["progress", "chunk", "stats", "completed"]}},
            },
            whole("A piece of the answer.", {"chunk": _TEXT}),
            whole("What the answer took, after the last piece.", {"stats": _FUNCTION_STATS}),
            whole("The last message.", {"completed": {"const": True}}),
        ],
    },
    "health": whole(
        "The answer of `GET /health`.",
        {"status": {"const": "ok"}, "server": {"const": "moondream-station"}},
    ),
    "mcp-message": {
        "description": "A message of MCP, whose specification says more.",
        "type": "object",
        "properties": {"jsonrpc": {"const": "2.0"}},
        "required": ["jsonrpc"],
    },
    "model": {
        **_OPENAI_MODEL,
        "description": "The answer of `GET /v1/models/ID`: a model, in OpenAI's form.",
    },
    "models": whole(
        "`models --json` and `GET /v1/models`; only the latter has `object` and `data`.",
        {
            "models": list_of(_MODEL),
            "object": {"const": "list"},
            "data": list_of(_OPENAI_MODEL),
            "latest_version": _TEXT_OR_NULL,
            "messages": list_of(
                whole("What the manifest says of this version.", {"severity": _TEXT, "message": _TEXT})
            ),
        },
        optional=("object", "data", "latest_version", "messages"),
    ),
    "openapi": {
        "description": "The answer of `GET /openapi.json`: a document of OpenAPI 3.1.",
        "type": "object",
        "required": ["openapi", "info", "paths"],
    },
    "openai-error": whole(
        "What the routes of OpenAI's API answer when there is no answer.",
        {
            "error": whole(
                "What went wrong.",
                {
                    "message": _TEXT,
                    "type": {
                        "enum": [
                            "invalid_request_error",
                            "authentication_error",
                            "permission_error",
                            "rate_limit_error",
                            "server_error",
                        ]
                    },
                    "param": _TEXT_OR_NULL,
                    "code": _TEXT,
                },
            )
        },
    ),
    "segment-stream": {
        "description": "One message of the stream that `POST /v1/segment` answers with `stream`.",
        "oneOf": [
            whole("Where the thing is.", {"type": {"const": "bbox"}, "bbox": {"type": "object"}}),
            whole(
                "A piece of its outline.",
                {"type": {"const": "path_delta"}, "chunk": _TEXT, "completed": {"const": False}},
            ),
            whole("What the answer took.", {"stats": _FUNCTION_STATS}),
            {
                "description": "The last message: the whole outline, and what else the answer holds.",
                "type": "object",
                "properties": {
                    "type": {"const": "final"},
                    "path": _TEXT,
                    "bbox": {"type": ["object", "null"]},
                    "completed": {"const": True},
                },
                "required": ["type", "path", "bbox", "completed"],
            },
        ],
    },
    "stop-answer": whole(
        "The answer of `POST /v1/station/stop`; `stopped` is false where no worker ran.",
        {"model": _TEXT, "stopped": _YES_OR_NO},
    ),
    "switch-answer": whole(
        "The answer of `POST /v1/station/switch`, and of `POST /v1/station/rollback`.",
        {"activation": ACTIVATION, "joined": _YES_OR_NO},
    ),
}
