"""Machines as people report them, each with several requirements, judged by the benchmark's rule.

That rule is written from the sources and shares neither code nor data with the selection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from benchmarks.accuracy.works import Reality, judge

from moondream_station.core.facts.capabilities import Capabilities, Gpu
from support.snapshots import amd, linux, nvidia, plan, windows


@dataclass(frozen=True)
class Report:
    """A machine out of a report, and what is asked for there, beside torch at all.

    Args:
        source: Where it was reported.
        machine: What its probes see.
        python: Its Python.
        requirements: Further requirements.
    """

    source: str
    machine: Capabilities
    python: str
    requirements: tuple[str, ...]


def on(libc: str, *gpus: Gpu, **facts: Any) -> Capabilities:
    """A Linux machine with that glibc."""
    return linux(*gpus, libc=("glibc", libc), **facts)


A40 = nvidia("8.6", "NVIDIA A40")
V100 = nvidia("7.0", "Tesla V100-PCIE-16GB")
TITAN_RTX = nvidia("7.5", "TITAN RTX")
SPARK = nvidia("12.1", "NVIDIA GB10")

REPORTS = [
    Report(
        "pytorch/pytorch#135508",
        on("2.35", A40, replace(A40, index=1), driver="550.107.02", cuda="12.4"),
        "3.10.14",
        ("torch==2.4.1", "torch>=2.11"),
    ),
    Report(
        "pytorch/pytorch#51858",
        windows(nvidia("6.1", "NVIDIA GeForce GTX 1050 Ti"), driver="535.98", cuda="12.2"),
        "3.9.16",
        ("torch==2.0.1", "torch>=2.7"),
    ),
    Report(
        "vllm-project/vllm#9293",
        on("2.35", nvidia("8.9", "NVIDIA GeForce RTX 4070 Laptop GPU"), driver="551.88", surroundings="wsl2"),
        "3.12.3",
        ("torch==2.4.0", "torch>=2.10,<2.13"),
    ),
    Report(
        "pytorch/pytorch#43058",
        on("2.17", V100, replace(V100, index=1), driver="418.67", cuda="10.1"),
        "3.8.19",
        ("torch==2.4.1", "torch<2.1"),
    ),
    Report(
        "NVIDIA/nvidia-docker#1256",
        on("2.31", nvidia("7.5", "Tesla T4"), driver="440.33.01", cuda="10.2"),
        "3.10.4",
        ("torch<2.7", "torch==2.13.0"),
    ),
    Report(
        "pytorch/pytorch#40682",
        windows(TITAN_RTX, replace(TITAN_RTX, index=1), driver="442.92", cuda="10.2"),
        "3.11.9",
        ("torch<2.7", "torch>=2.14"),
    ),
    Report(
        "pytorch/pytorch#51840",
        on("2.31", nvidia("7.5", "GeForce RTX 2070"), driver="450.102.04", cuda="11.0"),
        "3.9.18",
        ("torch==2.7.1", "torch>=2.8"),
    ),
    Report(
        "hvoss-tech/AutoForge#59",
        on("2.39", nvidia("6.1", "NVIDIA GeForce GTX 1060 6GB"), driver="580.95.05", cuda="13.0"),
        "3.12.3",
        ("torch==2.14.0", "torch==2.11.0"),
    ),
    Report(
        "Comfy-Org/ComfyUI#16438, V100",
        on("2.39", V100, driver="580.95.05", cuda="13.0"),
        "3.13.5",
        ("torch>=2.9,<2.10", "torch==2.10.0"),
    ),
    Report(
        "Comfy-Org/ComfyUI#16438, Titan Xp",
        windows(nvidia("6.1", "NVIDIA TITAN Xp"), driver="580.97", cuda="13.0"),
        "3.13.5",
        ("torch==2.9.1", "torch<2.14"),
    ),
    Report(
        "Blizaine/Maestro#55",
        on("2.39", SPARK, driver="580.159.03", cuda="13.0", machine="aarch64"),
        "3.12.3",
        ("torch==2.9.1", "torch<2.12"),
    ),
    Report(
        "hanyeol/model-compose#24",
        on("2.39", SPARK, driver="580.95.05", cuda="13.0", machine="aarch64"),
        "3.11.13",
        ("torch==2.10.0", "torch<2.8"),
    ),
    Report(
        "OpenRAL/openral#167",
        on(
            "2.39",
            nvidia("11.0", "NVIDIA Thor"),
            driver="580.00",
            cuda="13.0",
            machine="aarch64",
            surroundings="jetson",
        ),
        "3.12.3",
        ("torch==2.9.1", "torch==2.11.0"),
    ),
    Report(
        "ROCm/TheRock#5543",
        windows(
            replace(amd("gfx1036", "AMD Radeon(TM) Graphics"), integrated=True),
            amd("gfx1100", "AMD Radeon RX 7900 XT", index=1),
        ),
        "3.12.10",
        ("torch==2.10.0", "torch==2.9.1"),
    ),
    Report(
        "ROCm/TheRock#7839",
        windows(amd("gfx1151", "AMD Radeon(TM) 8060S Graphics", integrated=True)),
        "3.13.5",
        ("torch==2.13.0", "torch==2.14.1"),
    ),
    Report(
        "ROCm/TheRock#7081",
        on("2.39", amd("gfx90a", "AMD Instinct MI210")),
        "3.12.3",
        ("torch==2.11.0", "torch==2.12.0"),
    ),
    Report(
        "ROCm/TheRock#6869",
        windows(amd("gfx1150", "AMD Radeon 890M", integrated=True)),
        "3.14.0",
        ("torch<2.13", "torch<2.10"),
    ),
    Report(
        "ROCm/TheRock#1940",
        on("2.41", amd("gfx1150", "AMD Radeon 890M", integrated=True)),
        "3.13.5",
        ("torch==2.10.0", "torch==2.12.0"),
    ),
    Report(
        "ggml-org/llama.cpp#26127",
        windows(amd("gfx1152", "AMD Radeon(TM) 860M Graphics", integrated=True)),
        "3.12.10",
        ("torch>=2.12,<2.14", "torch==2.8.0"),
    ),
    Report(
        "mudler/LocalAI#10997",
        on("2.39", amd("gfx1151", "AMD Radeon 8060S", integrated=True)),
        "3.12.3",
        ("torch==2.10.0", "torch==2.9.1"),
    ),
    Report(
        "Nerogar/OneTrainer#1381",
        windows(amd("gfx1200", "AMD Radeon RX 9060 XT")),
        "3.12.10",
        ("torch==2.9.1", "torch>=2.9,<2.12"),
    ),
    Report(
        "ROCm/Tensile#1907",
        on("2.40", amd("gfx1036", "AMD Radeon Graphics", integrated=True)),
        "3.11.7",
        ("torch==2.12.0", "torch>=2.5,<2.9"),
    ),
    Report(
        "ROCm/legacy-rocm-build#5069",
        on("2.39", amd("gfx1200", "AMD Radeon RX 9060 XT"), amd("gfx1032", "AMD Radeon RX 6600", index=1)),
        "3.12.3",
        ("torch==2.13.0", "torch==2.8.0"),
    ),
    Report(
        "ROCm/legacy-rocm-build#5696",
        on(
            "2.42",
            amd("gfx1201", "AMD Radeon AI PRO R9700"),
            amd("gfx1151", "Radeon 8060S Graphics", index=1, integrated=True),
        ),
        "3.14.0",
        ("torch==2.12.0", "torch==2.9.1"),
    ),
    Report(
        "ROCm/legacy-rocm-build#3065",
        on("2.31", amd("gfx906", "AMD Radeon VII")),
        "3.10.4",
        ("torch<2.9", "torch==2.10.0"),
    ),
    Report(
        "ROCm/legacy-rocm-build#891",
        on("2.39", amd("gfx701", "AMD Radeon R9 390")),
        "3.12.3",
        ("torch<2.9", "torch==2.13.0"),
    ),
]
CASES = [(report, requirement) for report in REPORTS for requirement in ("torch", *report.requirements)]


def reality_of(report: Report) -> Reality:
    """The machine as the rule sees it."""
    machine = report.machine
    is_windows = machine.system == "Windows"
    gpus: list[dict[str, Any]] = [
        {"vendor": gpu.vendor, "architecture": gpu.architecture} for gpu in machine.gpus
    ]
    return Reality(
        platform="windows_amd64" if is_windows else f"linux_{machine.machine}",
        python=".".join(report.python.split(".")[:2]),
        glibc=tuple(map(int, machine.libc[1].split("."))) if machine.libc[1] else (),
        macos=(),
        driver=machine.nvidia_driver,
        has_windows_driver=is_windows or machine.surroundings == "wsl2",
        gpus=tuple(gpus),
        is_translated=False,
    )


@pytest.mark.parametrize(("report", "requirement"), CASES, ids=lambda it: getattr(it, "source", it))
def test_a_reported_machine_gets_what_works_there(report: Report, requirement: str) -> None:
    """And the newest of it, where no second GPU asks for another build."""
    selection = plan(report.machine, requirement, python=report.python).selection
    choice = (selection.build, selection.torch) if selection.build and selection.torch else None
    judgement = judge(choice, reality_of(report), requirement)
    assert judgement.works, (judgement.why, selection.reason)
    discrete = {gpu.architecture for gpu in report.machine.gpus if not gpu.integrated}
    if len(discrete) < 2:
        assert judgement.is_newest, (choice, selection.reason)


def test_there_are_more_than_sixty() -> None:
    """Each of them another question."""
    assert len({(report.source, requirement) for report, requirement in CASES}) > 60
