"""A GPU's name tells its compute capability where the driver does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.capabilities.probes.nvidia_names import capability_of


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
