"""What pip's and uv's own variables and files say, each as that program reads them.

Of pip it is what `pip config list` shows, read from its files and variables: pip need not be installed where
the station is, and asking it takes 0.3 s of every start. The places and their order are those of pip's
documentation ("Configuration", https://pip.pypa.io/en/stable/topics/configuration/) and of
`pip._internal.configuration`.

Of uv only what names indexes and how to reach them is taken over. Everything else that can be set for it
(sources, resolution, constraints, torch-backend, …) would change what a lock means and is left behind.
"""

from __future__ import annotations

import configparser
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.facts.redact import checked_url, credentials_in
from moondream_station.core.home.layout import expanded
from moondream_station.core.home.storage import flaw_of

ETC = Path("/etc")

_SYNONYMS = {"pypi-url": "index-url", "default-timeout": "timeout"}
_SECTIONS = ("global", "install")
_WINDOWS = "win32"
_OF_PIP = ("index-url", "extra-index-url", "find-links", "no-index", "index-strategy", "keyring-provider")
"""What of uv's table `[pip]` counts; uv 0.13.9 knows `[[index]]` and the hosts at the top level alone."""

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)", re.DOTALL)


def pip_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What `PIP_…` variables say, by option name ("index-url"); empty values say nothing."""
    return {
        _option(name.removeprefix("PIP_")): value
        for name, value in environ.items()
        if name.startswith("PIP_") and value
    }


def pip_file_options(environ: Mapping[str, str], prefix: Path, platform: str, etc: Path) -> dict[str, str]:
    """What pip's configuration files say to `pip install`, by option name.

    A later file takes the place of an earlier one key by key; then section `install` goes before `global`,
    whichever file each comes from. That is pip's own order.
    """
    sections: dict[str, dict[str, str]] = {name: {} for name in _SECTIONS}
    for path in pip_config_files(environ, prefix, platform, etc):
        for section, options in _pip_options_in(path).items():
            sections[section].update(options)
    return {name: value for section in _SECTIONS for name, value in sections[section].items() if value}


def pip_config_files(environ: Mapping[str, str], prefix: Path, platform: str, etc: Path) -> tuple[Path, ...]:
    """Where pip looks for its configuration, least important first; not all of them exist."""
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return ()
    home = home_folder(environ, platform)
    of_user, of_all = _folders(environ, platform, etc)
    folders = [folder / "pip" for folder in of_all]
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
            folders.append(of_user / "pip")
    name = "pip.ini" if platform == _WINDOWS else "pip.conf"
    files = [folder / name for folder in [*folders, prefix]]
    return (*files, *([Path(named)] if named is not None else ()))


def home_folder(environ: Mapping[str, str], platform: str) -> Path:
    """The user's home folder; for a user who has none the root, as container engines set it."""
    named = environ.get("USERPROFILE" if platform == _WINDOWS else "HOME")
    home = Path(named) if named else expanded("~")
    return home if home.is_absolute() else Path(home.anchor or os.sep)


def _folders(environ: Mapping[str, str], platform: str, etc: Path) -> tuple[Path, list[Path]]:
    """Where programs find a user's own settings, and those of every user, as XDG and Windows have it."""
    home = home_folder(environ, platform)
    if platform == _WINDOWS:
        roaming = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
        return roaming, [Path(environ.get("PROGRAMDATA", r"C:\ProgramData"))]
    shared = (environ.get("XDG_CONFIG_DIRS") or str(etc / "xdg")).split(os.pathsep)
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config"), [Path(name) for name in shared]


def _pip_options_in(path: Path) -> dict[str, dict[str, str]]:
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


@dataclass(frozen=True, kw_only=True, repr=False)
class UvSettings:
    """What uv was told about indexes, by variables or by one file. Holds credentials: no repr.

    What stands in for PyPI, further indexes, most important first, and what else is set. `proxies` has URLs
    under "http" and "https", and under "no" the hosts without, by commas.
    """

    default_index: str | None
    indexes: tuple[str, ...]
    find_links: tuple[str, ...]
    no_index: bool
    index_strategy: str | None
    keyring_provider: str | None
    insecure_hosts: tuple[str, ...]
    proxies: Mapping[str, str]


def uv_variables(environ: Mapping[str, str]) -> UvSettings:
    """What `UV_…` variables say."""
    default = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL", "")
    extra = environ.get("UV_INDEX", "").split() + environ.get("UV_EXTRA_INDEX_URL", "").split()
    table = {
        "index": [{**_named(text), "default": True} for text in [default.strip()] if text]
        + [_named(text) for text in extra],
        "find-links": [link.strip() for link in environ.get("UV_FIND_LINKS", "").split(",")],
        "index-strategy": environ.get("UV_INDEX_STRATEGY"),
        "keyring-provider": environ.get("UV_KEYRING_PROVIDER"),
        "allow-insecure-host": environ.get("UV_INSECURE_HOST", "").replace(",", " ").split(),
    }
    return _from_table(table, None, environ)


