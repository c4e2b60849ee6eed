"""The facade's installation as scripts use it: into a scratch interpreter, from an index on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from moondream_station.core.environments.packages import find_packages
from moondream_station.core.resolve.interpreter import own_interpreter
from support.real_torch import small_torch
from support.scratch_python import INSTALL, ROOT, VERIFY, ScratchPython
from support.stations import Premises

UNREACHABLE = {
    "MOONDREAM_STATION_TORCH_INDEX": "http://127.0.0.1:9/whl",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
}
ASKED = "torch>=2.8\nNumPy\n"


@pytest.fixture(scope="module")
def filled(premises: Premises) -> ScratchPython:
    """One into which torch and NumPy were installed. Tests leave it as they found it."""
    scratch = ScratchPython.make(premises.folder / "filled", premises.environ)
    answer = scratch.install(ASKED)
    assert answer["success"], answer
    assert answer["message"] == (
        "Installed torch 2.9.1+cpu and numpy 2.3.4 into this Python. This can't be undone."
    )
    assert answer["cmd"][1:3] == ["pip", "install"]
    assert scratch.packages() == {"torch": "2.9.1+cpu", "numpy": "2.3.4"}
    return scratch


def test_the_second_time_nothing_is_installed(premises: Premises, filled: ScratchPython) -> None:
    """Nothing is resolved or fetched, and no command is run; what a killed run left is gone."""
    (premises.home.cache / "lock-left" / "cache").mkdir(parents=True)
    premises.index.clear_requests()
    answer = filled.install(ASKED)
    assert (answer["success"], answer["cmd"], answer["details"]) == (True, [], "")
    assert (
        answer["message"]
        == "Nothing to install: everything is already installed, with torch 2.9.1+cpu (cpu)."
    )
    assert not [request for request in premises.index.requests if "/simple/" in request.path]


def test_without_a_network_what_is_there_stays(filled: ScratchPython, tmp_path: Path) -> None:
    """The catalog says which build is right, and it is installed."""
    answer = filled.install(ASKED, MOONDREAM_STATION_HOME=str(tmp_path), **UNREACHABLE)
    assert (answer["success"], answer["cmd"]) == (True, [])
    answer = filled.install("numpy", MOONDREAM_STATION_HOME=str(tmp_path), **UNREACHABLE)
    assert answer["message"] == "Nothing to install: everything is already installed."


def test_without_a_network_what_is_missing_is_an_error_with_a_remedy(
    filled: ScratchPython, tmp_path: Path
) -> None:
    """The result says it; nothing is raised, and nothing changed."""
    before = filled.packages()
    answer = filled.install("torch>=2.8\nwrapstorch", MOONDREAM_STATION_HOME=str(tmp_path), **UNREACHABLE)
    assert (answer["success"], answer["cmd"]) == (False, [])
    assert "can't be reached" in answer["message"]
    assert "Check the network" in answer["message"]
    assert filled.packages() == before


def _lose_one_file(package: Path, metadata: Path) -> None:
    (package / "cuda.py").unlink()


def _lose_metadata(package: Path, metadata: Path) -> None:
    for name in ("RECORD", "METADATA", "INSTALLER"):
        (metadata / name).unlink()


@pytest.mark.parametrize("harm", [_lose_one_file, _lose_metadata])
def test_a_half_installation_is_repaired(filled: ScratchPython, harm: Callable[[Path, Path], None]) -> None:
    """What is not whole by its RECORD is installed anew, and that alone."""
    harm(filled.site_packages / "torch", filled.site_packages / "torch-2.9.1+cpu.dist-info")
    answer = filled.install(ASKED)
    assert answer["success"], answer
    assert answer["message"].startswith("Installed torch 2.9.1+cpu into this Python.")
    assert "numpy" not in answer["details"]
    assert find_packages([str(filled.site_packages)])["torch"].damage == ()


def test_it_works_inside_a_running_event_loop(filled: ScratchPython) -> None:
    """In a thread of its own."""
    program = """
import asyncio
from moondream_station.core.torch_installer import TorchInstaller
async def main():
    result = TorchInstaller().install_torch_requirements("torch>=2.8")
    await asyncio.sleep(0)
    print(result.success, TorchInstaller().verify_torch_installation()["compute_ok"])
