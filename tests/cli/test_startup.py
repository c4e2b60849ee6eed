"""What starting loads, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moondream_station import __version__

_HEAVY = ("torch", "uvicorn", "starlette", "httpx2", "pydantic", "structlog", "anyio")


def _loaded(statement: str, **environ: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environ
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_command_line_loads_neither_torch_nor_the_server() -> None:
    """Nor anything else that help can do without."""
    assert _loaded("import moondream_station.cli.app, moondream_station.cli.run") & set(_HEAVY) == set()


def test_the_version_loads_next_to_nothing() -> None:
    """Not even the command line."""
    loaded = _loaded("import moondream_station.__main__")
    assert "moondream_station.cli" not in loaded
    assert loaded & {*_HEAVY, "typer", "rich"} == set()


_NEVER = {"torch", "uvicorn", "starlette", "prompt_toolkit", "structlog", "moondream_station.core.station"}


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        ("status", {"typer", "rich", "asyncio", "filelock", "httpx2", "packaging", "pydantic", "uv"}),
        ("models", {"typer", "rich", "filelock", "httpx2"}),
        ("plan --offline", {"rich", "filelock", "httpx2", "moondream_station.core.index.listing"}),
        ("doctor --offline", set()),
    ],
)
def test_a_command_loads_what_it_needs(command: str, unneeded: set[str], tmp_path: Path) -> None:
    """Neither what serves, draws or logs, nor the parser where there is nothing to parse."""
    ran = f"from moondream_station.cli.run import run; run({command.split()!r})"
    loaded = _loaded(ran, MOONDREAM_STATION_HOME=str(tmp_path / "home"))
    assert "moondream_station.console.logging" in loaded
    assert loaded & (_NEVER | unneeded) == set()


@pytest.mark.parametrize("module", ["status", "activate", "plan", "housekeeping"])
def test_a_command_that_logs_nothing_does_not_load_what_logs(module: str) -> None:
    """Nor what draws on terminals; both are loaded when they are needed."""
    assert _loaded(f"import moondream_station.cli.{module}") & {"structlog", "rich"} == set()


@pytest.mark.parametrize("arguments", [["--version"], ["--version", "--json"]])
def test_the_version_is_printed(arguments: list[str]) -> None:
    """Alone, and with other options."""
    command = [sys.executable, "-m", "moondream_station", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert __version__ in done.stdout
