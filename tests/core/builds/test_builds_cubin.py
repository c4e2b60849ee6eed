"""Which compiled CUDA code runs on which GPU.

Source: DEVICE_REQUIREMENT in torch/cuda/__init__.py of torch 2.13 and newer.
"""

from __future__ import annotations

import pytest

from moondream_station.core.builds.naming import parse_capability, runs


@pytest.mark.parametrize(
    ("code", "device"),
    [
        ((6, 0), (6, 1)),  # Pascal cards run the data centre part's code
        ((8, 6), (8, 9)),  # Ada has no code of its own
        ((10, 0), (10, 3)),
        ((12, 0), (12, 1)),  # GB10
        ((7, 0), (7, 5)),
        ((9, 0), (9, 0)),
    ],
)
def test_code_runs_on_the_same_major_and_a_minor_that_is_not_smaller(
    code: tuple[int, int], device: tuple[int, int]
) -> None:
    """The rule, on cards that exist."""
    assert runs(code, device, (12, 6))


@pytest.mark.parametrize(
    ("code", "device"),
    [
        ((8, 6), (8, 0)),  # a smaller minor
        ((8, 0), (9, 0)),  # another major
        ((9, 0), (10, 0)),
        ((10, 0), (12, 0)),
        ((10, 0), (11, 0)),  # Thor
    ],
)
def test_code_does_not_run_on_other_devices(code: tuple[int, int], device: tuple[int, int]) -> None:
    """PTX, by which it sometimes would, is not counted."""
    assert not runs(code, device, (13, 2))


@pytest.mark.parametrize(
    ("code", "device"),
    [
        ((5, 0), (5, 3)),
        ((6, 0), (6, 2)),
        ((6, 1), (6, 2)),
        ((7, 0), (7, 2)),
        ((8, 0), (8, 7)),
        ((8, 6), (8, 7)),
    ],
)
def test_tegras_integrated_gpus_need_code_of_their_own(
    code: tuple[int, int], device: tuple[int, int]
) -> None:
    """TX1, TX2, Xavier and Orin."""
    assert not runs(code, device, (13, 0))
    assert runs(device, device, (12, 6))


@pytest.mark.parametrize(
    ("code", "device", "expected"),
    [((7, 0), (7, 2), True), ((8, 0), (8, 7), True), ((5, 0), (5, 3), False), ((6, 0), (6, 2), False)],
)
def test_xavier_and_orin_joined_in_cuda_13_2(
    code: tuple[int, int], device: tuple[int, int], *, expected: bool
) -> None:
    """From 13.2 on they run their discrete siblings' code."""
    assert runs(code, device, (13, 2)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.9", (8, 9)),
        (" 12.0 ", (12, 0)),
        ("10.1", (11, 0)),
        ("9.0a", (9, 0)),
        ("[N/A]", None),
        ("", None),
        ("8", None),
        ("89", None),
    ],
)
def test_a_capability_is_two_numbers_and_thors_old_name_is_the_new_one(
    text: str, expected: tuple[int, int] | None
) -> None:
    """10.1 was Thor's name before CUDA 13."""
    assert parse_capability(text) == expected
