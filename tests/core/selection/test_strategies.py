"""`guide` and named builds."""

from __future__ import annotations

import pytest

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.selection import Verdict
from moondream_station.core.selection.select import cuda_of_driver, guide_build
from support.snapshots import amd, chosen, intel, linux, macos, nvidia, plan, windows

RTX_4090 = nvidia("8.9", "RTX 4090")
RTX_5090 = nvidia("12.0", "RTX 5090")
GTX_1080 = nvidia("6.1", "GTX 1080")


@pytest.mark.parametrize(
    ("cuda", "expected"),
    [
        ("13.3", "cu124"),
        ("13.0", "cu124"),
        ("12.9", "cu124"),
        ("12.4", "cu124"),
        ("12.3", "cu121"),
        ("12.0", "cu121"),
        ("11.8", "cu118"),
        ("11.7", "cpu"),
        ("10.2", "cpu"),
    ],
)
def test_the_guides_table_is_kept_to_the_letter(cuda: str, expected: str) -> None:
    """By the CUDA that the driver supports."""
    assert guide_build(linux(RTX_4090, driver="535.54.03", cuda=cuda), load_catalog()) == expected


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (linux(), "cpu"),
        (linux(nvcc="12.4"), "cpu"),
        (linux(driver="580.65.06", cuda="13.0"), "cpu"),
        (linux(amd("gfx1100")), "cpu"),
        (linux(intel("0x56a0")), "cpu"),
        (windows(), "cpu"),
        (macos("15.1"), "mps"),
        (macos("15.1", machine="x86_64"), "cpu"),
        (macos("12.7", machine="x86_64", silicon=False), "cpu"),
    ],
)
def test_the_guide_knows_nvidia_and_apple_only(machine: Capabilities, expected: str) -> None:
    """Everything else is the processor's build."""
    assert guide_build(machine, load_catalog()) == expected


def test_without_a_header_the_drivers_branch_tells_its_cuda() -> None:
    """NVIDIA's table of driver versions."""
    assert cuda_of_driver(linux(RTX_4090, driver="550.54.14"), load_catalog()) == "12.4"
    assert cuda_of_driver(linux(RTX_4090, driver="390.46"), load_catalog()) is None
    assert cuda_of_driver(linux(), load_catalog()) is None


def test_the_guides_build_is_taken_where_it_is_possible() -> None:
    """With the newest torch that it has."""
    result = plan(linux(RTX_4090, driver="550.54.14", cuda="12.4"), strategy="guide")
    assert chosen(result) == ("cu124", "2.6.0")
    assert "recommends cu124" in result.selection.reason


@pytest.mark.parametrize(
    ("machine", "requirement", "expected"),
    [
        # the next higher CUDA of the same major: cu124 has no torch 2.7
        (linux(RTX_4090, driver="580.65.06", cuda="13.0"), "torch>=2.7.0", ("cu126", "2.14.1")),
        (linux(RTX_4090, driver="525.60.13", cuda="12.0"), "torch>=2.7.0", ("cu126", "2.14.1")),
        (linux(RTX_4090, driver="525.60.13", cuda="12.0"), "torch>=2.4", ("cu121", "2.5.1")),
        # cu126 has no code for Blackwell
        (linux(RTX_5090, driver="580.65.06", cuda="13.0"), "torch>=2.7.0", ("cu128", "2.11.0")),
        # then the next lower one: 2.3 is on cu121 and not on cu124
        (linux(RTX_4090, driver="580.65.06", cuda="13.0"), "torch<2.4", ("cu121", "2.3.1")),
        # then auto's order: of CUDA 12 nothing has torch 2.0
        (linux(RTX_4090, driver="580.65.06", cuda="13.0"), "torch==2.0.1", (None, None)),
        (linux(RTX_4090, driver="580.65.06", cuda="13.0"), "torch>=2.15", ("cu132", "2.15.0")),
        (linux(RTX_4090, driver="522.25", cuda="11.8"), "torch>=2.8", ("cpu", "2.14.1")),
    ],
)
def test_where_the_guides_build_is_not_possible_the_nearest_one_is(
    machine: Capabilities, requirement: str, expected: tuple[str | None, str | None]
) -> None:
    """The next higher CUDA of the same major, the next lower, auto's order; the sentence names both."""
    result = plan(machine, requirement, strategy="guide")
    assert chosen(result) == expected
    if expected[0]:
        assert expected[0] in result.selection.reason
        assert "recommends cu" in result.selection.reason


def test_older_python_lets_the_guide_fall_to_another_major() -> None:
    """There is torch 2.0.1 for Python 3.11 on cu118 and cu117."""
    machine = linux(RTX_4090, driver="580.65.06", cuda="13.0")
    assert chosen(plan(machine, "torch==2.0.1", strategy="guide", python="3.11.7")) == ("cu118", "2.0.1")


