"""Requests read into arguments, and answers written as JSON, errors in the shape of their route."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final, NoReturn

from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import Response

from moondream_station.core.facts import errors
from moondream_station.core.facts.errors import StationError
from moondream_station.http.api import ROUTES, ContentTypeUnsupported, Refusal, RequestInvalid
from moondream_station.http.guard import MAX_BODY_BYTES

JSON_TYPE: Final = "application/json"
FORM_TYPES: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization", "x-moondream-auth"})
"""They are not passed on to a backend."""
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS: Final = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})

_STATUS: Final[Mapping[str, int]] = {
    kind.code: status
    for status, kinds in {
        400: (errors.UsageError, errors.ArgumentInvalid),
        404: (errors.UnknownModel, errors.UnknownFunction),
        409: (
            errors.UnsupportedModel,
            errors.NothingToCancel,
            errors.NothingToRollBack,
            errors.StationRunning,
        ),
        429: (errors.WorkerBusy,),
        503: (errors.NoActiveModel, errors.WorkerLoading, errors.WorkerReplaced),
        504: (errors.WorkerTimeout,),
    }.items()
    for kind in kinds
}
"""HTTP statuses of the station's errors, by code; every other one is 500."""
_PASSING: Final = frozenset({errors.WorkerBusy.code, errors.WorkerLoading.code, errors.WorkerReplaced.code})
"""What is over soon: the same request may succeed a second later, and then waits by itself."""
FAREWELL_SECONDS: Final = 0.2
"""How long a stopping station sends what was published, and then waits for a client that does not read."""
EVENT_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx holds events back until its buffer is full
]
CHAT_PATH: Final = "/v1/chat/completions"
MCP_PATH: Final = "/mcp"
MODEL_PATH: Final = "/v1/models/"
_OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_STATION_PATHS: Final = frozenset(route.path for route in ROUTES)


async def read_call(request: Request) -> tuple[dict[str, Any], float | None]:
    """A call's arguments, JSON values with `_headers` and `_method`, and the limit for the whole of it.

    `Refusal`: something in the request can't be used.
    """
    arguments = await _read_body(request)
    arguments.update(request.query_params)
    timeout_seconds = _timeout(arguments.pop("timeout", None))
    if isinstance(stream := arguments.get("stream"), str):
        # Forms and query parameters have no booleans, and to Python the text "false" is true.
        arguments["stream"] = stream.strip().lower() not in _FALSE
    arguments["_headers"] = {
        name: value for name, value in request.headers.items() if name not in _SECRET_HEADERS
    }
    arguments["_method"] = request.method
    return arguments, timeout_seconds


async def read_object(request: Request) -> dict[str, Any]:
    """Read a body that is one JSON object; an empty one counts as `{}`."""
    body = bytearray()  # not `request.body()`, which keeps a copy for as long as the request lives
    async for part in request.stream():
        body += part
    if not body:
        return {}
    value = _read_json(body)
    if not isinstance(value, dict):
        raise RequestInvalid(f"The body must be a JSON object, not {_KINDS.get(type(value), 'a number')}")
    return value


def _read_json(body: bytearray) -> Any:
    with suppress(
        ValueError
    ):  # pydantic takes an eighth of the time, but makes infinity of too large a number
        if _is_finite(value := from_json(body, allow_inf_nan=False)):
            return value
    try:  # what pydantic refuses: other encodings, lone surrogates, deep nesting, all legal; or an error
        text = body.decode(json.detect_encoding(body))
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
        if "\\" in text and _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # one without its partner is text in no encoding
    except (ValueError, RecursionError) as error:
        raise RequestInvalid(f"The body is not valid JSON: {error}") from error
    return value


def _is_finite(value: Any) -> bool:
    """Whether no number in it is infinite."""
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(map(_is_finite, value.values()))
        case list():
            return all(map(_is_finite, value))
        case _:
            return True


