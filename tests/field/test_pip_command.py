"""The command that `plan` prints, as pip carries it out for users who have set further places to look in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.commands import run_json
from support.stations import Premises, open_premises
from support.wheels import module_wheel, torch_wheel


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    """PyTorch's index, and another one that lists the highest versions of all."""
    with open_premises(tmp_path) as premises:
        premises.index.add_simple(torch_wheel("99.0", "cpu"))
        premises.index.add_simple(module_wheel("torchvision", "99.0"))
        yield premises


def _installed_by(premises: Premises, planned: dict[str, Any]) -> dict[str, str]:
    """What pip would install by a plan's command: version by name."""
    program, *arguments = planned["command"]
    assert program == "python"
    report = ("--dry-run", "--ignore-installed", "--quiet", "--no-deps", "--report", "-")
    done = subprocess.run(
        [sys.executable, *arguments, *report],
        env=premises.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    wheels = json.loads(done.stdout)["install"]
    return {wheel["metadata"]["name"]: wheel["metadata"]["version"] for wheel in wheels}


@pytest.mark.parametrize("variable", ["PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"])
@pytest.mark.parametrize("offline", [(), ("--offline",)], ids=["online", "offline"])
def test_what_was_chosen_is_installed_whatever_another_place_lists(
    premises: Premises, variable: str, offline: tuple[str, ...]
) -> None:
    """Of all places pip takes the highest version; a pin with its local part leaves it no choice."""
    premises.variables[variable] = premises.index.simple_url
    if variable == "PIP_FIND_LINKS":
        premises.variables[variable] += "/torch/"
    planned = run_json(premises, "plan", "torch>=2.9,<2.9.2", "torchvision", *offline)
    assert (planned["torch"], planned["source"]) == ("2.9.1", "index")
    installed = _installed_by(premises, planned)
    assert installed == {"torch": "2.9.1+cpu", "torchvision": "0.24.1+cpu"}


def test_a_default_index_that_uv_alone_was_told_of_is_named(premises: Premises) -> None:
    """Without it pip, which knows nothing of uv's variables, would ask another one."""
    nobody = "http://127.0.0.1:9"
    premises.variables["MOONDREAM_STATION_TORCH_INDEX"] = f"{nobody}/whl"
    premises.variables["UV_DEFAULT_INDEX"] = premises.index.simple_url
    premises.variables["PIP_INDEX_URL"] = f"{nobody}/simple"
    arguments = ("plan", "torch<3", "--strategy", "cu128")
    planned = run_json(premises, *arguments)
    assert (planned["torch"], planned["source"]) == ("2.9.1", "default")
    assert _installed_by(premises, planned) == {"torch": "2.9.1"}
    premises.variables["PIP_INDEX_URL"] = premises.index.simple_url
    assert "--index-url" not in run_json(premises, *arguments)["command"]
