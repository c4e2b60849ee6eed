"""The home folder."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from moondream_station.core.facts.errors import HomeUnusable
from moondream_station.core.home.layout import Home, home_from
from support.posix import account, is_root


def test_variable_names_the_home(tmp_path: Path) -> None:
    """MOONDREAM_STATION_HOME is taken as it is, made absolute."""
    assert home_from({"MOONDREAM_STATION_HOME": str(tmp_path / "x")}).root == tmp_path / "x"


def test_default_home_is_in_the_users_folder() -> None:
    """Without the variable, or with an empty one, the home is ~/.moondream-station."""
    expected = Path.home() / ".moondream-station"
    assert home_from({}).root == expected
    assert home_from({"MOONDREAM_STATION_HOME": " "}).root == expected


@pytest.mark.parametrize("model", ["../../other", "/var/log/other", "..\\other", "a\0b", "colours"])
def test_a_models_log_is_in_the_home(tmp_path: Path, model: str) -> None:
    """Whatever the name is that somebody asked for: `logs` reads it."""
    log = Home(tmp_path).worker_log(model)
    assert log.parent == Home(tmp_path).logs
    assert not log.exists()
    assert "\\" not in log.name


def test_create_makes_a_private_folder(tmp_path: Path) -> None:
    """A new home is readable by its user alone; creating it twice is fine."""
    home = Home(tmp_path / "deep" / "home")
    home.create()
    home.create()
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    assert home.environments.is_dir()


def test_a_file_in_the_way_says_what_to_do(tmp_path: Path) -> None:
    """A home that is a file is an error that names it and the variable."""
    (tmp_path / "home").write_text("")
    with pytest.raises(HomeUnusable) as caught:
        Home(tmp_path / "home").create()
    assert str(tmp_path / "home") in caught.value.message
    assert "MOONDREAM_STATION_HOME" in (caught.value.hint or "")


@pytest.mark.skipif(sys.platform == "win32", reason="a folder is not read-only there")
def test_a_read_only_home_is_an_error(tmp_path: Path) -> None:
    """A home that can't be written to is refused before anything is done."""
    if is_root():
        pytest.skip("root may write everywhere")
    home = Home(tmp_path / "home")
    home.create()
    home.root.chmod(0o500)
    with pytest.raises(HomeUnusable):
        home.create()


def test_without_home_the_system_knows_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service has no `HOME`: the user's folder is the one that the system has on record."""
    _, folder = account()
    monkeypatch.delenv("HOME", raising=False)
    assert home_from({}).root == folder / ".moondream-station"
