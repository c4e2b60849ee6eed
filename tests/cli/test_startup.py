"""What starting loads, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from moondream_station import __version__

_HEAVY = ("torch", "uvicorn", "starlette", "httpx2", "pydantic", "structlog", "anyio")


def _loaded(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_command_line_loads_neither_torch_nor_the_server() -> None:
    """Nor anything else that help can do without."""
    assert _loaded("import moondream_station.cli.app") & set(_HEAVY) == set()


def test_the_version_loads_next_to_nothing() -> None:
    """Not even the command line."""
    loaded = _loaded("import moondream_station.__main__")
    assert "moondream_station.cli" not in loaded
    assert loaded & {*_HEAVY, "typer", "rich"} == set()


@pytest.mark.parametrize("module", ["status", "switch", "plan", "housekeeping"])
def test_a_command_that_logs_nothing_does_not_load_what_logs(module: str) -> None:
    """Nor what draws on terminals; both are loaded when they are needed."""
    assert _loaded(f"import moondream_station.cli.{module}") & {"structlog", "rich"} == set()


@pytest.mark.parametrize("arguments", [["--version"], ["--version", "--json"]])
def test_the_version_is_printed(arguments: list[str]) -> None:
    """Alone, and with other options."""
    command = [sys.executable, "-m", "moondream_station", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert __version__ in done.stdout
