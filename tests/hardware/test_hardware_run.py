"""The run for machines with a GPU and no network, on the processor, with a real torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.real_torch import small_torch, torch_environment
from support.stations import processes_naming

__all__ = ["torch_environment"]

_RUN = Path(__file__).parent / "run"
_OFFLINE = ("unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def offline() -> tuple[str, ...]:
    """What goes before a command that shall have no network but loopback, where the system lets us."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return ()
    is_possible = subprocess.run([*_OFFLINE, "true"], check=False, capture_output=True).returncode == 0
    return _OFFLINE if is_possible else ()


@pytest.mark.torch
def test_the_installed_torch_serves_without_a_network(torch_environment: Path, tmp_path: Path) -> None:
    """Record, plan, both switches, captions and the doctor, and nothing but the results is left."""
    work = tmp_path / "work"
    work.mkdir()
    out = tmp_path / "out"
    done = subprocess.run(
        [*offline(), sys.executable, _RUN, out, "--torch-python", torch_environment, "--work", work],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert processes_naming(work) == []
    assert list(work.iterdir()) == []
    assert {path.name for path in out.iterdir()} == {
        *("machine.json", "plan.json", "doctor.json", "journal.jsonl", "log.txt", "figures.json")
    }
    figures = json.loads((out / "figures.json").read_text())
    assert (figures["ok"], figures["failure"]) == (True, None)
    assert figures["installed torch"] == small_torch()
    for model in ("selftest", "small"):
        assert figures[f"switch {model}"]["verification"]["build"] == "cpu"
        assert figures[f"caption of {model}"]["caption"]
    facts = [json.loads(line).get("event") for line in (out / "journal.jsonl").read_text().splitlines()]
    assert facts.count("ActivationSucceeded") == 2


def test_what_fails_is_in_the_figures(tmp_path: Path) -> None:
    """With what was seen until then: nothing, where there is no torch."""
    out, venv = tmp_path / "out", tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = next(venv.glob("[bS]*/python*"))
    command = [sys.executable, str(_RUN), str(out), "--torch-python", str(python)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    figures = json.loads((out / "figures.json").read_text())
    assert (figures["ok"], figures["failure"]) == (False, "LookupError: torch is not installed")
