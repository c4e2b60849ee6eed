"""pip's own configuration, as `pip config list` shows it.

Read from pip's files and variables instead of from pip: pip need not be installed where the station is, and
asking it takes 0.3 s of every start. The places and their order are those of pip's documentation
("Configuration", https://pip.pypa.io/en/stable/topics/configuration/) and of `pip._internal.configuration`.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.home.layout import expanded

ETC = Path("/etc")

_SYNONYMS = {"pypi-url": "index-url", "default-timeout": "timeout"}
_SECTIONS = ("global", "install")
_WINDOWS = "win32"


def pip_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What `PIP_…` variables say, by option name ("index-url"); empty values say nothing."""
    options: dict[str, str] = {}
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            options[_option(name.removeprefix("PIP_"))] = value
    return options


def pip_file_options(
    environ: Mapping[str, str], *, prefix: Path, platform: str = sys.platform, etc: Path = ETC
) -> dict[str, str]:
    """What pip's configuration files say to `pip install`, by option name.

    A later file takes the place of an earlier one key by key; then section `install` goes before `global`,
    whichever file each comes from. That is pip's own order.
    """
    sections: dict[str, dict[str, str]] = {name: {} for name in _SECTIONS}
    for path in pip_config_files(environ, prefix=prefix, platform=platform, etc=etc):
        for section, options in _read(path).items():
            sections[section].update(options)
    return {name: value for section in _SECTIONS for name, value in sections[section].items() if value}


def pip_config_files(
    environ: Mapping[str, str], *, prefix: Path, platform: str = sys.platform, etc: Path = ETC
) -> tuple[Path, ...]:
    """Where pip looks for its configuration, least important first; not all of them exist."""
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return ()
    home = home_folder(environ, platform)
    folders = [folder / "pip" for folder in system_folders(environ, platform, etc)]
    if platform == "darwin":
        is_brew = prefix.as_posix().startswith("/opt/homebrew")
        folders = [Path("/opt/homebrew/share/pip")] if is_brew else []
        folders.append(Path("/Library/Application Support/pip"))
    elif platform != _WINDOWS:
        folders.append(etc)
    if named is None or not Path(named).exists():
        folders.append(home / ("pip" if platform == _WINDOWS else ".pip"))
        support = home / "Library" / "Application Support"
        if platform == "darwin":
            folders.append((support if (support / "pip").is_dir() else home / ".config") / "pip")
        else:
            folders.append(user_folder(environ, platform) / "pip")
    name = "pip.ini" if platform == _WINDOWS else "pip.conf"
    files = [folder / name for folder in [*folders, prefix]]
    return (*files, *([Path(named)] if named is not None else ()))


def home_folder(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """The user's home folder; for a user who has none the root, as container engines set it."""
    named = environ.get("USERPROFILE" if platform == _WINDOWS else "HOME")
    home = Path(named) if named else expanded("~")
    return home if home.is_absolute() else Path(home.anchor or os.sep)


def system_folders(environ: Mapping[str, str], platform: str, etc: Path) -> list[Path]:
    """Where programs find the settings of every user, as XDG and Windows have it."""
    if platform == _WINDOWS:
        return [Path(environ.get("PROGRAMDATA", r"C:\ProgramData"))]
    return [Path(name) for name in (environ.get("XDG_CONFIG_DIRS") or str(etc / "xdg")).split(os.pathsep)]


def user_folder(environ: Mapping[str, str], platform: str) -> Path:
    """Where they find the user's own."""
    home = home_folder(environ, platform)
    if platform == _WINDOWS:
        return Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config")


def _read(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser()
    try:
        with path.open(encoding="utf-8-sig") as file:
            parser.read_file(file)
    except OSError:  # absent or not ours to read: pip goes on without it, and so do we
        return {}
    except (configparser.Error, UnicodeDecodeError) as error:
        line = str(error).partition("\n")[0]
        raise SettingsInvalid(
            f"pip's configuration file {path} can't be read: {line}",
            hint="`pip config debug` shows the files that pip reads; correct or remove this one.",
        ) from error
    present = (section for section in _SECTIONS if parser.has_section(section))
    return {section: {_option(name): value for name, value in parser.items(section)} for section in present}


def _option(name: str) -> str:
    normalized = name.lower().replace("_", "-").removeprefix("--")
    return _SYNONYMS.get(normalized, normalized)
