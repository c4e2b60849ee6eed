"""The tool that compares the catalog with indexes, and reads what wheels say of themselves."""

from __future__ import annotations

import tomllib
import zipfile
from importlib import resources
from pathlib import Path

import pytest

from moondream_station.core.builds.catalog import Catalog
from support.torch_index import TorchIndex, Wheel, torch_wheel
from tools.catalog.__main__ import main

LINUX = "manylinux_2_28_x86_64"


def compare(index: TorchIndex, *more: str) -> int:
    """Run the tool against a loopback index."""
    return main(["--index", index.torch_url, "--pypi", index.simple_url, *more])


def vision(version: str, torch: str) -> Wheel:
    """A torchvision for one torch."""
    return Wheel(name="torchvision", version=version, requires=[f"torch=={torch}"], files={})


def test_a_torch_that_the_catalog_lacks_is_shown_as_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """The rows are in the catalog's own form: added to it, they are read."""
    with TorchIndex() as index:
        for python in ("cp313", "cp314"):
            for build in ("cpu", "cu140"):
                index.add(build, torch_wheel("9.9.0", build, python=python, abi=python, platform=LINUX))
            index.add_simple(torch_wheel("9.9.0", None, python=python, abi=python, platform=LINUX))
        index.add_simple(vision("9.1.0", "9.9.0"))
        code = compare(index, "--build", "cu140", "--pypi-build", "cu140", "--since", "9")
    output = capsys.readouterr().out
    assert code == 1
    assert f"torch 9.9.0: cu140 for linux_x86_64 is not in the catalog: 3.13 3.14; {LINUX}" in output
    assert "torch 9.9.0: cu140 for linux_x86_64 of PyPI is not in the catalog" in output
    rows = tomllib.loads(output[output.index("[[releases]]") :])
    text = resources.files("moondream_station.core.builds").joinpath("catalog.toml").read_text("utf-8")
    data = tomllib.loads(text)
    catalog = Catalog({**data, "releases": [*rows["releases"], *data["releases"]]})
    row = catalog.row("cu140", "9.9.0", "linux_x86_64")
    assert row is not None
    assert (row.pythons, row.platform_tags, row.verified) == (("3.13", "3.14"), (LINUX,), True)
    assert catalog.companions("torchvision", "9.9.0") == ("9.1.0",)
    assert catalog.pypi_build("9.9.0", "linux_x86_64") == "cu140"


def test_what_differs_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """An unverified wheel that is listed, other Pythons and tags, a missing wheel, a companion."""
    with TorchIndex() as index:
        index.add(
            "cpu", torch_wheel("2.15.0", "cpu", python="cp313", abi="cp313", platform="manylinux_2_39_x86_64")
        )
        index.add("cu130", torch_wheel("2.14.1", "cu130", python="cp313", abi="cp313t", platform=LINUX))
        index.add_simple(vision("0.29.9", "2.15.0"))
        assert compare(index, "--since", "2.14.1") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "torch 2.15.0: cpu for linux_x86_64 is unverified in the catalog, but listed" in lines
    assert (
        "torch 2.15.0: cpu for linux_x86_64 has the tags manylinux_2_39_x86_64, in the catalog " + LINUX
        in lines
    )
    assert any(line.startswith("torch 2.14.1: cu130 for linux_x86_64 is for 3.13t, in the") for line in lines)
    assert "torch 2.14.1: cu130 for windows_amd64 is in the catalog, but not listed" in lines
    assert "torch 2.15.0: torchvision 0.29.9 is for it too" in lines
    # Nobody read the page of this build, so nothing is missing on it.
    assert not any("xpu" in line for line in lines)


def test_pre_releases_and_other_projects_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The station never chooses them."""
    with TorchIndex() as index:
        index.add("cpu", torch_wheel("9.9.0rc1", "cpu", python="cp313", abi="cp313", platform=LINUX))
        index.add("cpu", torch_wheel("9.9.0", "cpu.cxx11.abi", python="cp313", abi="cp313", platform=LINUX))
        assert compare(index, "--since", "9") == 0
    assert capsys.readouterr().out.startswith("The catalog says what")


def test_an_index_that_does_not_answer_is_no_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is called missing because nobody answered; the page is named."""
    nobody = "http://127.0.0.1:9"
    assert main(["--index", nobody, "--pypi", nobody]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{nobody}/cu126/torch/: " in captured.err
    assert "No index answered" in captured.err


def test_a_wheel_says_what_it_has_code_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Torch's list and rocBLAS' kernels are told apart: a GPU needs both."""
    wheel = tmp_path / "torch-2.9.1+rocm6.4-cp313-cp313-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("torch/version.py", "__version__ = '2.9.1+rocm6.4'\nhip: Optional[str] = '6.4.4'\n")
        archive.writestr("torch/lib/libtorch_python.so", b"\0gfx90a\0\1gfx906 gfx90a gfx1100\0sm_x gfx12\0")
        for name in ("Kernels.so-000-gfx1100.hsaco", "TensileLibrary_Type_HH_gfx90a.dat"):
            archive.writestr(f"torch/lib/rocblas/library/{name}", b"")
    assert main(["--wheel", str(wheel)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{wheel.name}: 2.9.1+rocm6.4 6.4.4",
        "  torch's own code: gfx906 gfx90a gfx1100",
        "  rocBLAS' code: gfx90a gfx1100",
    ]
