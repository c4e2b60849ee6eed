"""Whether an environment is whole, by the RECORDs of what is in it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from moondream_station.core.environments.packages import check_records
from moondream_station.core.facts.errors import EnvironmentBroken
from support.wheels import module_wheel, torch_wheel

PACKAGES = {"torch": "2.9.0+cpu", "my-module": "1.0"}


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment's folder with two packages unpacked into it."""
    site_packages = tmp_path / "env" / "venv" / "lib" / "python3.11" / "site-packages"
    for wheel in (torch_wheel("2.9.0", "cpu"), module_wheel("My.Module", "1.0")):
        zipfile.ZipFile(io.BytesIO(wheel.data)).extractall(site_packages)
    venv = tmp_path / "env" / "venv"
    (venv / "lib64").symlink_to("lib")
    return venv


def site_packages_of(venv: Path) -> Path:
    """Where packages are."""
    return venv / "lib" / "python3.11" / "site-packages"


def test_a_whole_environment_counts_its_files(venv: Path) -> None:
    """Every file that the RECORDs name is counted once, also where lib64 leads to the same place."""
    assert check_records(venv, PACKAGES) == sum(
        1 for path in site_packages_of(venv).rglob("*") if path.is_file()
    )


def test_bytecode_is_nobody_s_business(venv: Path) -> None:
    """What Python writes beside the files changes nothing."""
    cache = site_packages_of(venv) / "torch" / "__pycache__"
    cache.mkdir()
    (cache / "cuda.cpython-311.pyc").write_bytes(b"x")
    assert check_records(venv, PACKAGES) > 0


def test_a_missing_file_is_named(venv: Path) -> None:
    """An environment that was killed while it was linked lacks files, and the message names one."""
    (site_packages_of(venv) / "torch" / "cuda.py").unlink()
    with pytest.raises(EnvironmentBroken, match=r"torch/cuda\.py is missing"):
        check_records(venv, PACKAGES)


def test_a_shortened_file_is_named(venv: Path) -> None:
    """A file of another size than its RECORD says is found without reading it."""
    (site_packages_of(venv) / "torch" / "cuda.py").write_bytes(b"x")
    with pytest.raises(EnvironmentBroken, match=r"torch/cuda\.py has 1 bytes instead of"):
        check_records(venv, PACKAGES)


def test_a_missing_package_is_named(venv: Path) -> None:
    """No RECORD tells of a package that is missing as a whole; the lock does."""
    with pytest.raises(EnvironmentBroken, match=r"numpy 2\.0 is missing"):
        check_records(venv, {**PACKAGES, "numpy": "2.0"})


def test_a_package_too_many_is_named(venv: Path) -> None:
    """What the lock does not name must not be there either."""
    with pytest.raises(EnvironmentBroken, match=r"my-module 1\.0 is not in the lock"):
        check_records(venv, {"torch": "2.9.0+cpu"})


def test_another_build_is_another_package(venv: Path) -> None:
    """The local part of a version counts: torch of another build is missing, this one too many."""
    with pytest.raises(EnvironmentBroken, match=r"torch 2\.9\.0\+cu128 is missing"):
        check_records(venv, {**PACKAGES, "torch": "2.9.0+cu128"})


def test_a_missing_record_is_named(venv: Path) -> None:
    """A package without RECORD can't be checked, so it is broken."""
    (site_packages_of(venv) / "torch-2.9.0+cpu.dist-info" / "RECORD").unlink()
    with pytest.raises(EnvironmentBroken, match="RECORD can't be read"):
        check_records(venv, PACKAGES)


@pytest.mark.parametrize("path", ["../../../../../outside", "/etc/passwd"])
def test_a_record_may_not_lead_outside(venv: Path, path: str) -> None:
    """A RECORD that names a file outside the environment is broken, whether the file exists or not."""
    record = site_packages_of(venv) / "torch-2.9.0+cpu.dist-info" / "RECORD"
    record.write_text(record.read_text() + f"{path},,\n")
    with pytest.raises(EnvironmentBroken, match="lies outside"):
        check_records(venv, PACKAGES)


def test_many_problems_are_counted_not_listed(venv: Path) -> None:
    """The message names three problems and says how many more there are."""
    for path in (site_packages_of(venv) / "torch").iterdir():
        path.unlink()
    with pytest.raises(EnvironmentBroken, match=r"; and \d+ more\."):
        check_records(venv, PACKAGES)
