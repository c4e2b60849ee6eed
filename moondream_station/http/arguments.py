"""Reads a request into the keyword arguments of a function: body, query parameters, headers and method."""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any, Final, NamedTuple, NoReturn

from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from moondream_station.http.guard import MAX_BODY_BYTES
from moondream_station.http.refusals import ContentTypeUnsupported, RequestInvalid

SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization", "x-moondream-auth"})
"""Headers that are not passed on to a backend."""

JSON_TYPE: Final = "application/json"
_FORM_TYPES: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS: Final = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})


class FunctionCall(NamedTuple):
    """A request to a function; its arguments are JSON values with `_headers` and `_method`."""

    function: str
    arguments: dict[str, Any]
    timeout_seconds: float | None
    """Limit for the whole call; None for the configured default."""


async def read_call(request: Request, function: str) -> FunctionCall:
    """Read the body and everything else of a call; `Refusal` where one of them can't be used."""
    arguments = await _read_body(request)
    arguments.update(request.query_params)
    timeout_seconds = _timeout(arguments.pop("timeout", None))
    if isinstance(stream := arguments.get("stream"), str):
        # Forms and query parameters have no booleans, and to Python the text "false" is true.
        arguments["stream"] = stream.strip().lower() not in _FALSE
    arguments["_headers"] = {
        name: value for name, value in request.headers.items() if name not in SECRET_HEADERS
    }
    arguments["_method"] = request.method
    return FunctionCall(function, arguments, timeout_seconds)


async def read_object(request: Request) -> dict[str, Any]:
    """Read a body that is one JSON object; an empty one counts as `{}`."""
    body = bytearray()  # not `request.body()`, which keeps a copy for as long as the request lives
    async for part in request.stream():
        body += part
    if not body:
        return {}
    try:
        value = _finite_json(body)
    except ValueError:
        value = _read_carefully(body)
    if not isinstance(value, dict):
        raise RequestInvalid(f"The body must be a JSON object, not {_KINDS.get(type(value), 'a number')}")
    return value


def _finite_json(body: bytearray) -> Any:
    """What pydantic reads, in an eighth of the time of `json`; it makes infinity of too large a number."""
    value = from_json(body, allow_inf_nan=False)
    if not _is_finite(value):
        raise ValueError
    return value


def _read_carefully(body: bytearray) -> Any:
    """What pydantic refuses: other encodings, lone surrogates, deep nesting, all legal; or an error."""
    try:
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
    if kind in _FORM_TYPES:
        return await _read_form(request)
    if await request.body():
        raise ContentTypeUnsupported(
            f"Unsupported content type {kind or '(none)'!r}",
            hint=f"Send {JSON_TYPE}, {_FORM_TYPES[0]} or {_FORM_TYPES[1]}.",
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
