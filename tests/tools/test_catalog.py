"""The tool that compares the catalog with indexes, and reads what wheels say of themselves."""

from __future__ import annotations

import tomllib
import zipfile
from importlib import resources
from pathlib import Path

import pytest
from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import parse_build
from support.torch_index import TorchIndex, Wheel, torch_wheel
from tools.catalog.__main__ import main

LINUX = "manylinux_2_28_x86_64"


def compare(index: TorchIndex, *more: str) -> int:
    """Run the tool against a loopback index."""
    amds = [f"--vendor=rocm10={index.amd_url}", f"--vendor=rocm7={index.address}/elsewhere"]
    return main(["--index", index.torch_url, "--pypi", index.simple_url, *amds, *more])


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
    amds = [f"--vendor=rocm10={nobody}", f"--vendor=rocm7={nobody}"]
    assert main(["--index", nobody, "--pypi", nobody, *amds]) == 2
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
    assert main(["--wheel", str(wheel)]) == 1
    output = capsys.readouterr().out
    assert output.splitlines()[:4] == [
        f"{wheel.name}: 2.9.1+rocm6.4 6.4.4",
        "  torch's own code: gfx906 gfx90a gfx1100",
        "  rocBLAS' code: gfx90a gfx1100",
        "  it has no code for gfx908 gfx942 gfx1030 gfx1101 gfx1102 gfx1200 gfx1201, in the catalog it has",
    ]
    (row,) = tomllib.loads(output[output.index("[[rocm]]") :])["rocm"]
    assert (row["build"], row["gfx"]) == ("rocm6.4", ["gfx90a", "gfx1100"])


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ("sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90", None),
        ("sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90a sm_120", "it has code for 12.0, in the catalog not"),
        ("sm_60 sm_70 sm_75 sm_80 sm_86 sm_90", "it has no code for 5.0, in the catalog it has"),
    ],
)
def test_the_code_of_a_wheel_is_held_against_the_catalog(
    codes: str, said: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it differs, the row that would say so comes with it, in the catalog's own form."""
    wheel = tmp_path / f"torch-2.14.1+cu126-cp313-cp313-{LINUX}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("torch/lib/libtorch_python.so", f"\0{codes}\0sm_50\0")
    assert main(["--wheel", str(wheel)]) == (1 if said else 0)
    output = capsys.readouterr().out
    assert (said or "The catalog says the same.") in output
    if said:
        row = tomllib.loads(output[output.index("[[architectures]]") :])
        text = resources.files("moondream_station.core.builds").joinpath("catalog.toml").read_text("utf-8")
        data = tomllib.loads(text)
        lines = [line for line in data["architectures"] if line["build"] != "cu126"]
        known = Catalog({**data, "architectures": [*lines, *row["architectures"]]})
        build = parse_build("cu126")
        assert build is not None
        found = known.architectures(build, Version("2.14.1"), "linux_x86_64")
        assert found is not None
        assert found.verified
        assert ((12, 0) in found.codes, (5, 0) in found.codes) == ("12.0" in said, "5.0" not in said)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("torch-2.9.1-cp313.whl", b"", "not a zip file"),
        ("vision-2.9.1+cpu-py3-none-any.whl", None, "no wheel of torch"),
        (f"torch-9.9.0-cp313-cp313-{LINUX}.whl", None, "--pypi-build does"),
        ("torch-2.9.1+cu130-cp313-cp313-nowhere.whl", None, "no wheel of torch for a platform"),
    ],
)
def test_another_file_is_refused(
    name: str, content: bytes | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the reason, and no traceback."""
    file = tmp_path / name
    if content is None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("torch/version.py", "")
    else:
        file.write_bytes(content)
    assert main(["--wheel", str(file)]) == 2
    assert why in capsys.readouterr().err


def test_a_companion_for_a_range_of_torches_and_fewer_pythons(capsys: pytest.CaptureFixture[str]) -> None:
    """As torchaudio 2.11.1 asks for, and torchvision excludes 3.14.1: both are in the row."""
    with TorchIndex() as index:
        for python in ("cp313", "cp314"):
            index.add("cpu", torch_wheel("9.9.0", "cpu", python=python, abi=python, platform=LINUX))
        index.add_simple(Wheel(name="torchaudio", version="9.7.0", requires=["torch>=9.5"], files={}))
        index.add_simple(
            Wheel(
                name="torchvision",
                version="9.1.0",
                requires=["torch==9.9.0"],
                requires_python=">=3.10,!=3.14.1",
                files={},
            )
        )
        assert compare(index, "--since", "9") == 1
    output = capsys.readouterr().out
    (row,) = tomllib.loads(output[output.index("[[releases]]") :])["releases"]
    assert (row["torchaudio"], row["torchvision"]) == (["9.7.0"], ["9.1.0"])
    assert row["torchvision_python"] == "!=3.14.1"
    assert "torchaudio_python" not in row


def test_pythons_of_a_companion_that_the_catalog_has_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    """A patch that a known companion refuses, and the catalog does not."""
    with TorchIndex() as index:
        index.add("cpu", torch_wheel("2.15.0", "cpu", python="cp313", abi="cp313", platform=LINUX))
        index.add_simple(
            Wheel(
                name="torchvision",
                version="0.29.2",
                requires=["torch==2.15.0"],
                requires_python="!=3.14.2",
                files={},
            )
        )
        assert compare(index, "--since", "2.15") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "torch 2.15.0: torchvision refuses Python 3.14.2, unlike in the catalog" in lines
    assert "torch 2.15.0: torchvision accepts Python 3.14.1, unlike in the catalog" in lines


def test_a_torch_refuses_pythons_by_its_metadata(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its tags say: a wheel that no Python takes is no row."""
    with TorchIndex() as index:
        for python, accepted in (("cp313", ">=3.10"), ("cp314", "<3.14")):
            index.add(
                "cpu",
                torch_wheel(
                    "9.9.0", "cpu", python=python, abi=python, platform=LINUX, requires_python=accepted
                ),
            )
        assert compare(index, "--since", "9") == 1
    assert f"cpu for linux_x86_64 is not in the catalog: 3.13; {LINUX}" in capsys.readouterr().out


def test_amds_indexes_are_read_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A new torch of theirs is a row that names the index; one that they lack is told where they answered."""
    with TorchIndex() as index:
        index.add_amd("9.9.0", "10.9.0", "gfx1100", python="cp313", abi="cp313", platform=LINUX)
        assert compare(index, "--since", "2.10") == 1
    output = capsys.readouterr().out
    (row,) = tomllib.loads(output[output.index("[[releases]]") :])["releases"]
    assert row["wheels"] == [{"build": "rocm10.9.0", "vendor": "rocm10", "linux_x86_64": "index"}]
    assert "torch 2.13.0: rocm10.0.0 for windows_amd64 is in the catalog, but not listed" in output
    assert "rocm7.14" not in output  # nobody read that index
