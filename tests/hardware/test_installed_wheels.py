"""Wheels that are packed again from what is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from uv import find_uv_bin

from hardware.run.installed_wheels import needed_by, pack
from hardware.run.wheel_site import publish, served
from moondream_station.core.environments.packages import Package, find_packages
from support.wheels import Wheel, module_wheel, torch_wheel

MARKERS = {name: str(value) for name, value in default_environment().items()}
ODD = Wheel(
    name="odd-one",
    version="1.0+cpu",
    python="py2.py3",
    requires=["plain", "absent; python_version < '3'"],
    files={
        "odd_one/__init__.py": b"",
        "odd_one-1.0+cpu.data/scripts/odd-script": b"#!/bin/sh\necho odd\n",
        "odd_one-1.0+cpu.data/data/share/odd/page.txt": b"beside the packages",
        "odd_one-1.0+cpu.dist-info/entry_points.txt": b"[console_scripts]\nodd = odd_one:main\n",
    },
)
PLAIN = Wheel(name="plain", version="2.0", files={"plain.py": b"VALUE = 1\n"})


def installed(
    folder: Path, *wheels: Path | str, options: tuple[str, ...] = ("--offline", "--no-index")
) -> tuple[Path, dict[str, Package]]:
    """A new virtual environment with these wheels, and what it has."""
    subprocess.run([find_uv_bin(), "venv", "-q", "-p", sys.executable, folder], check=True)
    python = next(folder.glob("[bS]*/python*"))
    command = [find_uv_bin(), "pip", "install", "-q", "--no-config", "-p", python, *options, *wheels]
    subprocess.run(command, check=True)
    return folder, find_packages(map(str, folder.glob("[lL]ib/**/site-packages")))


def content_of(folder: Path) -> dict[str, bytes]:
    """The files that differ from environment to environment aside, what is in one."""
    own = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "pyvenv.cfg", ".lock"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in own and not path.name.startswith(("activate", "odd"))
    } | {path.name: b"" for path in folder.glob("[bS]*/odd*")}


def test_what_is_packed_again_installs_the_same(tmp_path: Path) -> None:
    """Scripts, entry points and files beside the packages included, and nothing that an installer makes."""
    first, packages = installed(tmp_path / "first", *(wheel.write_to(tmp_path) for wheel in (ODD, PLAIN)))
    again = tmp_path / "again"
    again.mkdir()
    needed = needed_by(["odd-one"], packages, MARKERS)
    wheels = [pack(package, again) for package in needed]
    assert [wheel.name for wheel in wheels] == [
        "odd_one-1.0+cpu-py2.py3-none-any.whl",
        "plain-2.0-py3-none-any.whl",
    ]
    second, packages = installed(tmp_path / "second", *wheels)
    assert content_of(second) == content_of(first)
    assert {name for name, package in packages.items() if package.damage} == set()


def test_what_is_not_whole_is_named(tmp_path: Path) -> None:
    """A wheel of it would not be what was installed."""
    folder, packages = installed(tmp_path / "first", *(wheel.write_to(tmp_path) for wheel in (ODD, PLAIN)))
    next(folder.rglob("plain.py")).unlink()
    with pytest.raises(LookupError, match=r"plain is not whole: plain\.py is missing"):
        needed_by(["odd-one"], packages, MARKERS)
    with pytest.raises(LookupError, match="torch is not installed"):
        needed_by(["torch"], packages, MARKERS)


@pytest.mark.parametrize("build", ["cu126", None])
def test_what_is_published_is_found_where_it_came_from(tmp_path: Path, build: str | None) -> None:
    """A torch that names its build, and its companions, on PyTorch's index; others on the ordinary one."""
    wheels = (torch_wheel("2.9.1", build, requires=["triton==3.5.1"]), module_wheel("triton", "3.5.1"))
    _, packages = installed(tmp_path / "first", *(wheel.write_to(tmp_path) for wheel in wheels))
    site = tmp_path / "site"
    publish(needed_by(["torch"], packages, MARKERS), site)
    folder = f"whl/{build}" if build else "simple"
    found = {path.parent.relative_to(site).as_posix() for path in site.rglob("*.whl")}
    assert found == {f"{folder}/torch", f"{folder}/triton"}
    assert (site / "whl/torch/index.html").exists() == (build is not None)
    with served(site) as address:
        options = ("--default-index", f"{address}/{folder}", "--cache-dir", str(tmp_path / "cache"))
        _, packages = installed(tmp_path / "second", "torch", options=options)
    assert str(packages["torch"].version) == str(wheels[0].version)
    assert {name for name, package in packages.items() if package.damage} == set()
