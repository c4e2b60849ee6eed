"""The build that each kind of machine gets, and what is said of it.

Sources: the tables of drivers, architectures and releases in catalog.toml; the machines are invented.
"""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.selection import Verdict
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import select
from support.snapshots import (
    amd,
    chosen,
    intel,
    linux,
    macos,
    nvidia,
    plan,
    reason_for,
    wheel,
    windows,
)

GTX_1080 = nvidia("6.1", "GTX 1080")
V100 = nvidia("7.0", "Tesla V100")
RTX_3090 = nvidia("8.6", "RTX 3090", index=1)
RTX_4090 = nvidia("8.9", "RTX 4090")
RTX_5090 = nvidia("12.0", "RTX 5090")
H100 = nvidia("9.0", "H100")
ORIN = nvidia("8.7", "Orin")
THOR = nvidia("11.0", "NVIDIA Thor")

MACHINES: tuple[tuple[str, Capabilities, str, str, tuple[str | None, str | None]], ...] = (
    ("newest driver and card", linux(RTX_5090, driver="580.65.06"), "torch", "3.12.3", ("cu132", "2.15.0")),
    (
        "Python 3.10 is too old for 2.15",
        linux(RTX_5090, driver="580.65.06"),
        "torch",
        "3.10.1",
        ("cu132", "2.14.1"),
    ),
    ("driver 570", linux(RTX_5090, driver="570.124.06"), "torch", "3.12.3", ("cu129", "2.13.0")),
    ("driver 570 on Windows", windows(RTX_5090, driver="572.61"), "torch", "3.12.3", ("cu128", "2.11.0")),
    (
        "Blackwell under an old driver",
        linux(RTX_5090, driver="550.54.14"),
        "torch",
        "3.12.3",
        ("cpu", "2.14.1"),
    ),
    ("Ada under driver 535", linux(RTX_4090, driver="535.183.01"), "torch", "3.12.3", ("cu126", "2.14.1")),
    (
        "Pascal under a new driver",
        linux(GTX_1080, driver="580.65.06"),
        "torch",
        "3.12.3",
        ("cu126", "2.14.1"),
    ),
    ("Pascal on Windows", windows(GTX_1080, driver="580.88"), "torch", "3.12.3", ("cu126", "2.14.1")),
    ("Volta", linux(V100, driver="580.65.06"), "torch", "3.12.3", ("cu126", "2.14.1")),
    ("driver 470", linux(RTX_3090, driver="470.82.01"), "torch", "3.12.3", ("cu118", "2.7.1")),
    ("driver 470, torch 2.8", linux(RTX_3090, driver="470.82.01"), "torch>=2.8", "3.12.3", ("cpu", "2.14.1")),
    ("driver 440", linux(RTX_3090, driver="440.33"), "torch", "3.12.3", ("cpu", "2.14.1")),
    (
        "a bounded requirement",
        linux(RTX_4090, driver="580.65.06"),
        "torch>=2.4,<2.6",
        "3.12.3",
        ("cu124", "2.5.1"),
    ),
    (
        "Blackwell, a requirement from before it",
        linux(RTX_5090, driver="580.65.06"),
        "torch<2.7",
        "3.12.3",
        ("cpu", "2.6.0"),
    ),
    (
        "two cards that one build serves",
        linux(GTX_1080, RTX_3090, driver="580.65.06"),
        "torch",
        "3.12.3",
        ("cu126", "2.14.1"),
    ),
    (
        "two cards that no build serves",
        linux(GTX_1080, nvidia("12.0", "RTX 5090", index=1), driver="580.65.06"),
        "torch",
        "3.12.3",
        ("cu132", "2.15.0"),
    ),
    (
        "WSL2 has Windows' driver",
        linux(RTX_4090, driver="527.37", surroundings="wsl2"),
        "torch",
        "3.12.3",
        ("cu118", "2.7.1"),
    ),
    (
        "Grace Hopper",
        linux(H100, driver="550.54.14", machine="aarch64"),
        "torch",
        "3.12.3",
        ("cu126", "2.14.1"),
    ),
    (
        "Grace Hopper, new driver",
        linux(H100, driver="580.65.06", machine="aarch64"),
        "torch",
        "3.12.3",
        ("cu132", "2.15.0"),
    ),
    (
        "GB10",
        linux(nvidia("12.1", "GB10"), driver="580.95.05", machine="aarch64"),
        "torch",
        "3.12.3",
        ("cu132", "2.15.0"),
    ),
    (
        "Jetson Thor",
        linux(THOR, driver="580.00", machine="aarch64", surroundings="jetson"),
        "torch",
        "3.12.3",
        ("cu132", "2.15.0"),
    ),
    (
        "Jetson Thor, older torch",
        linux(THOR, driver="580.00", machine="aarch64", surroundings="jetson"),
        "torch<2.12",
        "3.12.3",
        ("cu130", "2.11.0"),
    ),
    (
        "Jetson Orin, JetPack 6",
        linux(ORIN, driver="540.4.0", machine="aarch64", surroundings="jetson"),
        "torch",
        "3.12.3",
        ("cpu", "2.14.1"),
    ),
    (
        "Jetson Orin, JetPack 7",
        linux(ORIN, driver="580.00", machine="aarch64", surroundings="jetson"),
        "torch",
        "3.12.3",
        ("cu132", "2.15.0"),
    ),
    ("no GPU", linux(), "torch", "3.12.3", ("cpu", "2.14.1")),
    ("no GPU, nvcc", linux(nvcc="13.0"), "torch", "3.12.3", ("cpu", "2.14.1")),
    ("no GPU on Windows", windows(), "torch", "3.12.3", ("cpu", "2.15.0")),
    ("a driver without a GPU", linux(driver="580.65.06"), "torch", "3.12.3", ("cpu", "2.14.1")),
    ("RX 7900", linux(amd("gfx1100", "RX 7900 XTX")), "torch", "3.12.3", ("rocm7.2", "2.14.1")),
    (
        "RX 7900 beside an integrated one",
        linux(amd("gfx1100"), amd("gfx1036", index=1, integrated=True)),
        "torch",
        "3.12.3",
        ("rocm7.2", "2.14.1"),
    ),
    ("Strix Halo alone", linux(amd("gfx1151", integrated=True)), "torch", "3.12.3", ("rocm7.2", "2.14.1")),
    (
        "Strix Halo, older torch",
        linux(amd("gfx1151", integrated=True)),
        "torch<2.11",
        "3.12.3",
        ("rocm7.14.0", "2.10.0"),
    ),
    ("RX 6600", linux(amd("gfx1032", "RX 6600")), "torch", "3.12.3", ("rocm10.1.0", "2.14.0")),
    ("RX 6600, older torch", linux(amd("gfx1032", "RX 6600")), "torch<2.10", "3.12.3", ("cpu", "2.9.1")),
    ("RX 7900, older torch", linux(amd("gfx1100")), "torch==2.5.1", "3.12.3", ("rocm6.2", "2.5.1")),
    ("RX 7900 under Windows", windows(amd("gfx1100")), "torch", "3.12.3", ("rocm10.1.0", "2.14.0")),
    ("RX 580 under Windows", windows(amd("gfx803")), "torch", "3.12.3", ("cpu", "2.15.0")),
    (
        "AMD and NVIDIA",
        linux(RTX_4090, amd("gfx1100"), driver="580.65.06"),
        "torch",
        "3.12.3",
        ("cu132", "2.15.0"),
    ),
    ("Arc", linux(intel("0x56a0")), "torch", "3.12.3", ("xpu", "2.14.1")),
    ("Arc under Windows", windows(intel("0xe20b")), "torch", "3.12.3", ("xpu", "2.14.1")),
    ("UHD", linux(intel("0x3e92", "UHD 630")), "torch", "3.12.3", ("cpu", "2.14.1")),
    (
        "Core Ultra beside NVIDIA",
        linux(RTX_4090, intel("0x7d55"), driver="535.54.03"),
        "torch",
        "3.12.3",
        ("cu126", "2.14.1"),
    ),
    ("macOS 15", macos("15.1"), "torch", "3.12.3", ("mps", "2.15.0")),
    ("macOS 13", macos("13.6"), "torch", "3.12.3", ("mps", "2.11.0")),
    ("Intel Mac", macos("12.7", machine="x86_64", silicon=False), "torch", "3.12.3", ("cpu", "2.2.2")),
    (
        "Intel Mac, new torch",
        macos("12.7", machine="x86_64", silicon=False),
        "torch>=2.7",
        "3.12.3",
        (None, None),
    ),
    ("Rosetta", macos("15.1", machine="x86_64"), "torch", "3.12.3", (None, None)),
    ("Alpine", linux(libc=("musl", "1.2.5")), "torch", "3.12.3", (None, None)),
    ("CentOS 7", linux(libc=("glibc", "2.17")), "torch", "3.12.3", ("cpu", "2.6.0")),
    ("CentOS 7, new torch", linux(libc=("glibc", "2.17")), "torch>=2.7.0", "3.12.3", (None, None)),
    ("Windows on ARM", windows(machine="ARM64"), "torch", "3.12.3", ("cpu", "2.13.0")),
    ("Windows on ARM, Python 3.14", windows(machine="ARM64"), "torch", "3.14.0", (None, None)),
    ("Windows on ARM, first torch", windows(machine="ARM64"), "torch<2.8", "3.12.3", ("cpu", "2.7.0")),
    ("Windows on ARM, older torch", windows(machine="ARM64"), "torch<2.7", "3.12.3", (None, None)),
    ("IBM Z", linux(machine="s390x"), "torch", "3.14.0", ("cpu", "2.13.0")),
    ("IBM Z, older torch", linux(machine="s390x"), "torch<2.12", "3.12.3", (None, None)),
    ("Rosetta, old torch", macos("15.1", machine="x86_64"), "torch<2.3", "3.12.3", ("cpu", "2.2.2")),
    ("Rosetta, newer torch", macos("15.1", machine="x86_64"), "torch<2.4", "3.12.3", (None, None)),
    ("macOS 13, Python 3.14", macos("13.6"), "torch<2.11", "3.14.0", ("mps", "2.9.1")),
    ("macOS 14, Python 3.14", macos("14.5"), "torch<2.11", "3.14.0", ("mps", "2.10.0")),
    ("macOS 13, Python 3.13", macos("13.6"), "torch<2.11", "3.13.0", ("mps", "2.10.0")),
    ("macOS 13, Python 3.13t", macos("13.6"), "torch<2.9", "3.13t", ("mps", "2.7.0")),
    ("macOS 14, Python 3.13t", macos("14.5"), "torch<2.9", "3.13t", ("mps", "2.8.0")),
    ("Python 3.15", linux(RTX_4090, driver="535.183.01"), "torch", "3.15.0", ("cu126", "2.14.1")),
    ("Python 3.14, free-threaded", linux(), "torch", "3.14t", ("cpu", "2.14.1")),
    ("Python 3.13, free-threaded", linux(), "torch", "3.13t", ("cpu", "2.12.0")),
    ("Python 3.14, old torch", linux(), "torch<2.9", "3.14.0", (None, None)),
    ("only 2.15 will do", linux(RTX_4090, driver="535.183.01"), "torch>=2.15", "3.12.3", ("cpu", "2.15.0")),
    ("only 2.15 and no GPU", linux(), "torch>=2.15", "3.12.3", ("cpu", "2.15.0")),
    ("only 2.15 and a V100", linux(V100, driver="580.65.06"), "torch>=2.15", "3.12.3", ("cpu", "2.15.0")),
    (
        "only 2.15 and its driver",
        linux(RTX_4090, driver="580.65.06"),
        "torch>=2.15",
        "3.12.3",
        ("cu132", "2.15.0"),
    ),
    ("only 2.16", linux(), "torch>=2.16", "3.12.3", (None, None)),
)


