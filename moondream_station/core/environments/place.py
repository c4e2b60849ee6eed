"""Where an environment is: a folder that is used once."""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from moondream_station.core.home.layout import Home


@dataclass(frozen=True, slots=True)
class Place:
    """An environment's folder and what is in it.

    Args:
        path: The folder, absolute: `HOME/environments/NAME`.
    """

    path: Path

    @property
    def name(self) -> str:
        """The environment's name: 8 digits of its lock's digest, and 4 at random."""
        return self.path.name

    @property
    def venv(self) -> Path:
        """The virtual environment."""
        return self.path / "venv"

    @property
    def python(self) -> Path:
        """The virtual environment's Python."""
        return self.venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    @property
    def pylock(self) -> Path:
        """The lock it was made from."""
        return self.path / "pylock.toml"

    @property
    def commit(self) -> Path:
        """The record that makes it count; a place without it is rubbish."""
        return self.path / "commit.json"


def new_place(home: Home, digest: str) -> Place:
    """Make a folder that never was an environment before.

    Args:
        home: Where environments live.
        digest: The lock's digest.

    Raises:
        OSError: It can't be made.
    """
    while True:
        path = home.environments / f"{digest[:8]}-{secrets.token_hex(2)}"
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return Place(path=path)


def place_of(home: Home, name: str) -> Place:
    """The place of a name, whether it exists or not."""
    return Place(path=home.environments / name)
