"""The pip command for what was chosen."""

from __future__ import annotations

from support.snapshots import linux, macos, nvidia, plan, wheel, windows

PIP = ("python", "-m", "pip", "install")
LINUX = "cp312-cp312-manylinux_2_28_x86_64.whl"
RTX_4090 = nvidia("8.9", "RTX 4090")


def test_the_index_of_the_build_is_named_with_the_requirements_as_they_were() -> None:
    """As interface.md shows it."""
    selection = plan(linux(RTX_4090, driver="535.183.01"), "torch>=2.7.0").selection
    assert selection.command == (
        *PIP, "torch>=2.7.0", "--index-url", "https://download.pytorch.org/whl/cu126",
    )  # fmt: skip
    assert selection.requirement == ("torch>=2.7.0",)


def test_pytorchs_index_is_asked_only_for_what_it_serves() -> None:
    """Of other packages it has stale copies, or none, and then pip installs nothing at all."""
    command = plan(linux(), "transformers<5", "torch>=2.7", "Pillow", "torchvision").selection.command
    assert command[4:] == ("torch>=2.7", "torchvision", "--index-url", "https://download.pytorch.org/whl/cpu")
    assert plan(linux(), "accelerate").selection.command[4:6] == ("torch", "--index-url")
    assert plan(windows(), "accelerate").selection.command == (*PIP, "accelerate")


def test_bounds_stay_in_the_order_they_were_written() -> None:
    """A person must recognise them."""
    command = plan(linux(), "torch>=2.4,<2.6", "torchvision").selection.command
    assert command[4:6] == ("torch>=2.4,<2.6", "torchvision")


def test_pypis_own_wheel_needs_no_index() -> None:
    """cu132 on Linux, the processor's on Windows, and every Mac's."""
    assert plan(linux(RTX_4090, driver="580.65.06")).selection.command == (*PIP, "torch")
    assert plan(windows()).selection.command == (*PIP, "torch")
    assert plan(macos("15.1"), "torch<2.6").selection.command == (*PIP, "torch<2.6")
    assert plan(macos("15.1"), "torch<2.6").selection.index_url is None


def test_the_version_is_pinned_where_pip_would_take_a_newer_one() -> None:
    """By itself pip knows no capability: on cu128 it would take 2.11.0, which has no code for Volta."""
    machine = linux(nvidia("7.0", "Tesla V100"), driver="580.65.06")
    command = plan(
        machine, "torch[opt-einsum]>=2.8", "torchaudio", "pillow", strategy="cu128"
    ).selection.command
    assert command == (
        *PIP, "torch[opt-einsum]==2.10.0", "torchaudio==2.10.0",
        "--index-url", "https://download.pytorch.org/whl/cu128",
    )  # fmt: skip


def test_the_version_is_pinned_on_the_users_own_index_where_it_has_another_build() -> None:
    """PyPI's newest torch is cu132; under a driver 575 an older one must be named."""
    own = [
        wheel(f"torch-{version}-{LINUX}", source="default")
        for version in ("2.15.0", "2.14.1", "2.10.0", "2.9.1")
    ]
    selection = plan(linux(RTX_4090, driver="575.57.08"), offers=own).selection
    assert (selection.build, selection.torch, selection.index_url) == ("cu128", "2.10.0", None)
    assert selection.command == (*PIP, "torch==2.10.0")


def test_a_wheel_from_find_links_is_pinned_with_its_local_version() -> None:
    """From the place as the user named it."""
    found = [wheel(f"torch-2.13.0+cpu-{LINUX}", folder="/srv/wheels", source="find-links")]
    selection = plan(linux(), "torch>=2.7.0", "numpy", offers=found).selection
    assert selection.source == "find-links"
    assert selection.index_url is None
    assert selection.command == (*PIP, "torch==2.13.0+cpu", "numpy", "--find-links", "/srv/wheels")


def test_torch_is_pinned_also_where_nobody_names_it() -> None:
    """A pin needs a name to stand on; another platform's requirements are left out then."""
    found = [wheel(f"torch-2.13.0+cpu-{LINUX}", folder="/srv/wheels", source="find-links")]
    command = plan(linux(), "accelerate", "torch<2; sys_platform == 'win32'", offers=found).selection.command
    assert command[4:6] == ("torch==2.13.0+cpu", "accelerate")