@pytest.mark.parametrize(
    ("machine", "requirement", "python", "expected"),
    [pytest.param(*rest, id=name) for name, *rest in MACHINES],
)
def test_a_machine_gets_the_newest_torch_that_it_can_run(
    machine: Capabilities, requirement: str, python: str, expected: tuple[str | None, str | None]
) -> None:
    """On its GPU where any build can, on the processor otherwise, and nothing where nothing fits."""
    assert chosen(plan(machine, requirement, python=python)) == expected


def test_every_build_has_a_verdict_and_a_sentence_of_its_own() -> None:
    """The chosen one first, then the possible ones, then the rejected ones."""
    result = plan(linux(GTX_1080, driver="535.183.01"))
    verdicts = [one.verdict for one in result.selection.candidates]
    assert verdicts[0] is Verdict.CHOSEN
    assert verdicts.count(Verdict.CHOSEN) == 1
    assert verdicts == sorted(verdicts, key=[Verdict.CHOSEN, Verdict.POSSIBLE, Verdict.REJECTED].index)
    reasons = [one.reason for one in result.selection.candidates]
    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        ("cu130", "cu130 needs driver 580 or newer; this machine has 535.183.01."),
        ("cu128", "cu128 has no code for compute capability 6.1 (GTX 1080); cu126 has, up to torch 2.14.1."),
        ("cu117", "cu117 has no wheel for Python 3.12; its wheels are for Python 3.8 to 3.11."),
        ("mps", "mps has wheels for macOS on Apple silicon only; this is Linux on x86-64."),
        ("rocm7.2", "rocm7.2 can't be used: no AMD GPU was found."),
        ("xpu", "xpu can't be used: no Intel GPU was found."),
        ("cpu", "cpu is also possible, with torch 2.14.1, without a GPU."),
    ],
)
def test_sentences_say_what_is_needed_and_what_was_found(build: str, sentence: str) -> None:
    """For a GTX 1080 under driver 535."""
    assert reason_for(plan(linux(GTX_1080, driver="535.183.01")), build) == sentence


