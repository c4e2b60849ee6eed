"""Who installs: this station's own command, uv and pip, from nothing or after a kill half-way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import uv

from support.commands import command
from support.stations import Premises

MODEL = "benchmark"

Enough = Callable[[], bool]
"""Whether so much was sent that a run is to be killed."""


def python_of(checkout: Path) -> str:
    """The Python of another checkout of this repository, set up as its README says."""
    return str((checkout / ".venv" / "bin" / "python").absolute())


class Participant(Protocol):
    """Somebody who installs."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    def install(self, *, until: Enough | None = None) -> float:
        """Install, going on from what a run before has kept; gives how long it took.

        Args:
            until: The run is killed as soon as this says so; the time means nothing then.
        """

    def forget(self) -> None:
        """Forget everything that was installed and kept: the next run is the first."""


@dataclass(kw_only=True)
class Station:
    """The real command `switch`; counted is its install part.

    That is from the lock to the environment that is built and checked against its records: downloading,
    hashing, keeping what can be resumed, unpacking, checking. What comes before (looking at the machine,
    choosing, locking) and after it (letting torch compute, syncing) is shown apart: the others do none of it.
    """

    premises: Premises
    name: str = "this station"
    python: str = sys.executable
    parts: list[Mapping[str, float]] = field(default_factory=list)

    def install(self, *, until: Enough | None = None) -> float:
        """Install; see `Participant`."""
        began = time.perf_counter()
        said = self.premises.folder / "events.jsonl"  # a pipe that nobody reads meanwhile would fill
        with said.open("w") as output:
            process = subprocess.Popen(
                command("switch", MODEL, "--json", python=self.python),
                env=self.premises.environ,
                cwd=self.premises.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
            )
            _wait(process, until)
            process.wait()
        if until is not None:
            return 0.0
        events = [json.loads(line) for line in said.read_text().splitlines()]
        if events[-1]["event"] != "ActivationSucceeded":
            raise RuntimeError(f"the switch failed: {events[-1]}")
        parts = _parts(events)
        self.parts.append({**parts, "whole command": time.perf_counter() - began})
        return parts["install"]

    def forget(self) -> None:
        """Forget; see `Participant`."""
        shutil.rmtree(self.premises.home.root, ignore_errors=True)

    def lock(self) -> Path:
        """The lock that its first run made."""
        self.install()
        (path,) = self.premises.home.environments.glob("*/pylock.toml")
        kept = self.premises.folder / "pylock.toml"
        shutil.copy(path, kept)
        self.forget()
        self.parts.clear()
        return kept


@dataclass(frozen=True, kw_only=True)
class Uv:
    """`uv venv` and `uv pip install` of the same lock."""

    folder: Path
    lock: Path
    name: str = "uv pip install"

    def install(self, *, until: Enough | None = None) -> float:
        """Install; see `Participant`."""
        program = str(uv.find_uv_bin())
        environ = {**_environ(self.folder), "UV_CACHE_DIR": str(self.folder / "uv-cache")}
        began = time.perf_counter()
        venv = self.folder / "uv-venv"
        subprocess.run(
            [program, "venv", "-q", "--clear", "-p", _base_python(), str(venv)], check=True, env=environ
        )
        options = ["-q", "--preview-features", "pylock", "-p", str(venv), "-r", str(self.lock)]
        _run([program, "pip", "install", *options], environ, until)
        return time.perf_counter() - began

    def forget(self) -> None:
        """Forget; see `Participant`."""
        for name in ("uv-venv", "uv-cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Pip:
    """An empty environment, and `pip install` of the wheels that the lock names, with their hashes."""

    folder: Path
    requirements: Path
    python: Path
    name: str = "pip install"

    def install(self, *, until: Enough | None = None) -> float:
        """Install; see `Participant`."""
        environ = {**_environ(self.folder), "PIP_CACHE_DIR": str(self.folder / "pip-cache")}
        began = time.perf_counter()
        venv = self.folder / "pip-venv"
        subprocess.run(
            [_base_python(), "-m", "venv", "--without-pip", "--clear", venv], check=True, env=environ
        )
        options = ["--quiet", "--no-deps", "--require-hashes", "-r", str(self.requirements)]
        pip = [str(self.python), "-m", "pip", "--python", str(venv / "bin" / "python")]
        _run([*pip, "install", *options], environ, until)
        return time.perf_counter() - began

    def forget(self) -> None:
        """Forget; see `Participant`."""
        for name in ("pip-venv", "pip-cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def newest_pip(folder: Path) -> Path:
    """The Python of an environment with the newest pip."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
    return python


def _base_python() -> str:
    return os.path.realpath(sys.executable)


def _environ(folder: Path) -> dict[str, str]:
    """Nothing of the user's own configuration: the lock says where everything is."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
    }


def _run(argv: Sequence[str], environ: Mapping[str, str], until: Enough | None) -> None:
    process = subprocess.Popen(argv, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _wait(process, until)
    if process.wait() and until is None:
        raise RuntimeError(f"{argv} exited with {process.returncode}")


def _wait(process: subprocess.Popen[Any], until: Enough | None) -> None:
    if until is None:
        return
    while process.poll() is None:
        if until():
            process.kill()
            return
        time.sleep(0.01)


def _parts(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How long each part of a switch took, by the times in its own facts."""

    def at(name: str, **wanted: str) -> float:
        found = next(
            event
            for event in events
            if event["event"] == name and all(event[key] == value for key, value in wanted.items())
        )
        return datetime.fromisoformat(found["at"]).timestamp()

    started, locked = at("BackendActivationRequested"), at("RequirementsLocked")
    built, verified = at("EnvironmentBuilt"), at("VerificationCompleted")
    return {
        "detect, select, lock": locked - started,
        "install": built - locked,
        "start, verify": verified - built,
        "load, sync, commit": at("ActivationSucceeded") - verified,
    }
