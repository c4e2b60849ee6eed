"""Tags of builds, and the strategies that name them."""

from __future__ import annotations

import pytest

from moondream_station.core.builds.naming import Kind, check_strategy, listed, parse_build
from moondream_station.core.facts.errors import UsageError


@pytest.mark.parametrize(
    ("name", "kind", "version"),
    [
        ("cpu", Kind.CPU, ()),
        ("cu92", Kind.CUDA, (9, 2)),
        ("cu118", Kind.CUDA, (11, 8)),
        ("cu130", Kind.CUDA, (13, 0)),
        ("rocm7.2", Kind.ROCM, (7, 2)),
        ("rocm6.2.4", Kind.ROCM, (6, 2, 4)),
        ("xpu", Kind.XPU, ()),
        ("mps", Kind.MPS, ()),
    ],
)
def test_a_tag_tells_what_the_build_computes_on_and_what_it_carries(
    name: str, kind: Kind, version: tuple[int, ...]
) -> None:
    """CUDA's last digit is its minor version; ROCm's has dots."""
    build = parse_build(name)
    assert build is not None
    assert (build.kind, build.version) == (kind, version)


@pytest.mark.parametrize("name", ["", "CPU", "cu12", "cu1260", "cpu.cxx11.abi", "rocm7", "nightly", "cu126 "])
def test_other_local_versions_are_no_build(name: str) -> None:
    """A wheel with such a local version is not used."""
    assert parse_build(name) is None


def test_rocm_versions_sort_by_number_and_not_by_letter() -> None:
    """rocm7.14 is newer than rocm7.2."""
    older, newer = parse_build("rocm7.2"), parse_build("rocm7.14")
    assert older is not None
    assert newer is not None
    assert newer > older


def test_apple_silicons_build_lies_in_the_processors_folder() -> None:
    """The index has no folder named mps."""
    build = parse_build("mps")
    assert build is not None
    assert build.folder == "cpu"


@pytest.mark.parametrize(
    ("names", "words"),
    [((), ""), (("A",), "A"), (("A", "B", "A"), "A and B"), (("A", "B", "C"), "A, B and C")],
)
def test_names_are_listed_as_people_do(names: tuple[str, ...], words: str) -> None:
    """Each once, with one "and"."""
    assert listed(names) == words


@pytest.mark.parametrize("strategy", ["auto", "guide", "cpu", "cu126", "rocm7.2", "xpu", "mps"])
def test_a_strategy_is_auto_guide_or_a_build(strategy: str) -> None:
    """Also a build that the catalog does not know may be named."""
    assert check_strategy(strategy) == strategy


@pytest.mark.parametrize("strategy", ["", "AUTO", "gpu", "cuda", "cu999", "12.6"])
def test_anything_else_is_a_mistake_on_the_command_line(strategy: str) -> None:
    """The error says what there is."""
    with pytest.raises(UsageError) as raised:
        check_strategy(strategy)
    assert "auto" in (raised.value.hint or "")