def test_several_platforms_are_listed_as_people_do() -> None:
    """With one "and"."""
    assert reason_for(plan(macos("15.1")), "cu126") == (
        "cu126 has wheels for Linux on ARM64, Linux on x86-64 and Windows on x86-64 only; this is macOS on "
        "Apple silicon."
    )


def test_a_requirement_that_a_build_never_met_is_named() -> None:
    """With the newest torch that the build has."""
    result = plan(linux(RTX_4090, driver="535.183.01"), "torch>=2.7.0")
    assert reason_for(result, "cu124") == "cu124 has torch 2.4.0 to 2.6.0, none of which torch>=2.7.0 allows."


def test_a_source_build_is_rejected_for_that() -> None:
    """rocm7.14 needs more than wheels."""
    assert "built from source" in reason_for(plan(linux(amd("gfx1100"))), "rocm7.14")


@pytest.mark.parametrize(
    ("machine", "requirement", "python", "words"),
    [
        (macos("15.1", machine="x86_64"), "torch", "3.12.3", "install an arm64 Python"),
        (linux(libc=("musl", "1.2.5")), "torch", "3.12.3", "glibc"),
        (windows(machine="ARM64"), "torch", "3.14.0", "use Python 3.11 to 3.13. An x86-64 Python, which"),
        (windows(machine="ARM64"), "torch<2.7", "3.12.3", "An x86-64 Python, which Windows runs there too"),
        (linux(machine="ppc64le"), "torch", "3.12.3", "and macOS on Intel. Use one of these."),
        (windows(machine="x86"), "torch", "3.12.3", "a 32-bit Python's: run the station with a 64-bit one"),
        (
            macos("14.5", machine="x86_64", silicon=False),
            "torch>=2.7",
            "3.13.0",
            "Allow torch 2.2.2, which cpu has for Python 3.8 to 3.12.",
        ),
        (linux(), "torch<2.9", "3.14.0", "use Python 3.8 to 3.13"),
        (linux(), "torch", "3.16.0", "use Python"),
        (linux(), "torch>=99", "3.12.3", "torch>=99"),
        (
            linux(libc=("glibc", "2.17")),
            "torch>=2.7",
            "3.12.3",
            "machine. torch 2.7.0 on cpu needs glibc 2.28 or newer; this system has 2.17",
        ),
        (macos("13.6"), "torch>=2.12", "3.12.3", "needs macOS 14.0 or newer; this Mac has 13.6"),
    ],
)
def test_where_nothing_fits_the_reason_says_what_would(
    machine: Capabilities, requirement: str, python: str, words: str
) -> None:
    """Another Python, another system, another requirement."""
    selection = plan(machine, requirement, python=python).selection
    assert selection.build is None
    assert words in selection.reason
    assert selection.command == ()


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        # torchaudio 2.11.0 goes with torch up to 2.14.1
        (("torch==2.15.0", "torchaudio==2.11.0"), "Allow torch 2.14.1, which cu130 has."),
        (("torch==2.15.0", "torchaudio>=99"), "Without torchaudio, cu132 with torch 2.15.0 is possible."),
        (("torch>=99", "torchaudio>=99"), "Allow torch 2.15.0, which cu132 has."),
        (
            ("torch", "torchvision==0.1"),
            "torchvision==0.1 on this machine. No build has torchvision==0.1 for any torch from",
        ),
    ],
)
def test_where_a_companion_is_in_the_way_the_reason_says_so(
    requirements: tuple[str, ...], words: str
) -> None:
    """It never says to allow the torch that is asked for."""
    selection = plan(linux(RTX_4090, driver="595.71.05"), *requirements).selection
    assert selection.build is None
    assert words in selection.reason


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        (("torch==2.6", "torch==2.7"), "torch==2.6 and torch==2.7, which contradict each other"),
        (("torch>=2.7,<2.6",), "torch>=2.7,<2.6, which contradicts itself"),
        (("torch", "torchvision<0.21,>=0.22"), "torchvision<0.21,>=0.22, which contradicts itself"),
    ],
)
def test_requirements_that_contradict_each_other_are_named(requirements: tuple[str, ...], words: str) -> None:
    """No machine and no other torch would help."""
    selection = plan(linux(), *requirements).selection
    assert selection.build is None
    assert selection.reason == f"Nothing satisfies {words}. Change or remove what conflicts."


