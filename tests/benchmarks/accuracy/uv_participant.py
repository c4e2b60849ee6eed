"""uv's `--torch-backend auto`, asked for other machines by its override variables."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import uv
from benchmarks.accuracy.problems import NOT_ASKED, Choice, Problem
from benchmarks.accuracy.stand_in_index import StandInIndex

_UV_MANYLINUX = (40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 28, 17)
"""The glibc minors that `uv pip compile --python-platform` knows."""


class NotAnsweredError(Exception):
    """uv could not answer, because it does not reach an index, say."""


def by_uv(asked: Sequence[Problem], folder: Path) -> list[Choice]:
    """What uv resolves; every question once, several at a time. It may raise `NotAnsweredError`."""
    questions = [_uv_question(problem) for problem in asked]
    different = list(dict.fromkeys(questions))
    with StandInIndex(folder) as index, ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        variables = {**index.environment, "UV_CACHE_DIR": str(folder / "uv")}
        answers = dict(
            zip(different, pool.map(lambda one: _uv_answer(one, variables), different), strict=True)
        )
    return [answers[question] for question in questions]


@dataclass(frozen=True, slots=True)
class UvQuestion:
    """What uv is asked; `platform` is None where it knows none of that name."""

    platform: str | None
    macos: str
    python: str
    backend: str
    override: tuple[str, str] | None
    requirement: str


def _uv_question(problem: Problem) -> UvQuestion:
    facts, reality = problem.record["platform"], problem.reality
    platform: str | None
    match (facts["system"], facts["machine"]):
        case ("Linux", "x86_64" | "aarch64" as machine) if reality.glibc:
            minor = next(minor for minor in _UV_MANYLINUX if minor <= reality.glibc[1])
            platform = f"{machine}-manylinux_2_{minor}"
        case ("Linux", "x86_64" | "aarch64" as machine):
            platform = f"{machine}-unknown-linux-musl"
        case ("Windows", "AMD64"):
            platform = "x86_64-pc-windows-msvc"
        case ("Darwin", machine):
            platform = f"{'aarch64' if machine == 'arm64' else 'x86_64'}-apple-darwin"
        case _:
            platform = None
    macos = ".".join(map(str, reality.macos[:2]))
    driver = problem.driver_by_kernel or problem.driver_by_smi
    amd = reality.of_vendor("amd") if facts["system"] == "Linux" else None
    backend, override = "auto", None
    if driver:
        override = ("UV_CUDA_DRIVER_VERSION", driver)
    elif amd:
        override = ("UV_AMD_GPU_ARCHITECTURE", str(amd["architecture"]))
    else:
        backend = "xpu" if any(vendor == "8086" for vendor, _ in problem.displays) else "cpu"
    return UvQuestion(platform, macos, reality.python, backend, override, problem.requirement)


def _uv_answer(asked: UvQuestion, environment: Mapping[str, str]) -> Choice:
    if asked.platform is None:
        return None
    if asked.python.endswith("t"):
        return NOT_ASKED  # `--python-version` does not take free-threaded ones
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    variables |= environment
    variables |= {"MACOSX_DEPLOYMENT_TARGET": asked.macos} if asked.macos else {}
    variables |= dict([asked.override]) if asked.override else {}
    done = subprocess.run(
        [
            *(uv.find_uv_bin(), "pip", "compile", "-", "--torch-backend", asked.backend),
            *("--python-platform", asked.platform, "--python-version", asked.python),
            *("--no-config", "--no-header", "--emit-index-annotation", "--no-python-downloads"),
        ],
        input=asked.requirement,
        capture_output=True,
        text=True,
        env=variables,
        check=False,
    )
    if done.returncode != 0 and asked.override and "UV_AMD_GPU_ARCHITECTURE" in done.stderr:
        # A name that uv does not know; its probe would have dropped it, and gone on to none.
        return _uv_answer(replace(asked, backend="cpu", override=None), environment)
    pin = re.search(r"(?m)^torch==([0-9.]+)(?:\+(\S+))?", done.stdout)
    if pin is None and "No solution found" not in done.stderr:
        raise NotAnsweredError(" ".join(done.stderr.split()))
    if pin is None:
        return None
    where = re.search(r"whl/(\S+)", done.stdout)
    build = pin[2] or (where[1] if where else "cpu")
    return ("mps" if asked.platform == "aarch64-apple-darwin" else build, pin[1])
