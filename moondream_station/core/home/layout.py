"""Where everything lives: the home folder and the place of each thing in it."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moondream_station.core.facts.errors import HomeUnusable, UsageError

TEMPORARY: Final = ".new-"
"""How folders in which code is being taken begin, beside the versions."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

_FIX = "`moondream-station doctor --fix` moves aside what is in its place."
ACTIVATION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
"""An activation's id; anything else could lead out of the home."""

_IN_A_NAME = str.maketrans("/\\\0", "___")
"""What would make another path of a file's name, or none."""


class _Place:
    """A file or folder of the home, by its name there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, home: Home, _: object) -> Path:
        return home.root / self._name


@dataclass(frozen=True, slots=True)
class Home:
    """A home folder (absolute), and the path of each thing in it. Nothing is created until `create`."""

    root: Path

    config = _Place("config.json")
    capabilities = _Place("capabilities.json")
    """The cached snapshot of the machine."""
    active = _Place("active.json")
    """Which model is active, and each model's environment."""
    trials = _Place("trials.json")
    """What verification has learned of builds on this machine."""
    notices = _Place("notices.json")
    """The models' notices that the user has accepted."""
    backends = _Place("backends")
    environments = _Place("environments")
    downloads = _Place("downloads")
    """Finished wheels that a lock names, and partial ones."""
    cache = _Place("cache")
    """What can be fetched or computed again: the resolver's cache, index listings."""
    activations = _Place("activations")
    """The event journal of each activation."""
    logs = _Place("logs")
    history = _Place("history")
    """What was typed at the prompt."""
    station = _Place("station.json")
    """While a station serves: its pid, address and token."""
    serve_lock = _Place("serve.lock")
    activation_lock = _Place("activation.lock")
    activation_holder = _Place("activation.json")
    """Who holds the activation lock."""

    def worker_log(self, model: str) -> Path:
        """What a model's workers wrote; journals name models too that were asked for and never existed."""
        return self.logs / f"{model.translate(_IN_A_NAME)}.log"

    def check(self) -> None:
        """Refuse a home that can never be made: another kind of file, or behind a link that leads nowhere."""
        for place in (self.root, *self.root.parents):
            if why := _broken_link(place):
                raise home_unusable(f"The home {self.root} can't be used: {place} is a link {why}.")
        with suppress(OSError):  # not there yet, or not ours to see, which its use tells
            if not stat.S_ISDIR(self.root.stat().st_mode):
                raise home_unusable(f"The home {self.root} is not a folder.")

    def create(self) -> None:
        """Make the home and its folders where they are missing."""
        folders = (self.backends, self.environments, self.downloads, self.cache, self.activations, self.logs)
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in folders:
                folder.mkdir(exist_ok=True)
        except OSError as error:
            is_misplaced = isinstance(error, FileExistsError)
            fault = f"{error.filename} is not a folder" if is_misplaced else error.strerror or error
            message = f"The home {self.root} can't be used: {fault}."
            if is_misplaced and error.filename != str(self.root):
                raise HomeUnusable(message, hint=_FIX) from error
            raise home_unusable(message, self.root) from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise home_unusable(f"The home {self.root} is not writable.", self.root)


def home_from(environ: Mapping[str, str]) -> Home:
    """The home that a user's variables name; it is a folder, or not there yet."""
    home = named_home(environ)
    home.check()
    return home


def named_home(environ: Mapping[str, str]) -> Home:
    """The home that a user's variables name: `MOONDREAM_STATION_HOME`, or `~/.moondream-station`."""
    named = environ.get("MOONDREAM_STATION_HOME", "").strip()
    try:
        root = Path(named).expanduser() if named else Path.home() / ".moondream-station"
    except RuntimeError as error:
        raise home_unusable(f"No home folder: {error}") from error
    return Home(root=absolute(root))


def _broken_link(path: Path) -> str | None:
    with suppress(OSError):  # no link
        target = path.readlink()
        try:
            path.stat()
        except FileNotFoundError:
            return f"to {target}, which does not exist"
        except OSError as error:
            if error.errno == errno.ELOOP:
                return "that leads back to itself"
    return None


def expanded(text: str | Path) -> Path:
    """A path with `~` and `~name` written out; as in a shell, they stay where there is no such user."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  pathlib's raises where there is no such user


def absolute(path: str | Path) -> Path:
    """A path as a user writes it, in full: `~` written out, links kept."""
    path = expanded(path)
    try:
        return path.absolute()
    except OSError as error:
        raise UsageError(
            f"The working folder no longer exists, so the relative path {path} can't be found.",
            hint="Change to a folder that exists, or give an absolute path.",
        ) from error


def in_the_way(error: OSError) -> HomeUnusable | None:
    """The error for a folder in a file's place in the home, or the other way round; None for any other."""
    if error.errno not in {errno.EISDIR, errno.ENOTDIR} or error.filename is None:
        return None
    return HomeUnusable(f"{error.filename} can't be used: {error.strerror}.", hint=_FIX)


def home_unusable(message: str, path: Path | None = None) -> HomeUnusable:
    """The error for a home that another folder can stand in for; names the owner of `path`, if another."""
    hint = "Set MOONDREAM_STATION_HOME to a folder that you can write to."
    if (foreign := _foreign(path) if path is not None else None) is not None:
        place, owner = foreign
        message = f"{message} {place} belongs to {owner}."
        hint = f"Run the command as {owner}, or set MOONDREAM_STATION_HOME to a folder of your own."
    return HomeUnusable(message, hint=hint)


def _foreign(path: Path) -> tuple[Path, str] | None:
    """Another user's file or folder, the path itself or the nearest above that can be seen, and that user."""
    if sys.platform != "win32":
        for place in (path, *path.parents):
            with suppress(OSError):
                uid = place.stat().st_uid
                if uid == os.geteuid():
                    return None
                with suppress(KeyError):
                    return place, place.owner()
                return place, f"the user with the id {uid}"
    return None


def folder_name(text: str) -> str:
    """Check what becomes the name of a folder, on every platform."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", text) or text.endswith("."):
        raise ValueError(f"{text!r} must be at most 64 letters, digits and . _ + -, a letter or digit first")
    if _RESERVED.fullmatch(text):
        raise ValueError(f"{text!r} is a reserved name on Windows")
    return text
