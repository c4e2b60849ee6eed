"""The station, the guide's table, and the peers that are asked in an environment of their own."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import anyio
from benchmarks.accuracy.problems import Choice, Problem
from benchmarks.accuracy.works import newest

from moondream_station.core.activation.choice import plan_from_catalog
from moondream_station.core.builds.requirements import parse_requirements
from moondream_station.core.machine.record import RecordedMachine, load_record

_HERE = Path(__file__).parent


def by_station(asked: Sequence[Problem]) -> list[Choice]:
    """What the station selects."""

    async def select_all() -> list[Choice]:
        chosen: list[Choice] = []
        for problem in asked:
            record = load_record(problem.case.record)
            requirements = parse_requirements([problem.requirement], origin="benchmark")
            machine = RecordedMachine(record)
            selection = await plan_from_catalog(requirements, machine, python=record.platform.python)
            chosen.append((selection.build, selection.torch) if selection.build and selection.torch else None)
        return chosen

    return anyio.run(select_all)


def by_guide(asked: Sequence[Problem]) -> list[Choice]:
    """What the installation guide's table gives."""
    return [_guided(problem) for problem in asked]


def _guided(problem: Problem) -> Choice:
    if problem.system == "Darwin":
        return newest(problem.reality, problem.requirement, at="pypi")
    smi = problem.answer_of("nvidia-smi", *()) or {}
    plain = next((one for one in problem.record["commands"] if one["argv"] == ["nvidia-smi"]), smi)
    header = re.search(r"CUDA (?:UMD )?Version: +(\d+)\.(\d+)", plain.get("stdout", ""))
    cuda = (int(header[1]), int(header[2])) if header else (0, 0)
    table = (((12, 4), "cu124"), ((12, 0), "cu121"), ((11, 8), "cu118"))
    build = next((name for lowest, name in table if cuda >= lowest), "cpu")
    return newest(problem.reality, problem.requirement, build=build, at="index")


def by_torchruntime(python: Path, asked: Sequence[Problem]) -> list[Choice]:
    """What torchruntime installs."""
    machines = [
        {
            "system": problem.system,
            "machine": problem.record["platform"]["machine"],
            "python": [int(part) for part in problem.reality.python.rstrip("t").split(".")],
            "pci": problem.displays,
            "requirement": problem.requirement,
        }
        for problem in asked
    ]
    answers = _ask(python, "ask_torchruntime.py", machines)
    return [_installed(answer, problem) for answer, problem in zip(answers, asked, strict=True)]


def _installed(build: str | None, problem: Problem) -> Choice:
    if build is None:
        return None
    if build == "directml":  # torch-directml pins this one, and computes on Windows' GPUs through DirectX
        return ("directml", "2.4.1")
    if build in {"cpu", "mps"}:
        return newest(problem.reality, problem.requirement, at="pypi")
    return newest(problem.reality, problem.requirement, build=build, at="index")


def by_light_the_torch(python: Path, asked: Sequence[Problem], folder: Path) -> list[Choice]:
    """What light-the-torch installs."""
    machines = []
    for number, problem in enumerate(asked):
        programs = folder / f"programs-{number}"
        programs.mkdir()
        if problem.driver_by_smi:
            program = programs / "nvidia-smi"
            program.write_text(f"#!/bin/sh\necho driver_version\necho {problem.driver_by_smi}\n")
            program.chmod(0o755)
        machines.append({"system": problem.system, "programs": str(programs)})
    answers = _ask(python, "ask_light_the_torch.py", machines)
    return [_first_of(answer, problem) for answer, problem in zip(answers, asked, strict=True)]


def _first_of(builds: Iterable[str], problem: Problem) -> Choice:
    for build in builds:
        if choice := newest(problem.reality, problem.requirement, build=build, at="index"):
            return choice
    return newest(problem.reality, problem.requirement, at="pypi")


def _ask(python: Path, script: str, machines: list[Any]) -> list[Any]:
    done = subprocess.run(
        [str(python), "-I", str(_HERE / script)],
        input=json.dumps(machines),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answers: list[Any] = json.loads(done.stdout)
    return answers
