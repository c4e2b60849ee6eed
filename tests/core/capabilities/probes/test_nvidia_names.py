"""A GPU's name tells its compute capability where the driver does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.capabilities.probes.nvidia import capability_of, capability_of_device


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("Tesla K80", "3.7"),
        ("GeForce GTX TITAN Black", "3.5"),
        ("GeForce GTX TITAN X", "5.2"),
        ("NVIDIA TITAN X (Pascal)", "6.1"),
        ("NVIDIA TITAN V", "7.0"),
        ("GeForce GTX 960", "5.2"),
        ("GeForce GTX 960M", "5.0"),
        ("GeForce GTX 1080 Ti", "6.1"),
        ("NVIDIA GeForce GTX 1650 with Max-Q Design", "7.5"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "8.9"),
        ("Tesla P100-PCIE-16GB", "6.0"),
        ("Tesla V100-SXM2-32GB", "7.0"),
        ("GRID T4-16Q", "7.5"),
        ("NVIDIA A40-48Q", "8.6"),
        ("NVIDIA A100-SXM4-80GB", "8.0"),
        ("Quadro RTX 6000", "7.5"),
        ("NVIDIA RTX 6000 Ada Generation", "8.9"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "12.0"),
        ("NVIDIA T1000 8GB", "7.5"),
        ("NVIDIA GH200 480GB", "9.0"),
        ("NVIDIA GB10", "12.1"),
        ("NVIDIA Thor", "11.0"),
        ("Orin (nvgpu)", "8.7"),
        ("P106-100", "6.1"),
        ("NVIDIA P102-101", "6.1"),
        ("NVIDIA CMP 50HX", "7.5"),
        ("NVIDIA CMP 170HX", "8.0"),
        ("GRID RTX6000-8Q", "7.5"),
        ("NVIDIA RTX6000-Ada-48Q", "8.9"),
        ("NVIDIA RTXA6000-48Q", "8.6"),
        ("GRID A100D-80C", "8.0"),
        ("Tesla PG503-216", "7.0"),
        ("NVIDIA GeForce RTX 3050 A Laptop GPU", "8.9"),
        ("NVIDIA GeForce RTX 3050 6GB Laptop GPU", "8.6"),
        ("NVIDIA RTX PRO 5000 72GB Blackwell", "12.0"),
        ("NVS 310", "2.1"),
        ("GeForce GTX 580", "2.0"),
        ("GeForce MX130", "5.0"),
        ("GeForce GTX 860M", None),
        ("NVIDIA DGX Display", None),
        ("GeForce GT 730", None),
        ("Graphics Device", None),
        ("NVIDIA", None),
        ("", None),
    ],
)
def test_names_are_known(name: str, capability: str | None) -> None:
    """Brands, sizes, forms and suffixes do not hide a GPU; one name for several chips is unknown."""
    assert capability_of(name) == capability


@pytest.mark.parametrize(
    ("start", "capability"),
    [
        ("NVIDIA GeForce RTX 2080", "7.5"),
        ("Tesla P100-PCIE", "6.0"),
        ("NVIDIA GeForce RTX 40", "8.9"),
        ("GeForce GTX TITAN", None),
        ("NVIDIA A10", None),
        ("NVIDIA", None),
    ],
)
def test_a_cut_name_is_known_where_it_can_mean_one_thing(start: str, capability: str | None) -> None:
    """What the table cut off may be anything that begins so."""
    assert capability_of(start, is_cut=True) == capability


@given(st.text(), st.booleans())
def test_no_name_breaks_the_table(name: str, is_cut: bool) -> None:  # noqa: FBT001  hypothesis gives it by place
    """Any text is known or unknown."""
    found = capability_of(name, is_cut=is_cut)
    assert found is None or float(found) >= 3


@pytest.mark.parametrize(
    ("device", "capability"),
    [
        (0x1180, "3.0"),  # GTX 680
        (0x102D, "3.7"),  # K80, amid the 3.5 of GK110
        (0x1B80, "6.1"),  # GTX 1080
        (0x1C07, "6.1"),  # P106-100
        (0x1DB4, "7.0"),  # V100
        (0x1EB8, "7.5"),  # T4
        (0x20B0, "8.0"),  # A100
        (0x2684, "8.9"),  # RTX 4090
        (0x2330, "9.0"),  # H100
        (0x2901, "10.0"),  # B200
        (0x3182, "10.3"),  # B300
        (0x2B85, "12.0"),  # RTX 5090
        (0x2E12, "12.1"),  # GB10
        (0x0A20, None),
        (0xFFFF, None),
    ],
)
def test_a_device_id_tells_the_chip(device: int, capability: str | None) -> None:
    """A card that no tool names is known by its number on the bus; an unknown one stays unknown."""
    assert capability_of_device(device) == capability