def test_companions_that_are_asked_for_are_part_of_the_choice() -> None:
    """The stable cu132 folder has no torchaudio; 2.11.1, which torch 2.15 takes, is on PyPI."""
    machine = linux(RTX_4090, driver="580.65.06")
    assert chosen(plan(machine, "torch", "torchvision")) == ("cu132", "2.15.0")
    assert chosen(plan(machine, "torch", "torchvision", "torchaudio")) == ("cu132", "2.15.0")
    assert chosen(plan(machine, "torch<2.15", "torchaudio")) == ("cu130", "2.14.1")
    assert chosen(plan(machine, "torch", "torchaudio==2.11.0")) == ("cu130", "2.14.1")


def test_companions_have_pythons_of_their_own() -> None:
    """Torchvision 0.20 and torchaudio 2.5 have no wheel for Python 3.13, for which torch 2.5 has one."""
    machine = linux(RTX_4090, driver="560.35.03")
    assert chosen(plan(machine, "torch==2.5.1", python="3.13.0")) == ("cu124", "2.5.1")
    assert chosen(plan(machine, "torch==2.5.1", "torchaudio", python="3.12.3")) == ("cu124", "2.5.1")
    refused = plan(machine, "torch==2.5.1", "torchvision", python="3.13.0").selection
    assert refused.build is None
    assert any("torchvision for torch 2.5.1 accepts Python <3.13" in one.reason for one in refused.candidates)


