"""What a backend's code says of its functions, read without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from moondream_station.core.facts.functions import Argument, Signature

_TYPES: Final[Mapping[str, str]] = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
}
_OF_THE_STATION: Final = frozenset({"cancelled", "progress"})
"""Arguments that the worker adds."""


def read_signatures(module: Path, functions: Iterable[str]) -> dict[str, Signature]:
    """The signature of each function, as far as the module's text tells: not of one that it imports."""
    try:
        tree = ast.parse(module.read_bytes())
    except (OSError, SyntaxError, ValueError):
        tree = ast.Module(body=[], type_ignores=[])
    found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {name: _signature(found[name]) if name in found else Signature() for name in functions}


def _signature(function: ast.FunctionDef) -> Signature:
    summary = (ast.get_docstring(function) or "").partition("\n")[0]
    return Signature(summary=summary, arguments=tuple(_arguments(function.args)))


def _arguments(declared: ast.arguments) -> Iterator[Argument]:
    positional = [*declared.posonlyargs, *declared.args]
    without = len(positional) - len(declared.defaults)
    defaults: list[ast.expr | None] = [*[None] * without, *declared.defaults, *declared.kw_defaults]
    for argument, default in zip([*positional, *declared.kwonlyargs], defaults, strict=True):
        if argument.arg not in _OF_THE_STATION and not argument.arg.startswith("_"):
            schema = _schema(argument.annotation, default)
            yield Argument(argument.arg, schema, is_required=default is None)


def _schema(annotation: ast.expr | None, default: ast.expr | None) -> dict[str, Any]:
    """The JSON type that an annotation names, alone or beside None, and a default that JSON can hold."""
    schema: dict[str, Any] = {}
    while isinstance(annotation, (ast.BinOp, ast.Subscript)):  # `str | None`, `list[str]`
        annotation = annotation.left if isinstance(annotation, ast.BinOp) else annotation.value
    if isinstance(annotation, ast.Name) and annotation.id in _TYPES:
        schema["type"] = _TYPES[annotation.id]
    if isinstance(default, ast.Constant) and isinstance(default.value, str | int | float | bool):
        schema["default"] = default.value
    return schema
