"""The project that uv locks: the requirements, and where torch and its companions must come from.

What pins the family, also where another package asks for it, is a dependency group that is locked but never
exported, together with an explicit index and a source for every name of the family. Measured with uv 0.13.9:
constraints, overrides, extra indexes and `uv pip compile` with explicit indexes all let a torch that comes in
through another package come from the user's own index.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from moondream_station.core.resolve.interpreter import Interpreter
from moondream_station.core.resolve.pylock import toml_string, toml_strings

PROJECT = "moondream-station-lock"
FAMILY_GROUP = "moondream-station-family"
TORCH_INDEX = "moondream-station-torch-index"
"""An unlikely name: a user's `UV_INDEX="NAME=URL"` would take the place of an index of that name."""
TORCH_WHEEL = "moondream-station-torch-wheel"

TRITON_NAMES = (
    "triton",
    "pytorch-triton",
    "pytorch-triton-rocm",
    "pytorch-triton-xpu",
    "triton-rocm",
    "triton-xpu",
)
"""What torch itself requires from its own index, by build and release; each index has one or two of them."""


class FamilyIndex(NamedTuple):
    """An explicit index: it answers for the names that a source gives to it, and for no other.

    `url` may be a folder's path; `flat` is a page or folder of files, as find-links are.
    """

    name: str
    url: str
    flat: bool


def project_toml(
    interpreter: Interpreter,
    *,
    dependencies: Iterable[str],
    family: Iterable[str] = (),
    sources: Mapping[str, str] | None = None,
    indexes: Iterable[FamilyIndex] = (),
    constraints: Sequence[str] = (),
) -> str:
    """The project as `pyproject.toml`, for one interpreter.

    `family` is what goes into the group, torch's own pin first; `sources` the index that answers for a name.
    """
    markers = interpreter.markers
    platform = " and ".join(f"{name} == '{markers[name]}'" for name in ("sys_platform", "platform_machine"))
    lines = [
        "[project]",
        f"name = {toml_string(PROJECT)}",
        'version = "0"',
        f"requires-python = {toml_string(f'=={interpreter.minor}.*')}",
        f"dependencies = {toml_strings(dependencies)}",
        "[dependency-groups]",
        f"{FAMILY_GROUP} = {toml_strings(family)}",
        "[tool.uv]",
        "package = false",
        "default-groups = []",
        f"environments = {toml_strings([platform])}",
        f"required-environments = {toml_strings([platform])}",
    ]
    if constraints:
        lines.append(f"constraint-dependencies = {toml_strings(constraints)}")
    # A workspace in a parent folder would otherwise take the project over.
    lines += ["[tool.uv.workspace]", "members = []", "[tool.uv.sources]"]
    lines += [f"{name} = {{ index = {toml_string(index)} }}" for name, index in (sources or {}).items()]
    for index in indexes:
        lines += ["[[tool.uv.index]]", f"name = {toml_string(index.name)}", f"url = {toml_string(index.url)}"]
        lines += ['format = "flat"'] if index.flat else []
        lines.append("explicit = true")
    return "\n".join([*lines, ""])


def required_by(uv_lock: str, name: str) -> tuple[str, ...]:
    """The packages that ask for a package, as uv's own lock of the project tells; the project is left out."""
    requirers = []
    for package in tomllib.loads(uv_lock).get("package", ()):
        asked = {dependency["name"] for dependency in package.get("dependencies", ())}
        if name in asked and package["name"] != PROJECT:
            requirers.append(package["name"])
    return tuple(sorted(requirers))