asyncio.run(main())
"""
    assert filled.run(program).stdout == "True True\n"


def test_an_imported_torch_is_not_replaced(filled: ScratchPython, with_gpu: dict[str, str]) -> None:
    """The process has to be restarted first; where nothing has to change, there is nothing to say."""
    before = filled.packages()
    answer = filled.install(ASKED, before="import torch", **with_gpu)
    assert (answer["success"], answer["cmd"]) == (False, [])
    assert answer["message"] == (
        "torch must be replaced, but this process has imported it already. "
        "Restart Python, and install before anything imports torch."
    )
    assert filled.packages() == before
    assert filled.install(ASKED, before="import torch")["success"]


def test_verification_tells_what_torch_says(filled: ScratchPython) -> None:
    """In another process: this one stays free to change torch."""
    found = json.loads(filled.run(f"{VERIFY}\nassert 'torch' not in sys.modules").stdout)
    wanted = {
        "torch_version": "2.9.1+cpu",
        "build": "cpu",
        "device": "cpu",
        "cuda_available": False,
        "cuda_version": None,
        "device_count": 0,
        "mps_available": False,
        "compute_ok": True,
        "error": None,
    }
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [("torch>=99", "Nothing satisfies torch>=99"), ("no-such-package", "no-such-package was not found")],
)
def test_what_cannot_be_had_is_told_not_raised(filled: ScratchPython, text: str, words: str) -> None:
    """No build, or no such package."""
    answer = filled.install(text)
    assert (answer["success"], answer["cmd"]) == (False, [])
    assert words in answer["message"]


def test_whoever_waits_for_the_home_says_so(premises: Premises, filled: ScratchPython) -> None:
    """On stderr, where no logging of the script's own shows it."""
    lock = FileLock(premises.home.activation_lock)
    with lock, filled.started(INSTALL, ASKED) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        lock.release()
        answer, _ = process.communicate(timeout=60)
    assert said == "Waiting for another process, which uses the same home.\n"
    assert json.loads(answer)["success"]


def test_an_externally_managed_interpreter_is_refused(
    premises: Premises, scratch: ScratchPython, tmp_path: Path
) -> None:
    """A real one, with the marker in its standard library; nothing is asked of any index."""
    premises.index.clear_requests()
    done = _in_managed_python(scratch, tmp_path / "managed")
    answer = json.loads(done.stdout)
    assert (answer["success"], answer["cmd"], answer["details"]) == (
        False,
        [],
        "python-unsuitable\nUse the system's packages.",
    )
    assert "The system's package manager owns this Python" in answer["message"]
    assert "python3 -m venv" in answer["message"]
    assert premises.index.requests == ()


def _in_managed_python(scratch: ScratchPython, home: Path) -> subprocess.CompletedProcess[str]:
    """Install with the base interpreter, whose installation was copied by links and given the marker."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    copy = home / stdlib.relative_to(sys.base_prefix)
    copy.mkdir(parents=True)
    for entry in stdlib.iterdir():
        if entry.name not in {"site-packages", "EXTERNALLY-MANAGED"}:
            (copy / entry.name).symlink_to(entry)
    marker = "[externally-managed]\nError=Use the system's packages.\n"
    (copy / "EXTERNALLY-MANAGED").write_text(marker, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
    environ = {**scratch.environ, "PYTHONHOME": str(home), "PYTHONPATH": path}
    return replace(scratch, executable=own_interpreter().path, environ=environ).run(INSTALL, ASKED)


@pytest.mark.torch
def test_a_real_torch_is_installed_found_again_and_repaired(tmp_path: Path) -> None:
    """From the user's own sources; after a loss of its files it is installed anew, from what is here."""
    if small_torch() is None:
        pytest.skip("pip's find-links have no torch +cpu wheel for this Python")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ = {**kept, "MOONDREAM_STATION_HOME": str(tmp_path / "home")}
    scratch = ScratchPython.make(tmp_path / "scratch", environ)
    first = scratch.install("torch>=2.7.0")
    assert first["success"], first
    assert scratch.packages()["torch"] == small_torch()
    assert scratch.install("torch>=2.7.0")["cmd"] == []
    for name in ("nn", "lib"):
        shutil.rmtree(scratch.site_packages / "torch" / name)
    assert scratch.run("import torch").returncode != 0
    again = scratch.install("torch>=2.7.0")
    assert again["success"], again
    assert again["details"].startswith(f"installed torch {small_torch()}\nreplaced torch {small_torch()}\n")
    verified = scratch.run(VERIFY)
    assert json.loads(verified.stdout)["compute_ok"] is True
