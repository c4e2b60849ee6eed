"""The project that uv locks: the requirements, and where torch and its companions must come from.

What pins the family, also where another package asks for it, is a dependency group that is locked but never
exported, together with an explicit index and a source for every name of the family. Measured with uv 0.13.9:
constraints, overrides, extra indexes and `uv pip compile` with explicit indexes all let a torch that comes in
through another package come from the user's own index.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyIndex:
    """An explicit index: it answers for the names that a source gives to it, and for no other.

    Args:
        name: What the project calls it.
        url: Its URL, or a folder's `file:` URL or path.
        flat: Whether it is a page or folder of files, as find-links are.
    """

    name: str
    url: str
    flat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LockProject:
    """What is locked, for one interpreter.

    Args:
        requires_python: As a specifier ("==3.11.*").
        markers: The interpreter's marker environment.
        dependencies: The requirements.
        family: What goes into the group: torch's own pin first.
        sources: The index that answers for a name of the family, by name.
        indexes: Those indexes.
        constraints: The user's constraints.
    """

    requires_python: str
    markers: Mapping[str, str]
    dependencies: Sequence[str]
    family: Sequence[str] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    indexes: Sequence[FamilyIndex] = ()
    constraints: Sequence[str] = ()

    def to_toml(self) -> str:
        """The project as `pyproject.toml`."""
        platform = self._platform()
        lines = [
            "[project]",
            f"name = {toml_string(PROJECT)}",
            'version = "0"',
            f"requires-python = {toml_string(self.requires_python)}",
            f"dependencies = {toml_strings(self.dependencies)}",
            "[dependency-groups]",
            f"{FAMILY_GROUP} = {toml_strings(self.family)}",
            "[tool.uv]",
            "package = false",
            "default-groups = []",
            f"environments = {toml_strings([platform])}",
            f"required-environments = {toml_strings([platform])}",
        ]
        if self.constraints:
            lines.append(f"constraint-dependencies = {toml_strings(self.constraints)}")
        # A workspace in a parent folder would otherwise take the project over.
        lines += ["[tool.uv.workspace]", "members = []", "[tool.uv.sources]"]
        lines += [f"{name} = {{ index = {toml_string(index)} }}" for name, index in self.sources.items()]
        return "\n".join([*lines, *_index_tables(self.indexes), ""])

    def _platform(self) -> str:
        return " and ".join(
            f"{name} == '{self.markers[name]}'" for name in ("sys_platform", "platform_machine")
        )


def required_by(uv_lock: str, name: str) -> tuple[str, ...]:
    """The packages that ask for a package, as uv's own lock of the project tells; the project is left out."""
    requirers = []
    for package in tomllib.loads(uv_lock).get("package", ()):
        asked = {dependency["name"] for dependency in package.get("dependencies", ())}
        if name in asked and package["name"] != PROJECT:
            requirers.append(package["name"])
    return tuple(sorted(requirers))


def _index_tables(indexes: Iterable[FamilyIndex]) -> list[str]:
    lines: list[str] = []
    for index in indexes:
        lines += [
            "[[tool.uv.index]]",
            f"name = {toml_string(index.name)}",
            f"url = {toml_string(index.url)}",
            *(['format = "flat"'] if index.flat else []),
            "explicit = true",
        ]
    return lines
