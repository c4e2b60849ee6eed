"""What would change a choice that leaves a GPU idle."""

from __future__ import annotations

import pytest

from moondream_station.core.capabilities.snapshot import Capabilities
from support.snapshots import amd, intel, linux, nvidia, plan, windows

RTX_4090 = nvidia("8.9", "RTX 4090")
RTX_5090 = nvidia("12.0", "RTX 5090")


@pytest.mark.parametrize(
    ("machine", "requirement", "python", "words"),
    [
        (
            linux(RTX_4090, driver="440.33"),
            "torch",
            "3.12.3",
            "driver 450.80.02 or newer makes cu118 with torch 2.7.1",
        ),
        (
            linux(RTX_4090, driver="470.82.01"),
            "torch>=2.8",
            "3.12.3",
            "driver 525.60.13 or newer makes cu126 with torch 2.14.1",
        ),
        (
            linux(RTX_4090, driver="470.82.01"),
            "torch>=2.8",
            "3.12.3",
            "cu118 with torch 2.7.1 would run on it, which torch>=2.8 does not allow",
        ),
        (
            linux(RTX_5090, driver="550.54.14"),
            "torch",
            "3.12.3",
            "driver 570.26 or newer makes cu129 with torch 2.13.0",
        ),
        (
            windows(RTX_5090, driver="551.61"),
            "torch",
            "3.12.3",
            "driver 570.65 or newer makes cu128 with torch 2.11.0",
        ),
        (linux(RTX_4090), "torch>=2.11", "3.12.3", "driver 525.60.13 or newer makes cu126"),
        (linux(RTX_4090, driver="470.82.01"), "torch", "3.14.0", "has wheels for Python 3.9 to 3.13"),
        (
            linux(nvidia("3.5", "Tesla K40"), driver="470.82.01"),
            "torch",
            "3.12.3",
            "no code for compute capability 3.5",
        ),
        (linux(amd("gfx1032", "RX 6600")), "torch", "3.12.3", "rocm7.2 has no code for gfx1032 (RX 6600)"),
        (
            linux(amd("gfx1151", "Strix Halo")),
            "torch<2.11",
            "3.12.3",
            "rocm7.2 with torch 2.14.1 would run on it",
        ),
        (
            linux(nvidia("6.1", "GTX 1080"), nvidia("12.0", "RTX 5090", index=1), driver="580.65.06"),
            "torch<2.6",
            "3.12.3",
            "cu124 with torch 2.5.1 would run on GTX 1080 alone, once CUDA_VISIBLE_DEVICES hides the others",
        ),
        (windows(amd("gfx1100", "RX 7900 XTX")), "torch", "3.12.3", "no build for it on this platform"),
        (
            linux(nvidia("8.7", "Orin"), driver="540.4.0", machine="aarch64", surroundings="jetson"),
            "torch",
            "3.12.3",
            "NVIDIA makes wheels of its own for Jetson",
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
    selection = plan(machine, requirement, python=python).selection
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
        linux(RTX_4090, amd("gfx1032"), intel("0x56a0"), driver="580.65.06"),
        linux(amd("gfx1100")),
    ],
)
def test_there_is_nothing_to_advise_where_the_best_gpu_is_used_or_none_is_there(
    machine: Capabilities,
) -> None:
    """An unsupported integrated GPU is none."""
    assert plan(machine).selection.warnings == ()


def test_a_better_gpu_that_is_idle_beside_intels_is_named() -> None:
    """Its driver is too old for any build."""
    selection = plan(linux(RTX_4090, intel("0x56a0"), driver="390.46")).selection
    assert selection.build == "xpu"
    assert selection.warnings[0].startswith("RTX 4090 will not be used: driver 450.80.02 or newer")
