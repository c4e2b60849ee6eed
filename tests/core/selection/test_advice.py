"""What would change a choice that leaves a GPU idle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moondream_station.core.facts.capabilities import Capabilities, Outcome, ProbeReport
from support.snapshots import amd, intel, linux, nvidia, plan, wheel, windows

RTX_4090 = nvidia("8.9", "RTX 4090")
RTX_5090 = nvidia("12.0", "RTX 5090")


@pytest.mark.parametrize(
    ("machine", "requirement", "python", "words"),
    [
        (
            linux(RTX_4090, driver="440.33"),
            "torch",
            "3.12.3",
            "driver 450.80.02 or newer allows cu118 with torch 2.7.1",
        ),
        (
            linux(RTX_4090, driver="470.82.01"),
            "torch>=2.8",
            "3.12.3",
            "driver 525.60.13 or newer allows cu126 with torch 2.14.1",
        ),
        (
            linux(RTX_4090, driver="470.82.01"),
            "torch>=2.8",
            "3.12.3",
            "cu118 with torch 2.7.1 can use it, but torch>=2.8 does not allow that torch",
        ),
        (
            linux(RTX_5090, driver="550.54.14"),
            "torch",
            "3.12.3",
            "driver 570.26 or newer allows cu129 with torch 2.13.0",
        ),
        (
            windows(RTX_5090, driver="551.61"),
            "torch",
            "3.12.3",
            "driver 570.65 or newer allows cu128 with torch 2.11.0",
        ),
        (
            linux(nvidia("6.1", "GTX 1080"), driver="440.33"),
            "torch>=2.8",
            "3.12.3",
            "driver 525.60.13 or newer, 580 at most, allows cu126 with torch 2.14.1",
        ),
        (
            linux(nvidia("3.5", "GT 730")),
            "torch",
            "3.12.3",
            "no working NVIDIA driver; cu132 has no code for compute capability 3.5 (GT 730), and no other",
        ),
        (
            linux(RTX_4090, driver="440.33", surroundings="wsl2"),
            "torch>=2.8",
            "3.12.3",
            "driver 528.33 or newer on Windows allows cu126",
        ),
        (linux(RTX_4090), "torch>=2.11", "3.12.3", "driver 525.60.13 or newer allows cu126"),
        (linux(RTX_4090, driver="470.82.01"), "torch", "3.14.0", "has wheels for Python 3.9 to 3.13"),
        (
            linux(nvidia("3.5", "Tesla K40"), driver="470.82.01"),
            "torch",
            "3.12.3",
            "no code for compute capability 3.5",
        ),
        (linux(amd("gfx803", "RX 580")), "torch", "3.12.3", "has no code for gfx803 (RX 580)"),
        (
            linux(amd("gfx1032", "RX 6600")),
            "torch<2.10",
            "3.12.3",
            "HSA_OVERRIDE_GFX_VERSION=10.3.0 lets it run",
        ),
        (
            linux(amd("gfx1151", "Strix Halo")),
            "torch<2.10",
            "3.12.3",
            "rocm7.2 with torch 2.14.1 can use it",
        ),
        (
            linux(nvidia("6.1", "GTX 1080"), nvidia("12.0", "RTX 5090", index=1), driver="580.65.06"),
            "torch<2.6",
            "3.12.3",
            "GTX 1080 alone: hide the others with CUDA_DEVICE_ORDER=PCI_BUS_ID and CUDA_VISIBLE_DEVICES=0.",
        ),
        (
            windows(amd("gfx1100", "RX 7900 XTX")),
            "torch<2.10",
            "3.12.3",
            "rocm10.1.0 with torch 2.14.0 can use it, but torch<2.10 does not allow that torch.",
        ),
        (
            linux(RTX_4090, driver="440.33"),
            "torch",
            "3.12.3",
            "cu118 with torch 2.7.1, driver 580 or newer cu132 with torch 2.15.0.",
        ),
        (linux(RTX_4090), "torch", "3.12.3", "it has no working NVIDIA driver; driver 450.80.02 or newer"),
        (
            windows(RTX_4090, driver="581.57"),
            "torch>=2.15",
            "3.12.3",
            "cu132 with torch 2.15.0 can use it, if that wheel exists",
        ),
        (
            linux(nvidia("9.0", "GH200"), driver="550.90.07", machine="aarch64"),
            "torch==2.9.1 torchvision==0.20.1",
            "3.12.3",
            "cu129 with torch 2.9.1 can use it, without torchvision",
        ),
        (
            linux(amd("gfx1100", "RX 7900 XTX"), variables={"HIP_VISIBLE_DEVICES": "-1"}),
            "torch",
            "3.12.3",
            "RX 7900 XTX will not be used: HIP_VISIBLE_DEVICES='-1' hides every AMD GPU",
        ),
        (
            linux(nvidia("8.7", "Orin"), driver="540.4.0", machine="aarch64", surroundings="jetson"),
            "torch",
            "3.12.3",
            "NVIDIA publishes its own wheels for it",
        ),
        (
            linux(nvidia(None, "NVIDIA Jetson"), machine="aarch64", surroundings="jetson"),
            "torch",
            "3.8.10",
            "it has no working NVIDIA driver. On a Jetson the driver comes with JetPack",
        ),
        (
            linux(RTX_5090, driver="580.65.06", libc=("glibc", "2.17")),
            "torch",
            "3.11.7",
            "RTX 5090 will not be used: torch 2.15.0 on cu132 needs glibc 2.28 or newer; this system has",
        ),
        (
            linux(RTX_4090, driver="535.183.01", libc=("musl", "1.2.5")),
            "torch",
            "3.12.3",
            "RTX 4090 will not be used: torch 2.14.1 on cu126 needs glibc; this system has musl 1.2.5",
        ),
        (linux(driver="580.65.06"), "torch", "3.12.3", "a container started without its GPU?"),
        (
            linux(RTX_4090, driver="580.65.06", variables={"CUDA_VISIBLE_DEVICES": ""}),
            "torch",
            "3.12.3",
            "CUDA_VISIBLE_DEVICES='' hides",
        ),
    ],
)
def test_an_idle_gpu_is_named_with_what_would_change_it(
    machine: Capabilities, requirement: str, python: str, words: str
) -> None:
    """A newer driver, an older torch, another Python, or that nothing would."""
    selection = plan(machine, *requirement.split(), python=python).selection
    assert selection.build in {"cpu", None}
    assert any(words in warning for warning in selection.warnings), selection.warnings


@pytest.mark.parametrize(
    "machine",
    [
        linux(),
        linux(nvcc="13.0"),
        windows(),
        linux(intel("0x3e92", "UHD 630")),
        linux(RTX_4090, driver="580.65.06"),
        linux(RTX_4090, amd("gfx803"), intel("0x3e92"), driver="580.65.06"),
        linux(RTX_4090, amd("gfx1151", integrated=True), driver="580.65.06"),
        linux(amd("gfx1100")),
    ],
)
def test_there_is_nothing_to_advise_where_the_best_gpu_is_used_or_none_is_there(
    machine: Capabilities,
) -> None:
    """An unsupported integrated GPU is none."""
    assert plan(machine).selection.warnings == ()


def test_a_real_wheel_for_a_newer_c_library_is_named_for_that() -> None:
    """Not for its Python, which is the right one."""
    offers = [
        wheel("torch-2.14.1+cu126-cp312-cp312-manylinux_2_28_x86_64.whl"),
        wheel("torch-2.6.0+cpu-cp312-cp312-linux_x86_64.whl"),
    ]
    machine = linux(RTX_4090, driver="535.183.01", libc=("glibc", "2.17"))
    selection = plan(machine, offers=offers).selection
    assert selection.build == "cpu"
    assert selection.warnings[0] == (
        "RTX 4090 will not be used: torch 2.14.1 on cu126 needs glibc 2.28 or newer; this system has 2.17."
    )


def test_a_better_gpu_that_is_idle_beside_intels_is_named() -> None:
    """Its driver is too old for any build."""
    selection = plan(linux(RTX_4090, intel("0x56a0"), driver="390.46")).selection
    assert selection.build == "xpu"
    assert selection.warnings[0].startswith("RTX 4090 will not be used: driver 450.80.02 or newer")


def test_a_gpu_of_another_maker_is_named_with_the_strategy_that_takes_it() -> None:
    """One build computes on the GPUs of one maker; integrated ones are not worth a word."""
    machine = linux(RTX_4090, amd("gfx1100", "RX 7900 XTX"), intel("0x56a0", "Arc A770"), driver="580.65.06")
    assert plan(machine).selection.warnings == (
        "RX 7900 XTX is left out: cu132 can't use it; strategy rocm7.2 can.",
        "Arc A770 is left out: cu132 can't use it; strategy xpu can.",
    )


def test_a_gpu_that_the_guide_gives_up_is_named_with_the_strategy_that_takes_it() -> None:
    """The guide's table knows neither CUDA below 11.8 nor AMD."""
    for machine, build in (
        (linux(nvidia("7.5", "Tesla T4"), driver="470.82.01", cuda="11.4"), "cu118 can use it"),
        (linux(amd("gfx1100")), "rocm7.2 can use it"),
    ):
        selection = plan(machine, strategy="guide").selection
        assert selection.build == "cpu"
        assert any(build in warning for warning in selection.warnings), selection.warnings