def uv_file_settings(environ: Mapping[str, str], platform: str, etc: Path) -> tuple[UvSettings, ...]:
    """What uv's own files say, the user's before the system's."""
    return tuple(
        _from_table(_as_pip_reads(table), path, environ)
        for path in uv_config_files(environ, platform, etc)
        if (table := _uv_table_in(path)) is not None
    )


def uv_config_files(environ: Mapping[str, str], platform: str, etc: Path) -> tuple[Path, ...]:
    """Where uv looks for its configuration outside projects, most important first."""
    named = environ.get("UV_CONFIG_FILE")
    if named:
        return (Path(named),)
    if environ.get("UV_NO_CONFIG", "").lower() in {"1", "true", "yes", "on"}:
        return ()
    of_user, of_all = _folders(environ, platform, etc)
    shared = [folder / "uv" / "uv.toml" for folder in of_all]
    if platform != _WINDOWS:
        shared = [path for path in (*shared, etc / "uv" / "uv.toml") if path.exists()][:1]
    return (of_user / "uv" / "uv.toml", *shared)


def _uv_table_in(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError:
        return None
    except (ValueError, RecursionError) as error:
        raise SettingsInvalid(
            f"uv's configuration file {path} can't be read: {flaw_of(error)}", hint="Correct or remove it."
        ) from error


def _as_pip_reads(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A file as `uv pip` reads it: what `[pip]` says goes before the rest, and lists are joined."""
    pip = table.get("pip")
    if not isinstance(pip, dict):
        return table
    of_pip = {key: pip[key] for key in _OF_PIP if key in pip}
    joined = {
        key: [*value, *_strings(table.get(key))] for key, value in of_pip.items() if isinstance(value, list)
    }
    return {**table, **of_pip, **joined}


def _from_table(table: Mapping[str, Any], path: Path | None, environ: Mapping[str, str]) -> UvSettings:
    """A file's table, or what variables say in the form of one; paths in a file count from its folder."""
    flat, defaults, others = list[str](), list[str](), list[str]()
    entries = table.get("index")
    for entry in entries if isinstance(entries, list) else ():
        match entry:
            case {"url": str(place)} if entry.get("explicit") is not True:
                url = _with_credentials(_located(place, path), entry.get("name"), environ)
                kind = defaults if entry.get("default") is True else others
                (flat if entry.get("format") == "flat" else kind).append(url)

    def places(key: str) -> list[str]:
        return [_located(place, path) for place in _strings(table.get(key))]

    proxies = {name: ",".join(_strings(table.get(f"{name}-proxy"))) for name in ("http", "https", "no")}
    return UvSettings(
        default_index=next(iter([*defaults, *places("index-url")]), None),
        indexes=(*others, *places("extra-index-url")),
        find_links=(*flat, *places("find-links")),
        no_index=table.get("no-index") is True,
        index_strategy=next(iter(_strings(table.get("index-strategy"))), None),
        keyring_provider=next(iter(_strings(table.get("keyring-provider"))), None),
        insecure_hosts=tuple(_strings(table.get("allow-insecure-host"))),
        proxies=proxies,
    )


def _named(text: str) -> dict[str, str]:
    """An index as a variable gives it: a URL or a path, after `NAME=` or without."""
    named = _NAMED.fullmatch(text)
    return {"url": text} if named is None else {"name": named[1], "url": named[2]}


def _with_credentials(url: str, name: object, environ: Mapping[str, str]) -> str:
    """The URL with the credentials that variables give to an index of this name, unless it has its own."""
    if not isinstance(name, str) or "://" not in url or credentials_in(url) is not None:
        return url
    prefix = "UV_INDEX_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
    username, password = environ.get(f"{prefix}_USERNAME"), environ.get(f"{prefix}_PASSWORD")
    if username is None and password is None:
        return url
    parts = urlsplit(url)
    userinfo = f"{quote(username or '', safe='')}:{quote(password or '', safe='')}"
    return urlunsplit(parts._replace(netloc=f"{userinfo}@{parts.netloc}"))


def _located(place: str, path: Path | None) -> str:
    checked_url(place, "an index or find-links location" + (f" in {path}" if path is not None else ""))
    return place if path is None or "://" in place else str(path.parent / place)


def _strings(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str) and item]
