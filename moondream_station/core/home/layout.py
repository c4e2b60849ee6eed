"""Where everything lives: the home folder and the place of each thing in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moondream_station.core.facts.errors import HomeUnusable


@dataclass(frozen=True, slots=True)
class Home:
    """A home folder, and the path of each thing in it. Nothing is created until `create` is called."""

    root: Path

    @property
    def config(self) -> Path:
        """Settings."""
        return self.root / "config.json"

    @property
    def capabilities(self) -> Path:
        """The cached snapshot of the machine."""
        return self.root / "capabilities.json"

    @property
    def active(self) -> Path:
        """Which model is active, and each model's environment."""
        return self.root / "active.json"

    @property
    def backends(self) -> Path:
        """Backend code as unpacked: `backends/ID/VERSION/`."""
        return self.root / "backends"

    @property
    def environments(self) -> Path:
        """Virtual environments, each in a place of its own."""
        return self.root / "environments"

    @property
    def downloads(self) -> Path:
        """Finished wheels that a lock names, and partial ones."""
        return self.root / "downloads"

    @property
    def cache(self) -> Path:
        """What can be had again: the resolver's cache, index listings."""
        return self.root / "cache"

    @property
    def activations(self) -> Path:
        """The event journal of each activation."""
        return self.root / "activations"

    @property
    def logs(self) -> Path:
        """Workers' output."""
        return self.root / "logs"

    def worker_log(self, model: str) -> Path:
        """What a model's workers wrote."""
        return self.logs / f"{model}.log"

    @property
    def station(self) -> Path:
        """While a station serves: its pid, address and token."""
        return self.root / "station.json"

    @property
    def serve_lock(self) -> Path:
        """Held while a station serves."""
        return self.root / "serve.lock"

    @property
    def activation_lock(self) -> Path:
        """Held while an activation changes the home."""
        return self.root / "activation.lock"

    @property
    def activation_holder(self) -> Path:
        """Who holds the activation lock."""
        return self.root / "activation.json"

    def create(self) -> None:
        """Make the home and its folders where they are missing."""
        folders = (
            self.backends,
            self.environments,
            self.downloads,
            self.cache,
            self.activations,
            self.logs,
        )
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in folders:
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise HomeUnusable(
                f"The home {self.root} can't be used: {error.strerror or error}.",
                hint="Set MOONDREAM_STATION_HOME to a folder that you may write to.",
            ) from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise HomeUnusable(
                f"The home {self.root} can't be written to.",
                hint="Set MOONDREAM_STATION_HOME to a folder that you may write to.",
            )


def home_from(environ: Mapping[str, str]) -> Home:
    """The home that a user's variables name: `MOONDREAM_STATION_HOME`, or `~/.moondream-station`.

    Raises:
        HomeUnusable: There is neither that variable nor a home folder of the user's.
    """
    named = environ.get("MOONDREAM_STATION_HOME", "").strip()
    try:
        root = Path(named).expanduser() if named else Path.home() / ".moondream-station"
    except RuntimeError as error:
        raise HomeUnusable(
            f"No home folder: {error}", hint="Set MOONDREAM_STATION_HOME to a folder that you may write to."
        ) from error
    return Home(root=root.absolute())
