"""What an interpreter has, by its metadata, and whether that is whole."""

from __future__ import annotations

import io
import platform
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.environments.packages import Package, find_packages, unmet_needs
from moondream_station.core.in_place.running_python import offer_of
from support.wheels import Wheel, module_wheel, torch_wheel

HERE = {name: str(value) for name, value in default_environment().items()}


def unpack(wheel: Wheel, folder: Path) -> None:
    """Install a wheel by hand."""
    zipfile.ZipFile(io.BytesIO(wheel.data)).extractall(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of packages with a torch in it, and an ordinary package that needs others."""
    unpack(torch_wheel("2.9.0", "cpu"), tmp_path)
    unpack(module_wheel("My.Module", "1.0", requires=["numpy>=2", "extra; extra == 'more'"]), tmp_path)
    return tmp_path


def only(folder: Path, name: str) -> Package:
    """A package of a folder."""
    return find_packages([str(folder)])[name]


def test_packages_are_found_by_their_normalized_names(folder: Path) -> None:
    """With their versions and needs."""
    found = find_packages([str(folder), str(folder / "nowhere")])
    assert {name: str(one.version) for name, one in found.items()} == {
        "torch": "2.9.0+cpu",
        "my-module": "1.0",
    }
    assert list(map(str, found["my-module"].requires)) == ["numpy>=2", 'extra; extra == "more"']
    assert [one.damage for one in found.values()] == [(), ()]


def test_the_first_on_the_path_counts(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As it does for import."""
    other = tmp_path_factory.mktemp("other")
    unpack(torch_wheel("2.8.0", "cpu"), other)
    found = find_packages([str(other), str(folder)])["torch"]
    assert (str(found.version), found.damage) == ("2.8.0+cpu", ())


def test_a_missing_file_is_damage(folder: Path) -> None:
    """An installation that was killed looks complete to uv and to pip."""
    (folder / "torch" / "cuda.py").unlink()
    assert only(folder, "torch").damage == ("torch/cuda.py is missing",)


def test_a_missing_record_is_damage(folder: Path) -> None:
    """Nobody can tell then what belongs to the package."""
    (folder / "torch-2.9.0+cpu.dist-info" / "RECORD").unlink()
    assert only(folder, "torch").damage != ()


def test_a_folder_of_metadata_without_anything_in_it_is_damage(folder: Path) -> None:
    """It still says by its name which package it is of."""
    for path in (folder / "torch-2.9.0+cpu.dist-info").iterdir():
        path.unlink()
    package = only(folder, "torch")
    assert (str(package.version), package.requires, package.wheel) == ("2.9.0+cpu", (), None)
    assert package.damage != ()


def test_bytecode_that_a_record_names_is_nobody_s_business(folder: Path) -> None:
    """What pip compiles it names there, and anybody may remove it."""
    with (folder / "torch-2.9.0+cpu.dist-info" / "RECORD").open("a") as record:
        record.write("torch/__pycache__/cuda.cpython-311.pyc,,\n")
    assert only(folder, "torch").damage == ()


def test_two_versions_side_by_side_are_damage(folder: Path) -> None:
    """An update that was killed leaves the metadata of both."""
    unpack(torch_wheel("2.9.1", "cpu"), folder)
    assert only(folder, "torch").damage == ("torch is installed in several versions",)


def test_what_has_no_wheel_is_taken_for_whole(folder: Path) -> None:
    """The oldest kinds of installation, a folder or a file, have no RECORD."""
    (folder / "old_one-3.1-py3.11.egg-info").mkdir()
    metadata = "Metadata-Version: 1.0\nName: old-one\nVersion: 3.1\n"
    (folder / "old_one-3.1-py3.11.egg-info" / "PKG-INFO").write_text(metadata)
    (folder / "older.egg-info").write_text("Metadata-Version: 1.0\nName: older\nVersion: 0.1\n")
    for name, version in (("old-one", "3.1"), ("older", "0.1")):
        assert (str(only(folder, name).version), only(folder, name).damage) == (version, ())


def test_what_names_no_version_is_passed_over(folder: Path) -> None:
    """A left-over of pip's, or a folder of somebody else's."""
    (folder / "~orch.dist-info").mkdir()
    (folder / "thing-one.dist-info").mkdir()
    assert find_packages([str(folder)]).keys() == {"torch", "my-module"}


@pytest.mark.parametrize(
    ("version", "local", "build"),
    [("2.9.0", "cpu", "cpu"), ("2.9.0", "cu126", "cu126"), ("2.9.0", "mine", None)],
)
def test_the_build_of_an_installed_torch_is_told_by_its_wheel(
    tmp_path: Path, version: str, local: str, build: str | None
) -> None:
    """By the local part of its version; None where that names no build."""
    unpack(torch_wheel(version, local), tmp_path)
    offer = offer_of(only(tmp_path, "torch"), load_catalog())
    assert (offer.build if offer else None) == build


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="PyPI's wheel is another one there"
)
@pytest.mark.parametrize(
    ("said", "build"),
    [
        ("cuda: Optional[str] = '12.8'", "cu128"),
        ("cuda = '12.8'", "cu128"),
        ("cuda: Optional[str] = None", None),
        ("cuda = '12.6'", None),
        ("git_version = 'abc'", "cu128"),
        (None, "cu128"),
    ],
)
def test_a_version_without_a_build_is_pypis_only_if_torch_says_the_same(
    tmp_path: Path, said: str | None, build: str | None
) -> None:
    """What conda or somebody's compiler made has such versions too."""
    unpack(torch_wheel("2.9.0", None), tmp_path)
    if said is not None:
        (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2.9.0'\n{said}\n", encoding="utf-8")
    offer = offer_of(only(tmp_path, "torch"), load_catalog())
    assert (offer.build if offer else None) == build


def test_packages_that_meet_each_others_needs_have_none_unmet(tmp_path: Path) -> None:
    """Needs that do not apply here, or belong to an extra, are none."""
    for name, version, requires in (
        ("top", "1.0", ["Middle>=2", "absent; python_version < '3'", "absent; extra == 'more'"]),
        ("middle", "2.5", ["top"]),
    ):
        unpack(module_wheel(name, version, requires=requires), tmp_path)
    assert list(unmet_needs(find_packages([str(tmp_path)]), markers=HERE)) == []


def test_what_is_missing_or_does_not_fit_is_named(tmp_path: Path) -> None:
    """With who needs it."""
    unpack(module_wheel("top", "1.0", requires=["middle>=3", "absent"]), tmp_path)
    unpack(module_wheel("middle", "2.5+local"), tmp_path)
    assert list(unmet_needs(find_packages([str(tmp_path)]), markers=HERE)) == [
        "top 1.0 needs middle>=3, which 2.5+local is not",
        "top 1.0 needs absent, which is missing",
    ]


def test_a_package_for_another_python_is_named(tmp_path: Path) -> None:
    """As its metadata say, whatever its index said."""
    unpack(Wheel(name="old", version="1.0", requires_python="<3.8"), tmp_path)
    assert list(unmet_needs(find_packages([str(tmp_path)]), markers=HERE)) == ["old 1.0 is for Python <3.8"]