def test_a_companions_version_decides_torchs() -> None:
    """Each torchvision belongs to one torch, from its own Requires-Dist."""
    machine = linux(RTX_4090, driver="580.65.06")
    assert chosen(plan(machine, "torchvision==0.24.1")) == ("cu130", "2.9.1")
    assert chosen(plan(machine, "torch", "torchaudio<2.8")) == ("cu128", "2.7.1")


def test_a_companion_without_cuda_operators_leaves_torch_its_gpu() -> None:
    """CUDA on ARM64 has a torchvision for the CPU alone through 0.24 (pytorch/vision#9330): it is told."""
    machine = linux(H100, driver="580.65.06", machine="aarch64")
    assert chosen(plan(machine, "torch==2.9.1")) == ("cu130", "2.9.1")
    result = plan(machine, "torch==2.9.1", "torchvision")
    assert chosen(result) == ("cu130", "2.9.1")
    assert any(
        "torchvision's wheel for cu130 has no CUDA operators" in one for one in result.selection.warnings
    )
    newer = plan(machine, "torch==2.10.0", "torchvision").selection
    assert (newer.build, newer.warnings) == ("cu130", ())


def test_torchvision_does_not_accept_every_python() -> None:
    """0.26 and newer excludes 3.14.1."""
    assert chosen(plan(linux(), "torch", "torchvision", python="3.14.1")) == ("cpu", "2.10.0")
    assert chosen(plan(linux(), "torch", "torchvision", python="3.14.2")) == ("cpu", "2.14.1")


def test_torch_that_nobody_names_may_be_any() -> None:
    """It may come in through another package."""
    assert chosen(plan(linux(RTX_4090, driver="580.65.06"), "accelerate")) == ("cu132", "2.15.0")


def test_requirements_of_another_platform_do_not_count() -> None:
    """A marker that is false there."""
    assert chosen(plan(linux(), "torch<2.5; sys_platform == 'win32'", "torch")) == ("cpu", "2.14.1")


