"""Where an environment will run: platform, wheel tags, markers."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace

import pytest
from packaging import tags
from packaging.markers import Marker, default_environment

from moondream_station.core.builds.offers import target_of
from moondream_station.core.facts.capabilities import Capabilities
from support.snapshots import linux, macos, windows


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc",
    reason="compares with this machine's own tags",
)
def test_the_tags_of_this_machine_are_those_that_packaging_gives() -> None:
    """The list made for any machine equals sys_tags() on this one, musl and other implementations apart."""
    here = linux(machine=platform.machine(), libc=platform.libc_ver())
    target = target_of(here, platform.python_version())
    theirs = [tag for tag in tags.sys_tags() if "musllinux" not in tag.platform]
    assert list(target.tags_on(list(target.platform_tags))) == theirs


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (linux(), "linux_x86_64"),
        (linux(machine="aarch64"), "linux_aarch64"),
        (windows(), "windows_amd64"),
        (macos("15.1"), "macos_arm64"),
        (macos("12.7", machine="x86_64", silicon=False), "macos_x86_64"),
        (windows(machine="ARM64"), "windows_arm64"),
        (linux(machine="s390x"), "linux_s390x"),
        (windows(machine="x86"), None),
        (linux(machine="ppc64le"), None),
        (linux(machine="i686"), None),
    ],
)
def test_the_platform_is_one_that_pytorch_has_wheels_for_or_none(
    machine: Capabilities, expected: str | None
) -> None:
    """Windows on ARM and 32-bit machines have none."""
    assert target_of(machine, "3.12.3").platform == expected


def test_without_glibc_no_wheel_fits() -> None:
    """PyTorch has no musllinux wheels."""
    assert target_of(linux(libc=("musl", "1.2.4")), "3.12.3").platform_tags == ()
    assert target_of(linux(libc=("", "")), "3.12.3").platform_tags == ()


def test_an_older_glibc_takes_older_profiles_only() -> None:
    """Glibc 2.17 is manylinux2014."""
    found = target_of(linux(libc=("glibc", "2.17")), "3.12.3").platform_tags
    assert found[:3] == ("linux_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
    assert "manylinux_2_28_x86_64" not in found
    assert "manylinux1_x86_64" in found


@pytest.mark.parametrize(
    ("python", "minor", "full", "free_threaded"),
    [
        ("3.12.3", "3.12", "3.12.3", False),
        ("3.12", "3.12", "3.12.0", False),
        ("3.14t", "3.14t", "3.14.0", True),
        ("3.15.0rc1", "3.15", "3.15.0rc1", False),
        ("3.13.0+", "3.13", "3.13.0", False),
        ("3.14.2t", "3.14t", "3.14.2", True),
    ],
)
def test_a_python_is_read_as_people_write_it(
    python: str, minor: str, full: str, *, free_threaded: bool
) -> None:
    """With and without a patch, development versions, free-threaded."""
    target = target_of(linux(), python)
    assert (target.python_minor, target.python_full, target.free_threaded) == (minor, full, free_threaded)


def test_a_free_threaded_python_takes_wheels_of_its_own_abi_only() -> None:
    """cp314t, and neither cp314 nor abi3."""
    abis = {tag.abi for tag in target_of(linux(), "3.14t").tags_on(["any"])}
    assert "cp314t" in abis
    assert not {"cp314", "abi3"} & abis


@pytest.mark.parametrize(
    ("machine", "sys_platform", "os_name"),
    [(linux(), "linux", "posix"), (windows(), "win32", "nt"), (macos("15.1"), "darwin", "posix")],
)
def test_markers_are_those_of_the_target_and_not_of_this_machine(
    machine: Capabilities, sys_platform: str, os_name: str
) -> None:
    """A plan for another machine must read its requirements as that machine would."""
    markers = target_of(machine, "3.13.1").markers
    assert (markers["sys_platform"], markers["os_name"]) == (sys_platform, os_name)
    assert (markers["python_version"], markers["python_full_version"]) == ("3.13", "3.13.1")
    assert markers["platform_machine"] == machine.machine


def test_markers_are_those_of_the_recorded_machine() -> None:
    """Also its kernel's release and build, which this machine's differ from."""
    machine = replace(linux(), release="6.8.0-45-generic", version="#45-Ubuntu SMP PREEMPT_DYNAMIC")
    markers = target_of(machine, "3.12.3").markers
    assert set(markers) == set(default_environment())
    assert markers["platform_release"] == "6.8.0-45-generic"
    assert Marker("platform_version == '#45-Ubuntu SMP PREEMPT_DYNAMIC'").evaluate({**markers, "extra": ""})


@pytest.mark.parametrize(
    ("machine", "is_32_bit"),
    [("i686", True), ("x86", True), ("armv7l", True), ("x86_64", False), ("AMD64", False)],
)
def test_a_32_bit_python_is_told_by_what_it_is_for(machine: str, *, is_32_bit: bool) -> None:
    """Whichever CPU it runs on."""
    assert target_of(linux(machine=machine), "3.12.3").is_32_bit is is_32_bit
