"""The plan of the package: imports between folders go down, floor by floor, and never in a circle."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "moondream_station"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / PACKAGE).rglob("*.py")
}
ALONE = ("__main__", "core.station", "core.torch_installer")  # each is a floor of its own, as the root is
TOOLS = ("core.home.log", "core.home.task_groups")  # they decide nothing: a log line, what a group raised


def _imported(module: str) -> set[str]:
    """The modules of ours that a module imports anywhere in it, also inside functions and for types."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative imports are not followed here"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names.update(whole & MODULES.keys() or {node.module or ""})
    return (names & MODULES.keys()) - {module}


def _folder(module: str) -> str:
    """The folder that a module lies in, without the package's name; where it stands alone, itself."""
    short = module.removeprefix(PACKAGE).removeprefix(".")
    is_folder = MODULES[module].name == "__init__.py"
    return short if is_folder or short in ALONE else short.rpartition(".")[0]


@cache
def _imports() -> dict[str, set[str]]:
    return {module: _imported(module) for module in MODULES}


def _between_folders() -> dict[str, set[str]]:
    folders: dict[str, set[str]] = {}
    for module, imported in _imports().items():
        mine = folders.setdefault(_folder(module), set())
        mine.update({_folder(name) for name in imported} - {_folder(module)})
    return folders


@pytest.mark.parametrize("graph", [_imports, _between_folders], ids=["modules", "folders"])
def test_no_circles(graph: Callable[[], Mapping[str, AbstractSet[str]]]) -> None:
    """Modules can be ordered so that each imports only earlier ones, and so can folders: imports go down."""
    TopologicalSorter(graph()).prepare()  # names a circle where there is one


def test_twelve_floors_at_most() -> None:
    """A folder stands one floor above the highest that it imports."""
    floors: dict[str, int] = {}
    folders = _between_folders()
    for folder in TopologicalSorter(folders).static_order():
        floors[folder] = 1 + max((floors[below] for below in folders[folder]), default=0)
    assert max(floors.values()) <= 12, sorted(floors.items(), key=lambda item: item[1])


def test_fifteen_modules_in_a_folder_at_most() -> None:
    """A folder is taken in at a glance; `core/` holds, beside folders, only what ties them together."""
    sizes = Counter(path.parent.relative_to(ROOT).as_posix() for path in MODULES.values())
    assert {folder: size for folder, size in sizes.items() if size > 15} == {}
    loose = {path.name for path in (ROOT / PACKAGE / "core").glob("*.py")}
    assert loose == {"__init__.py", "station.py", "torch_installer.py"}


def test_a_folder_says_in_one_sentence_what_it_decides() -> None:
    """Its `__init__` holds nothing else; the package's own gives the version too."""
    for path in MODULES.values():
        if path.name == "__init__.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            sentence = ast.get_docstring(tree) or ""
            assert "\n" not in sentence, path
            assert sentence.endswith("."), path
            assert len(tree.body) == 1 or path.parent.name == PACKAGE, path


@pytest.mark.parametrize(
    ("top", "allowed"),
    [
        ("core", ("core",)),
        ("core.facts", ("core.facts",)),
        ("http", ("http", "core.facts", *TOOLS)),
        ("agents", ("agents", "asking", "http", "core.facts", *TOOLS)),
        ("panel", ("panel", "core.facts")),
        ("bundled", ("bundled",)),
    ],
)
def test_rings(top: str, allowed: tuple[str, ...]) -> None:
    """Facts know nothing else, the core no edge, and neither HTTP, agents nor the panel how work is done."""
    wrong = [
        (module, name)
        for module, imported in _imports().items()
        for name in imported
        if _is_in(module, top) and not any(_is_in(name, folder) for folder in allowed)
    ]
    assert wrong == []


def _is_in(module: str, folder: str) -> bool:
    return f"{module}.".startswith(f"{PACKAGE}.{folder}.")
