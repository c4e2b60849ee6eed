"""The active model's functions as tools: made from the station's document, called with images by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from mcp_types import CallToolResult, TextContent, Tool, ToolAnnotations

from moondream_station.agents.folders import Folders
from moondream_station.core.facts.errors import ArgumentInvalid, StationError
from moondream_station.core.facts.functions import FUNCTIONS, IMAGES

_IMAGE: Final = "image"
_TEXTS: Final[Mapping[str, str]] = {"caption": "caption", "query": "answer"}
"""The functions whose answer is a text, and where in the answer it is."""
_NOT_FOR_AGENTS: Final = frozenset({"stream", "timeout"})
"""How an answer comes is not an agent's affair: it gets the whole one, and may cancel."""
_JSON: Final = "application/json"
_HARMLESS: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)


def tools_of(document: Mapping[str, Any], folders: Folders) -> list[Tool]:
    """The functions that an OpenAPI document of the station lists."""
    operations = (path.get("post", {}) for name, path in document["paths"].items() if "{" not in name)
    return [_tool(each, folders) for each in operations if each.get("tags") == ["functions"]]


def _tool(operation: Mapping[str, Any], folders: Folders) -> Tool:
    name = operation["operationId"]
    arguments = operation["requestBody"]["content"][_JSON]["schema"]
    answer = operation["responses"]["200"]["content"][_JSON]["schema"]
    is_known = name in FUNCTIONS
    return Tool(
        name=name,
        title=operation["summary"],
        description=operation["description"],
        input_schema=_input_schema(arguments, folders),
        output_schema=_without(answer, "_stats") if is_known and name not in _TEXTS else None,
        annotations=_HARMLESS if is_known else None,
    )


def _input_schema(arguments: Mapping[str, Any], folders: Folders) -> dict[str, Any]:
    schema = _without(arguments, *_NOT_FOR_AGENTS)
    place = (
        f"The image: the path of a file in {folders.shown}, or a data: URL."
        if folders.paths
        else "The image, as a data: URL."
    )
    for name in IMAGES:
        if name in schema["properties"]:
            del schema["properties"][name]
            schema["properties"] = {_IMAGE: {"type": "string", "description": place}, **schema["properties"]}
            schema["required"] = [_IMAGE if each == name else each for each in schema["required"]]
    if schema["properties"]:  # without any, it is not known what the function takes
        schema["additionalProperties"] = False
    return schema


def _without(schema: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: each for name, each in schema["properties"].items() if name not in names},
        "required": [name for name in schema.get("required", ()) if name not in names],
    }


async def arguments_for(
    document: Mapping[str, Any], tool: Tool, given: Mapping[str, Any], folders: Folders
) -> dict[str, Any]:
    """What the function of a tool is called with; `ArgumentInvalid` where something is wrong with it."""
    given = {name: value for name, value in given.items() if value is not None}
    wrong = best_match(Draft202012Validator(tool.input_schema).iter_errors(given))
    if wrong is not None:
        place = f"{wrong.json_path.removeprefix('$.')}: " if wrong.path else ""
        raise ArgumentInvalid(f"{place}{wrong.message:.300}", hint=f"Arguments: {_listed(tool)}.")
    if _IMAGE not in given or _IMAGE not in tool.input_schema["properties"]:
        return given
    operation = document["paths"][f"/v1/{tool.name}"]["post"]
    properties = operation["requestBody"]["content"][_JSON]["schema"]["properties"]
    name = next(each for each in IMAGES if each in properties)
    image = await folders.image(given.pop(_IMAGE))
    return {**given, name: image}


def _listed(tool: Tool) -> str:
    required = tool.input_schema["required"]
    return ", ".join(
        name if name in required else f"{name} (optional)" for name in tool.input_schema["properties"]
    )


def result_of(tool: Tool, answer: Mapping[str, Any]) -> CallToolResult:
    """An answer for an agent: its text, and as data what is not just text."""
    own = {name: value for name, value in answer.items() if name != "_stats"}
    text = own.get(_TEXTS.get(tool.name, ""))
    if isinstance(text, str):
        return CallToolResult(content=[TextContent(text=text)])
    return CallToolResult(
        content=[TextContent(text=json.dumps(own, ensure_ascii=False))], structured_content=own
    )


def failure_of(error: StationError) -> CallToolResult:
    """An error that the agent can read, and do something about."""
    text = error.message.rstrip(".")
    if isinstance(error, ArgumentInvalid):
        text = text.replace("image_url", _IMAGE)  # by the name that the agent knows
    return CallToolResult(
        content=[TextContent(text=f"{text}. {error.hint}" if error.hint else f"{text}.")], is_error=True
    )
