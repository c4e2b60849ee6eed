"""From a request to the keyword arguments of a function: body, query parameters, and what goes with them."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from moondream_station.http.guard import MAX_BODY_BYTES
from moondream_station.http.refusals import ContentTypeUnsupported, RequestInvalid

SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization", "x-moondream-auth"})
"""Headers that no backend gets to see."""

JSON_TYPE: Final = "application/json"
_FORM_TYPES: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
_SWITCHES: Final = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
    "": False,
}


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks of the backend.

    Args:
        function: The function's name.
        arguments: Its keyword arguments, JSON values only, with `_headers` and `_method`.
        timeout_seconds: How long the whole call may take; None for the configured default.
    """

    function: str
    arguments: Mapping[str, Any]
    timeout_seconds: float | None


async def read_call(request: Request, function: str) -> Call:
    """Read the body and everything else that belongs to a call.

    Raises:
        RequestInvalid: The body is not what its content type says, or `timeout` is no number of seconds.
        ContentTypeUnsupported: There is a body that is neither JSON nor a form.
    """
    arguments = await _read_body(request)
    arguments.update(request.query_params)
    timeout_seconds = _timeout(arguments.pop("timeout", None))
    if isinstance(stream := arguments.get("stream"), str):
        # Forms and query parameters have no booleans, and the text "false" would be true to a backend.
        arguments["stream"] = _SWITCHES.get(stream.strip().lower(), True)
    arguments["_headers"] = {
        name: value for name, value in request.headers.items() if name not in SECRET_HEADERS
    }
    arguments["_method"] = request.method
    return Call(function, arguments, timeout_seconds)


async def read_object(request: Request) -> dict[str, Any]:
    """Read a body that is one JSON object; an empty one counts as `{}`.

    Raises:
        RequestInvalid: It is something else.
    """
    body = await request.body()
    if not body:
        return {}
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestInvalid(f"The body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestInvalid(f"The body must be a JSON object, not {type(value).__name__}")
    return value


def media_type(request: Request) -> str:
    """The kind of body that a request says it has, without its parameters; empty where it does not say."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_body(request: Request) -> dict[str, Any]:
    kind = media_type(request)
    if kind == JSON_TYPE:
        return await read_object(request)
    if kind in _FORM_TYPES:
        return await _read_form(request)
    if await request.body():
        raise ContentTypeUnsupported(
            f"A body of type {kind or '(none)'!r} is not understood",
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
    except MultiPartException as error:
        raise RequestInvalid(f"The form can't be read: {error.message}") from error
    except (FormParserError, UnicodeError) as error:
        raise RequestInvalid(f"The form can't be read: {error}") from error


async def _data_url(file: UploadFile) -> str:
    """An uploaded file as text, the form in which functions take images (`image_url`)."""
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


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