def test_a_local_version_names_its_build() -> None:
    """torch==2.7.0+cu126 is on cu126 alone."""
    assert chosen(plan(linux(RTX_4090, driver="580.65.06"), "torch==2.7.0+cu126")) == ("cu126", "2.7.0")
    assert chosen(plan(linux(), "torch==2.7.0+cu126")) == (None, None)


def test_an_excluded_version_is_excluded_on_every_build() -> None:
    """!=2.14.1 means 2.14.1+cpu too."""
    assert chosen(plan(linux(), "torch!=2.14.1")) == ("cpu", "2.14.0")


def test_cards_that_no_build_serves_together_are_named() -> None:
    """The build is for the one that CUDA numbers first."""
    selection = plan(linux(GTX_1080, nvidia("12.0", "RTX 5090", index=1), driver="580.65.06")).selection
    (warning,) = selection.warnings
    assert warning.startswith("GTX 1080 (6.1) is left out")


def test_several_cards_that_are_left_out_are_named_together() -> None:
    """In one sentence."""
    machine = linux(
        nvidia("3.7", "Tesla K80"),
        nvidia("6.1", "GTX 1080", index=1),
        nvidia("12.0", "RTX 5090", index=2),
        driver="580.65.06",
    )
    assert plan(machine).selection.warnings[0] == (
        "Tesla K80 (3.7) and GTX 1080 (6.1) are left out: no build that is possible here serves all GPUs. "
        "Hide them with CUDA_DEVICE_ORDER=PCI_BUS_ID and CUDA_VISIBLE_DEVICES=2."
    )


def test_a_build_that_serves_all_but_the_first_card_is_not_taken() -> None:
    """A backend computes on the first one, and would fail there."""
    machine = linux(GTX_1080, nvidia("12.0", "RTX 5090", index=1), driver="580.65.06")
    assert chosen(plan(machine, "torch<2.6")) == ("cpu", "2.5.1")


def test_an_unknown_capability_is_left_to_the_driver_with_a_warning() -> None:
    """The build is as if the GPU could run it; verification will tell."""
    selection = plan(linux(nvidia(None, "Mystery"), driver="535.183.01")).selection
    assert (selection.build, selection.torch) == ("cu126", "2.14.1")
    assert "Mystery" in selection.warnings[0]


def test_an_unverified_row_is_chosen_by_name_only() -> None:
    """cu130 for 2.15.0 was never seen."""
    machine = linux(RTX_4090, driver="580.65.06")
    assert chosen(plan(machine, "torch>=2.15")) == ("cu132", "2.15.0")
    by_name = plan(machine, "torch>=2.15", strategy="cu130")
    assert chosen(by_name) == ("cu130", "2.15.0")
    assert any("verified" in warning for warning in by_name.selection.warnings)


OWN = wheel("torch-2.15.0-cp312-cp312-manylinux_2_28_x86_64.whl", source="default")  # PyPI's, of cu132


@pytest.mark.parametrize(
    "machine",
    [
        linux(),
        linux(nvidia("7.0", "Tesla V100"), driver="580.95.05"),
        linux(nvidia("8.0"), driver="550.54.15"),
    ],
    ids=["no GPU", "no code for the GPU", "an older driver"],
)
def test_pypis_own_wheel_computes_on_the_cpu_where_nothing_else_satisfies(machine: Capabilities) -> None:
    """The warning says what is installed; its build is the CPU's, so that it is verified there."""
    result = plan(machine, "torch>=2.15", offers=[OWN])
    assert chosen(result) == ("cpu", "2.15.0")
    assert result.selection.source == "default"
    assert any("PyPI's own (cu132) is used" in warning for warning in result.selection.warnings)


@pytest.mark.parametrize(
    ("offers", "requirement", "expected"),
    [
        ([OWN, wheel("torch-2.15.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl")], "torch>=2.15", "index"),
        ([OWN], "torch==2.15.0+cu132", None),
        ([OWN], "torch<2.15", None),
    ],
    ids=["the CPU's own is there", "its build is asked for by name", "it does not satisfy"],
)
def test_pypis_own_wheel_takes_nothing_elses_place(
    offers: list[Offer], requirement: str, expected: str | None
) -> None:
    """It is the last resort, and no way around a requirement."""
    selection = plan(linux(), requirement, offers=offers).selection
    assert selection.source == expected
    assert not any("PyPI's own" in warning for warning in selection.warnings)