def test_what_could_not_be_found_out_is_not_called_absent() -> None:
    """A probe that failed leaves it open if there is a GPU."""
    failed = ProbeReport(probe="nvidia_smi", outcome=Outcome.FAILED, seconds=0.1, detail="it said nothing")
    selection = plan(linux(probes=(failed,))).selection
    assert selection.reason.startswith("Whether there is a GPU could not be detected")
    assert selection.warnings == (
        "Whether there is an NVIDIA driver could not be detected (it said nothing).",
    )


def test_nor_on_windows_which_lists_its_gpus_itself() -> None:
    """Of every maker, without a tool of theirs."""
    failed = ProbeReport(probe="windows_gpus", outcome=Outcome.TIMED_OUT, seconds=15.0, detail="no answer")
    selection = plan(replace(windows(), probes=(failed,))).selection
    assert selection.reason.startswith("Whether there is a GPU could not be detected")
    assert selection.warnings == (
        "Whether there is an NVIDIA driver could not be detected (no answer).",
        "Whether there is an AMD GPU could not be detected (no answer).",
        "Whether there is an Intel GPU could not be detected (no answer).",
    )


def test_what_detection_noted_is_a_warning_of_the_plan() -> None:
    """A driver that is out of step has a remedy that no choice of a build replaces."""
    note = "The NVIDIA driver and its library are out of step: restart the computer."
    machine = replace(linux(RTX_4090, driver="580.65.06"), notes=(note,))
    assert plan(machine).selection.warnings == (note,)
