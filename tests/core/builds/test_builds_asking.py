"""Which builds are worth asking an index about."""

from __future__ import annotations

import pytest

from moondream_station.core.builds.asking import builds_worth_asking
from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.capabilities.snapshot import Capabilities
from support.snapshots import amd, linux, macos, nvidia, windows

GTX_1080 = nvidia("6.1", "GTX 1080")
RTX_4090 = nvidia("8.9", "RTX 4090")


def ask(
    machine: Capabilities, requirement: str = "torch", *, strategy: str = "auto", tags: tuple[str, ...] = ()
) -> list[str]:
    """The names of the builds worth asking about."""
    wanted = parse_requirement_args([requirement])
    return [
        one.name for one in builds_worth_asking(machine, wanted, load_catalog(), "3.12.3", strategy, tags)
    ]


@pytest.mark.parametrize(
    ("machine", "requirement", "expected"),
    [
        (linux(), "torch>=2.7", ["cpu"]),
        (linux(RTX_4090, driver="580.65.06"), "torch>=2.12", ["cu132", "cu130", "cu129", "cu126", "cpu"]),
        (linux(RTX_4090, driver="535.54.03"), "torch>=2.12", ["cu129", "cu126", "cpu"]),
        (linux(GTX_1080, driver="580.65.06"), "torch>=2.7", ["cu126", "cu118", "cpu"]),
        (linux(amd("gfx1100")), "torch>=2.12", ["rocm7.2", "rocm7.1", "cpu"]),
        (macos("15.1"), "torch", ["mps"]),
        (macos("15.1", machine="x86_64"), "torch", []),
        (windows(machine="ARM64"), "torch", []),
    ],
)
def test_only_what_could_be_chosen_is_asked_for(
    machine: Capabilities, requirement: str, expected: list[str]
) -> None:
    """The likeliest first."""
    assert ask(machine, requirement) == expected


def test_a_requirement_newer_than_the_catalog_asks_for_what_is_still_made() -> None:
    """cu118 and cu126 get no torch 2.16; cu130 and cu132 may."""
    assert ask(linux(RTX_4090, driver="580.65.06"), "torch>=2.16") == ["cu132", "cu130", "cpu"]


def test_a_tag_that_the_index_shows_is_asked_for_where_the_driver_carries_it() -> None:
    """By the bound of its CUDA major; other folders are no builds."""
    tags = ("cu134", "cu140", "nightly", "cpu-cxx11-abi")
    assert ask(linux(RTX_4090, driver="580.65.06"), "torch>=2.16", tags=tags)[0] == "cu134"
    assert "cu134" not in ask(linux(RTX_4090, driver="570.26"), tags=tags)


def test_a_named_build_alone_is_asked_for() -> None:
    """Whatever the machine is."""
    assert ask(linux(), strategy="cu130") == ["cu130"]


def test_builds_that_serve_some_of_several_gpus_are_asked_for() -> None:
    """No build serves both, so that each may be the one."""
    both = linux(GTX_1080, nvidia("12.0", "RTX 5090", index=1), driver="580.65.06")
    asked = ask(both, "torch>=2.12")
    assert {"cu132", "cu130", "cu126"} <= set(asked)