def test_pypis_own_wheel_is_no_answer_to_an_index_that_is_silent_for_now() -> None:
    """It takes gigabytes, unless the CPU was asked for."""
    for strategy, build in (("auto", None), ("guide", None), ("cpu", "cpu"), ("cu130", None)):
        request = BuildRequest(
            capabilities=linux(),
            requirements=parse_requirement_args(["torch>=2.15"]),
            python="3.12.3",
            strategy=strategy,
        )
        assert select(request, [OWN], is_complete=False).selection.build == build


def test_pypis_own_wheel_is_its_own_build_where_the_gpu_runs_it() -> None:
    """The other direction of the bound: driver 580 and Turing."""
    result = plan(linux(nvidia("7.5"), driver="580.95.05"), "torch>=2.15", offers=[OWN])
    assert chosen(result) == ("cu132", "2.15.0")


@pytest.mark.parametrize(("days", "is_said"), [(60, False), (61, True)])
def test_an_old_catalog_says_its_age_where_the_answer_leans_on_it(days: int, *, is_said: bool) -> None:
    """It was reviewed on 2026-11-22; what an index really has is not older for it."""
    today = date(2026, 11, 22) + timedelta(days=days)
    offline = plan(linux(), today=today).selection
    assert any(f"reviewed {days} days ago" in warning for warning in offline.warnings) is is_said
    real = plan(
        linux(), offers=[wheel("torch-2.14.1+cpu-cp312-cp312-manylinux_2_28_x86_64.whl")], today=today
    )
    assert not any("days ago" in warning for warning in real.selection.warnings)
    nothing = plan(linux(), "torch>99", today=today).selection
    assert any("days ago" in warning for warning in nothing.warnings) is is_said


def test_a_wheel_that_is_really_there_is_used_though_nobody_vouches_for_it() -> None:
    """A build tag and a torch that are newer than the catalog: by the driver bound of its CUDA major."""
    found = [wheel("torch-2.16.0+cu134-cp312-cp312-manylinux_2_28_x86_64.whl")]
    selection = plan(linux(RTX_4090, driver="580.65.06"), offers=found).selection
    assert (selection.build, selection.torch) == ("cu134", "2.16.0")
    assert selection.index_url == "https://mirror.example/whl/cu134"
    assert any("not verified" in warning for warning in selection.warnings)
    old = plan(linux(RTX_4090, driver="570.26"), offers=found)
    assert chosen(old) == (None, None)
    assert reason_for(old, "cu134") == "cu134 needs driver 580 or newer; this machine has 570.26."


def test_a_build_of_an_unknown_cuda_major_is_not_used() -> None:
    """Its driver bound can't be told."""
    found = [wheel("torch-3.0.0+cu140-cp312-cp312-manylinux_2_28_x86_64.whl")]
    result = plan(linux(RTX_4090, driver="999.0"), offers=found)
    assert chosen(result) == (None, None)
    assert "CUDA 14.0" in reason_for(result, "cu140")


def test_real_wheels_must_fit_the_python_and_the_platform() -> None:
    """By their tags and by Requires-Python, not by what the catalog says."""
    linux_312 = wheel("torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl")
    linux_311 = wheel("torch-2.14.1+cpu-cp311-cp311-manylinux_2_28_x86_64.whl")
    on_windows = wheel("torch-2.14.1+cpu-cp312-cp312-win_amd64.whl")
    assert chosen(plan(linux(), offers=[linux_312, linux_311, on_windows])) == ("cpu", "2.13.0")
    assert chosen(plan(linux(), offers=[linux_312, linux_311], python="3.11.7")) == ("cpu", "2.14.1")


def test_of_equal_wheels_the_index_comes_first_then_find_links_then_the_users_own() -> None:
    """The torch and the build are the same."""
    name = "torch-2.15.0+cu132-cp312-cp312-manylinux_2_28_x86_64.whl"
    own = wheel("torch-2.15.0-cp312-cp312-manylinux_2_28_x86_64.whl", source="default")
    machine = linux(RTX_4090, driver="580.65.06")
    for offers, source in (
        ([own, wheel(name, source="find-links"), wheel(name)], "index"),
        ([own, wheel(name, source="find-links")], "find-links"),
        ([own], "default"),
    ):
        assert plan(machine, offers=offers).selection.source == source