def media_type(request: Request) -> str:
    """The media type of a request's body, without parameters; "" where it has no `Content-Type`."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_body(request: Request) -> dict[str, Any]:
    kind = media_type(request)
    if kind == JSON_TYPE:
        return await read_object(request)
    if kind in FORM_TYPES:
        return await _read_form(request)
    if await request.body():
        raise ContentTypeUnsupported(
            f"Unsupported content type {kind or '(none)'!r}",
            hint=f"Send {JSON_TYPE}, {FORM_TYPES[0]} or {FORM_TYPES[1]}.",
        )
    return {}


async def _read_form(request: Request) -> dict[str, Any]:
    try:
        async with request.form(max_part_size=MAX_BODY_BYTES) as form:
            return {
                name: await _data_url(value) if isinstance(value, UploadFile) else value
                for name, value in form.items()
            }
    except (MultiPartException, FormParserError, UnicodeError) as error:
        raise RequestInvalid(f"Can't read the form: {getattr(error, 'message', error)}") from error


async def _data_url(file: UploadFile) -> str:
    """An uploaded file as a data URL, as functions take images (`image_url`)."""
    content = base64.b64encode(await file.read()).decode("ascii")
    return f"data:{file.content_type or 'application/octet-stream'};base64,{content}"


def _timeout(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise RequestInvalid(f"timeout must be a number of seconds above 0, not {value!r:.40}")
    return seconds


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.40} is too large a number")
    return number


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:  # Python's limit on digits, with advice to whoever programs
        raise ValueError(f"{text:.40}… is too large a number") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def is_station_path(path: str) -> bool:
    """Whether a path is one of the station's own; any other may name a backend's function."""
    return path in _STATION_PATHS or path.startswith(("/v1/station/", "/page/"))


def to_json(value: Any) -> bytes:
    """Encode as JSON in ASCII, so that no line break or lone surrogate in a text breaks a stream.

    Raises:
        ValueError: It holds NaN or an infinity.
        TypeError: It holds a type that JSON does not have.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(to_json(value), status_code=status, media_type=JSON_TYPE, headers=headers)


def status_of(error: StationError) -> int:
    """The HTTP status of an error."""
    return error.status if isinstance(error, Refusal) else _STATUS.get(error.code, 500)


def function_error(error: StationError) -> dict[str, str]:
    """An error in the shape of FUNCTION routes, which Moondream Station 0.1 had."""
    kind = {504: "timeout", 500: "error"}.get(status_of(error), "rejected")
    shape = {"error": _text(error), "status": kind, "code": error.code}
    if isinstance(error, errors.ArgumentInvalid) and error.argument is not None:
        shape["argument"] = error.argument
    return shape


def openai_error(error: StationError) -> dict[str, Any]:
    """An error in OpenAI's shape; a model that is not there has OpenAI's own code."""
    status = status_of(error)
    kind = "server_error" if status >= 500 else "invalid_request_error"  # noqa: PLR2004  HTTP's own border
    is_unknown = isinstance(error, errors.UnknownModel)
    shape = {
        "message": _text(error),
        "type": _OPENAI_TYPES.get(status, kind),
        "param": "model" if is_unknown else getattr(error, "argument", None),
        "code": "model_not_found" if is_unknown else error.code,
    }
    return {"error": shape}


def _text(error: StationError) -> str:
    return f"{error.message.rstrip('.')}. {error.hint}" if error.hint else error.message


def error_response(path: str, error: StationError) -> Response:
    """The answer to a request that failed, in the shape of its route."""
    headers = dict(error.headers) if isinstance(error, Refusal) else {}
    if error.code in _PASSING:
        headers["Retry-After"] = "1"
    if path == CHAT_PATH or path.startswith(MODEL_PATH):
        shape = openai_error(error)
    else:
        shape = {"error": asdict(error.info)} if is_station_path(path) else function_error(error)
    return json_response(shape, status=status_of(error), headers=headers)
