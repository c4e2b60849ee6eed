"""Which Python environments are made from, and what it accepts: its markers and its wheel tags."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import anyio
from packaging import __file__ as packaging_file
from packaging.markers import default_environment
from packaging.tags import Tag, parse_tag, sys_tags
from packaging.version import Version

from moondream_station.core.facts.errors import ProgramMissing, PythonUnsuitable, StationError
from moondream_station.core.home.layout import absolute

OLDEST_PYTHON = (3, 11)
"""The oldest Python an environment can have: the worker's half of the station is written for it."""

_OLDEST = ".".join(map(str, OLDEST_PYTHON))
_ANSWER_SECONDS = 30.0
_NEWEST_MINOR = 20

# Runs in the interpreter that is asked. Its own folders are left out (-S), so that nothing installed there
# can answer for it; `packaging` is ours, so that every interpreter is described by the same rules.
_QUESTION = """
import json, sys
answer = {"version": "%d.%d.%d" % sys.version_info[:3], "implementation": sys.implementation.name,
          "path": getattr(sys, "_base_executable", None) or sys.executable}
if sys.version_info >= (3, 8):
    sys.path.insert(0, sys.argv[1])
    from packaging.markers import default_environment
    from packaging.tags import sys_tags
    answer["markers"] = dict(default_environment())
    answer["tags"] = [str(tag) for tag in sys_tags()]
print(json.dumps(answer))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python that environments can be made from: a base interpreter, in no virtual environment.

    The path is absolute, links resolved; the version whole ("3.11.7"); the best tag comes first.
    """

    path: Path
    version: str
    markers: Mapping[str, str]
    tags: tuple[Tag, ...]

    @property
    def minor(self) -> str:
        """Major and minor version ("3.11")."""
        return ".".join(self.version.split(".")[:2])

    @property
    def threading(self) -> str:
        """What tells it from the ordinary Python of its version: "t" for a free-threaded one, or nothing."""
        abi = f"cp{self.minor.replace('.', '')}t"
        return "t" if any(tag.abi == abi for tag in self.tags) else ""

    @property
    def name(self) -> str:
        """Its version as a build is chosen by it ("3.11.7", "3.14.2t")."""
        return f"{self.version}{self.threading}"


@lru_cache(maxsize=1)
def own_interpreter() -> Interpreter:
    """The station's own base interpreter; no process is started for it. Its tags take 2 ms to list."""
    base = Path(getattr(sys, "_base_executable", None) or sys.executable)
    markers = {name: str(value) for name, value in default_environment().items()}
    version = ".".join(map(str, sys.version_info[:3]))
    _check_suitable(base, sys.implementation.name, version)
    return Interpreter(path=base.resolve(), version=version, markers=markers, tags=tuple(sys_tags()))


async def find_interpreter(python: Path | None, *, environ: Mapping[str, str]) -> Interpreter:
    """The Python that environments are made from: the base of the one a user named, or the station's own."""
    if python is None:
        return own_interpreter()
    path = absolute(python)  # links stay: a virtual environment's Python is one, and knows its base
    answer = await _ask(path, environ)
    _check_suitable(path, answer["implementation"], answer["version"])
    tags = tuple(tag for text in answer["tags"] for tag in parse_tag(text))
    base = await anyio.Path(answer["path"]).resolve()
    return Interpreter(path=Path(base), version=answer["version"], markers=answer["markers"], tags=tags)


async def other_interpreter(suits: Callable[[str], bool], *, environ: Mapping[str, str]) -> Path | None:
    """The newest other Python on the user's PATH that suits by its version ("3.12"), and runs."""
    for minor in range(_NEWEST_MINOR, OLDEST_PYTHON[1] - 1, -1):
        name = f"3.{minor}"
        path = shutil.which(f"python{name}", path=environ.get("PATH"))
        if path is None or name == own_interpreter().minor or not suits(name):
            continue
        with suppress(StationError):  # pyenv has a program of that name for every Python that it knows of
            if (await find_interpreter(Path(path), environ=environ)).minor == name:
                return Path(path)
    return None


async def _ask(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    # What only describes its own interpreter starts no process.
    from moondream_station.core.processes.child_process import child_environment, run  # noqa: PLC0415

    if not await anyio.Path(path).is_file():
        raise PythonUnsuitable(
            f"There is no Python interpreter at {path}.",
            hint="Name the interpreter's file, as `import sys; print(sys.executable)` prints it.",
        )
    folder = str(Path(packaging_file).parent.parent)
    argv = [str(path), "-I", "-S", "-c", _QUESTION, folder]
    try:
        completed = await run(argv, env=child_environment(environ), timeout_seconds=_ANSWER_SECONDS)
    except ProgramMissing as error:
        raise PythonUnsuitable(f"{path} can't be started.", hint="Name a Python interpreter.") from error
    try:
        answer = json.loads(completed.stdout)
        Version(answer["version"]), answer["implementation"], answer["path"]
    except (ValueError, TypeError, KeyError) as error:
        seen = "did not answer in time" if completed.timed_out else f"exited with {completed.returncode}"
        raise PythonUnsuitable(
            f"{path} is not a Python interpreter: it {seen} when asked for its version.",
            hint=f"Name an interpreter of Python {_OLDEST} or newer.",
            log=completed.stderr.decode(errors="replace"),
        ) from error
    return dict(answer)


def _check_suitable(path: Path, implementation: str, version: str) -> None:
    if implementation != "cpython":
        raise PythonUnsuitable(
            f"{path} is {implementation} {version}; PyTorch has wheels for CPython alone.",
            hint=f"Name an interpreter of CPython {_OLDEST} or newer.",
        )
    if Version(version) < Version(_OLDEST):
        raise PythonUnsuitable(
            f"{path} is Python {version}; environments need {_OLDEST} or newer.",
            hint=f"Install Python {_OLDEST} or newer and name it with --python.",
        )