def test_a_build_that_no_source_has_is_rejected_for_that() -> None:
    """Its own reason, where nothing else speaks against it."""
    found = [wheel("torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl", source="find-links")]
    result = plan(linux(RTX_4090, driver="580.65.06"), offers=found)
    assert chosen(result) == ("cpu", "2.13.0")
    assert "in any index or find-links" in reason_for(result, "cu130")


def test_a_pre_release_that_nobody_asked_for_comes_last() -> None:
    """Also where a build has nothing else."""
    nightly = wheel("torch-2.16.0.dev20261101+cu134-cp312-cp312-manylinux_2_28_x86_64.whl")
    final = wheel("torch-2.14.1+cu130-cp312-cp312-manylinux_2_28_x86_64.whl")
    machine = linux(RTX_4090, driver="580.65.06")
    assert chosen(plan(machine, offers=[nightly, final])) == ("cu130", "2.14.1")
    assert chosen(plan(machine, "torch>=2.16.0.dev0", offers=[nightly, final])) == (
        "cu134",
        "2.16.0.dev20261101",
    )


def test_the_order_holds_every_possible_build_with_all_its_versions() -> None:
    """For lock tries and fall-backs: the processor is last."""
    result = plan(linux(V100, driver="580.65.06"), "torch>=2.7")
    assert [one.build for one in result.order] == ["cu126", "cu129", "cu128", "cu118", "cpu"]
    cu128 = next(one for one in result.order if one.build == "cu128")
    assert (cu128.torch, [offer.torch for offer in cu128.others]) == ("2.10.0", ["2.9.1", "2.9.0", "2.8.0"])


@pytest.mark.parametrize(
    ("gfx", "requirement", "build", "torch"),
    [
        ("gfx906", "torch==2.9.1", "rocm6.3", "2.9.1"),
        ("gfx906", "torch>=2.10", "cpu", "2.14.1"),
        ("gfx900", "torch<2.3", "rocm5.7", "2.2.2"),
        ("gfx908", "torch>=2.10", "rocm7.2", "2.14.1"),
        ("gfx1100", "torch==2.1.0", "rocm5.6", "2.1.0"),
        ("gfx1100", "torch==2.0.1", "cpu", "2.0.1"),
        ("gfx1030", "torch==2.0.1", "rocm5.4.2", "2.0.1"),
        ("gfx942", "torch==2.3.0", "rocm6.0", "2.3.0"),
        ("gfx942", "torch==2.2.2", "cpu", "2.2.2"),
        ("gfx1101", "torch==2.6.0", "rocm6.2.4", "2.6.0"),
        ("gfx1101", "torch==2.5.1", "cpu", "2.5.1"),
        ("gfx1102", "torch==2.7.0", "rocm6.3", "2.7.0"),
        ("gfx1102", "torch==2.6.0", "cpu", "2.6.0"),
        ("gfx1200", "torch==2.7.0", "rocm6.3", "2.7.0"),
        ("gfx1201", "torch==2.6.0", "cpu", "2.6.0"),
    ],
)
def test_amds_gpus_belong_to_a_torch_and_to_what_rocblas_has(
    gfx: str, requirement: str, build: str, torch: str
) -> None:
    """Both directions of every bound: a torch has code for a GPU or not, whichever ROCm it carries."""
    selection = plan(linux(amd(gfx)), requirement, python="3.11.9").selection
    assert (selection.build, selection.torch) == (build, torch)
    if build == "cpu":
        assert any(f"no code for {gfx}" in one.reason for one in selection.candidates)


def test_a_refusal_is_about_what_was_asked_for() -> None:
    """The build that the version names, or the pair that is none; not the CPU's build."""
    new = linux(nvidia("12.0", "NVIDIA GeForce RTX 5090"), driver="580.65.06")
    reason = plan(new, "torch==2.6.0+cu124").selection.reason
    assert reason.startswith(
        "Nothing satisfies torch==2.6.0+cu124 on this machine. The cu124 build has no code for compute "
        "capability 12.0 (NVIDIA GeForce RTX 5090)"
    )
    assert "cpu build" not in reason
    reason = plan(new, "torch==2.9.0", "torchvision==0.20.1").selection.reason
    assert reason.startswith(
        "Nothing satisfies torch==2.9.0 and torchvision==0.20.1 on this machine. No build has "
        "torchvision==0.20.1 for torch 2.9.0"
    )
