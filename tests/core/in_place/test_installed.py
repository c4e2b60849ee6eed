"""Which requirements are satisfied by what is installed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.markers import default_environment

from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.environments.packages import Package, find_packages
from moondream_station.core.in_place.running_python import Installed
from support.wheels import module_wheel

Missing = Callable[..., list[str]]


@pytest.fixture
def missing(tmp_path: Path) -> Missing:
    """Tells which of some requirements something has to be installed for."""
    for name, version, requires in (
        ("top", "1.0", ["middle>=2", "absent; python_version < '3'", "absent; extra == 'more'"]),
        ("middle", "2.5", ["bottom", "top"]),  # in a circle
        ("bottom", "0.9", []),
        ("needs-new", "1.0", ["bottom>=1"]),
        ("both", "1.0", ["middle", "needs-new"]),
        ("early", "3.0rc1", []),
    ):
        wheel = module_wheel(name, version, requires=requires)
        zipfile.ZipFile(io.BytesIO(wheel.data)).extractall(tmp_path)

    def ask(*texts: str, except_for: str = "") -> list[str]:
        packages = find_packages([str(tmp_path)])
        markers = {name: str(value) for name, value in default_environment().items()}

        class Here(Installed):
            def _may_stay(self, package: Package) -> bool:
                return package.name != except_for

        installed = Here(packages=packages, offer=None, keeps_torch=True, markers=markers)
        return list(installed.missing(parse_requirement_args(texts)).texts)

    return ask


def test_what_is_there_with_all_it_needs_is_not_missing(missing: Missing) -> None:
    """Also where packages need each other in a circle."""
    assert missing("top", "middle>=2", "Bottom") == []


def test_a_version_that_does_not_do_is_missing(missing: Missing) -> None:
    """Only the requirement that asks for it is named."""
    assert missing("bottom>=1", "bottom") == ["bottom>=1"]


def test_what_is_needed_further_down_counts(missing: Missing) -> None:
    """Also where another package on the way was satisfied with less."""
    assert missing("needs-new", "both", "top") == ["needs-new", "both"]


def test_extras_are_asked_for_by_name(missing: Missing) -> None:
    """What they need counts only then; a marker that does not hold here never does."""
    assert missing("top[more]", "top") == ["top[more]"]


def test_what_may_not_stay_is_missing_for_all_that_need_it(missing: Missing) -> None:
    """As torch of another build is."""
    assert missing("top", "bottom", "early", except_for="bottom") == ["top", "bottom"]


def test_an_installed_pre_release_satisfies(missing: Missing) -> None:
    """Somebody wanted it."""
    assert missing("early>=2") == []


def test_damage_further_down_is_missing(missing: Missing, tmp_path: Path) -> None:
    """A package is as good as the worst that it needs."""
    (tmp_path / "bottom" / "__init__.py").unlink()
    assert missing("top", "early") == ["top"]