@pytest.mark.parametrize(
    ("machine", "strategy", "expected"),
    [
        (linux(), "cu126", ("cu126", "2.14.1")),  # no GPU at all
        (linux(GTX_1080, driver="580.65.06"), "cu130", ("cu130", "2.14.1")),  # no code for it
        (linux(RTX_4090, driver="470.82.01"), "cu130", ("cu130", "2.14.1")),  # too old a driver
        (linux(RTX_4090, driver="580.65.06"), "rocm7.2", ("rocm7.2", "2.14.1")),
        (linux(RTX_4090, driver="580.65.06"), "rocm5.7", ("rocm5.7", "2.3.1")),
        (linux(RTX_4090, driver="580.65.06"), "xpu", ("xpu", "2.14.1")),
        (linux(RTX_4090, driver="580.65.06"), "cpu", ("cpu", "2.14.1")),
        (windows(RTX_4090, driver="580.88"), "cpu", ("cpu", "2.15.0")),
    ],
)
def test_a_named_build_is_taken_whatever_driver_and_gpu_say(
    machine: Capabilities, strategy: str, expected: tuple[str, str]
) -> None:
    """And nothing else is tried, which a warning says."""
    result = plan(machine, strategy=strategy)
    assert chosen(result) == expected
    assert [one.build for one in result.order] == [strategy]
    about = result.selection.warnings[0]
    assert about.startswith(f"You chose {strategy}")
    assert f"but {strategy}" not in about
    assert f": {strategy}" not in about
    assert result.selection.strategy == strategy


def test_a_named_build_that_nobody_has_seen_is_not_named_as_the_remedy() -> None:
    """It was named already."""
    machine = linux(RTX_4090, driver="580.65.06")
    about = plan(machine, "torch>=2.15", strategy="cu130").selection.warnings[0]
    assert about == (
        "You chose cu130, but it is not confirmed that torch 2.15.0 exists for Linux on x86-64. "
        "Run the plan on that machine without --offline, which asks the index."
    )


@pytest.mark.parametrize(
    ("machine", "requirement", "strategy", "python", "words"),
    [
        (linux(), "torch", "mps", "3.12.3", "macOS on Apple silicon only"),
        (macos("15.1"), "torch", "cu126", "3.12.3", "has wheels for"),
        (macos("13.6"), "torch>=2.12", "cpu", "3.12.3", "needs macOS 14.0"),
        (macos("15.1", machine="x86_64"), "torch", "cpu", "3.12.3", "Rosetta"),
        (linux(), "torch>=2.7.0", "cu124", "3.12.3", "none of which torch>=2.7.0 allows"),
        (linux(), "torch", "cu118", "3.14.0", "no wheel"),
        (linux(amd("gfx1100")), "torch", "rocm7.14", "3.12.3", "source"),
        (linux(), "torch", "cu134", "3.12.3", "not a known build"),
        (linux(libc=("musl", "1.2.5")), "torch", "cpu", "3.12.3", "glibc"),
    ],
)
def test_a_named_build_never_goes_against_platform_python_or_requirement(
    machine: Capabilities, requirement: str, strategy: str, python: str, words: str
) -> None:
    """Then there is none, and the reason is that build's."""
    result = plan(machine, requirement, strategy=strategy, python=python)
    assert chosen(result) == (None, None)
    assert result.order == ()
    assert words in result.selection.reason


@pytest.mark.parametrize(
    ("machine", "strategy", "words"),
    [
        (linux(RTX_4090, driver="535.183.01"), "mps", "Strategy auto would use cu126 with torch 2.14.1."),
        (linux(libc=("musl", "1.2.5")), "cpu", "use a distribution with glibc 2.28 or newer"),
    ],
)
def test_where_a_named_build_can_not_be_had_the_reason_says_what_to_do(
    machine: Capabilities, strategy: str, words: str
) -> None:
    """Another strategy where that finds a build; else what would change the machine."""
    assert words in plan(machine, strategy=strategy).selection.reason


@pytest.mark.parametrize(
    ("machine", "strategy"),
    [
        (linux(RTX_4090, driver="535.183.01"), "cu132"),  # too old a driver
        (linux(RTX_4090, driver="535.183.01"), "rocm7.2"),  # no such GPU
        (linux(RTX_4090, driver="535.183.01"), "cpu"),  # and there is a GPU
        (linux(RTX_4090, driver="550.54.14", cuda="12.4"), "guide"),
        (linux(RTX_4090, driver="535.183.01"), "auto"),
    ],
)
def test_the_chosen_builds_own_reason_is_the_choices(machine: Capabilities, strategy: str) -> None:
    """That its GPU can run it, or that there is none, may not be true of a build that was named."""
    selection = plan(machine, strategy=strategy).selection
    assert selection.candidates[0].verdict is Verdict.CHOSEN
    assert selection.candidates[0].reason == selection.reason


def test_a_named_build_says_what_would_be_taken_instead() -> None:
    """So that a name from last year is noticed."""
    selection = plan(linux(RTX_4090, driver="580.65.06"), strategy="cu118").selection
    assert "strategy auto would use cu132 with torch 2.15.0" in selection.warnings[0]


def test_a_named_build_still_takes_a_torch_that_the_gpu_can_run() -> None:
    """cu128 has code for Volta in 2.8.0 to 2.10.0 only."""
    machine = linux(nvidia("7.0", "Tesla V100"), driver="580.65.06")
    assert chosen(plan(machine, strategy="cu128")) == ("cu128", "2.10.0")
    assert chosen(plan(machine, "torch==2.11.0", strategy="cu128")) == ("cu128", "2.11.0")


def test_the_processor_can_be_named_on_apple_silicon() -> None:
    """It is the ordinary wheel, which computes there too, and what `mps` falls back to."""
    result = plan(macos("15.1"), strategy="cpu")
    assert chosen(result) == ("cpu", "2.15.0")
    assert "strategy auto would use mps with torch 2.15.0" in result.selection.warnings[0]
    assert result.selection.command == ("python", "-m", "pip", "install", "torch")
    assert [one.build for one in plan(macos("15.1")).order] == ["mps", "cpu"]
