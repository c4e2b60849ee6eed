"""The project that uv locks: the requirements, and where torch and its companions must come from.

What pins the family, also where another package asks for it, is a dependency group that is locked but never
exported, together with an explicit index and a source for every name of the family. Measured with uv 0.13.9:
constraints, overrides, extra indexes and `uv pip compile` with explicit indexes all let a torch that comes in
through another package come from the user's own index.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence

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


def project_toml(
    interpreter: Interpreter,
    *,
    dependencies: Iterable[str],
    family: Iterable[str],
    sources: Mapping[str, str],
    indexes: Iterable[tuple[str, str, bool]],
    constraints: Sequence[str],
) -> str:
    """The project as `pyproject.toml`, for one interpreter.

    `family` is what goes into the group, torch's own pin first; `sources` the explicit index that answers for
    a name; `indexes` those, as name, URL or folder, and whether that is a page or folder of files.
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
    lines += [f"{name} = {{ index = {toml_string(index)} }}" for name, index in sources.items()]
    for name, url, is_flat in indexes:
        lines += ["[[tool.uv.index]]", f"name = {toml_string(name)}", f"url = {toml_string(url)}"]
        lines += ["explicit = true", *(['format = "flat"'] if is_flat else [])]
    return "\n".join([*lines, ""])


def required_by(uv_lock: str, name: str) -> list[str]:
    """The packages that ask for a package, as uv's own lock of the project tells; the project is left out."""
    return sorted(
        package["name"]
        for package in tomllib.loads(uv_lock).get("package", ())
        if package["name"] != PROJECT
        and any(dependency["name"] == name for dependency in package.get("dependencies", ()))
    )
