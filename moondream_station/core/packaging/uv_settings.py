"""Where uv's own variables and files say that packages come from.

Only what names indexes and how to reach them is taken over. Everything else that can be set for uv (sources,
resolution, constraints, torch-backend, …) would change what a lock means and is left behind.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.facts.redact import checked_url, credentials_in
from moondream_station.core.packaging.pip_settings import ETC, home_folder

_OF_PIP = ("index-url", "extra-index-url", "find-links", "no-index", "index-strategy", "keyring-provider")
"""What of the table `[pip]` counts here; uv 0.13.9 knows `[[index]]` and the hosts at the top level alone."""

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, repr=False)
class UvSettings:
    """What uv was told about indexes, by variables or by one file. Holds credentials: no repr.

    Args:
        default_index: Stands in for PyPI, None where nothing does.
        indexes: Further indexes, most important first.
        find_links: Pages and folders of files.
        no_index: Whether only find-links count.
        index_strategy: "first-index", "unsafe-best-match", … None where not set.
        keyring_provider: "subprocess" or "disabled", None where not set.
        insecure_hosts: Hosts whose certificates are not checked.
        proxies: Proxy URLs by scheme ("http", "https"), and hosts without ("no").
    """

    default_index: str | None = None
    indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool | None = None
    index_strategy: str | None = None
    keyring_provider: str | None = None
    insecure_hosts: tuple[str, ...] = ()
    proxies: tuple[tuple[str, str], ...] = ()


def uv_variables(environ: Mapping[str, str]) -> UvSettings:
    """What `UV_…` variables say."""
    default = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL")
    extra = environ.get("UV_INDEX", "").split() + environ.get("UV_EXTRA_INDEX_URL", "").split()
    links = (link.strip() for link in environ.get("UV_FIND_LINKS", "").split(","))
    return UvSettings(
        default_index=_named_index(default.strip(), environ) if default and default.strip() else None,
        indexes=tuple(_named_index(index, environ) for index in extra),
        find_links=tuple(link for link in links if link),
        index_strategy=environ.get("UV_INDEX_STRATEGY") or None,
        keyring_provider=environ.get("UV_KEYRING_PROVIDER") or None,
        insecure_hosts=tuple(environ.get("UV_INSECURE_HOST", "").replace(",", " ").split()),
    )


def uv_file_settings(
    environ: Mapping[str, str], *, platform: str = sys.platform, etc: Path = ETC
) -> tuple[UvSettings, ...]:
    """What uv's own files say, the user's before the system's."""
    return tuple(
        _from_table(_as_pip_reads(table), path, environ)
        for path in uv_config_files(environ, platform=platform, etc=etc)
        if (table := _read(path)) is not None
    )


def uv_config_files(
    environ: Mapping[str, str], *, platform: str = sys.platform, etc: Path = ETC
) -> tuple[Path, ...]:
    """Where uv looks for its configuration outside projects, most important first."""
    named = environ.get("UV_CONFIG_FILE")
    if named:
        return (Path(named),)
    if environ.get("UV_NO_CONFIG", "").lower() in {"1", "true", "yes", "on"}:
        return ()
    home = home_folder(environ, platform)
    if platform == "win32":
        user = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
        system = [Path(environ.get("PROGRAMDATA", r"C:\ProgramData"), "uv", "uv.toml")]
    else:
        user = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        folders = (environ.get("XDG_CONFIG_DIRS") or str(etc / "xdg")).split(os.pathsep)
        system = [Path(folder, "uv", "uv.toml") for folder in folders] + [etc / "uv" / "uv.toml"]
        system = [path for path in system if path.exists()][:1]
    return (user / "uv" / "uv.toml", *system)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(
            f"uv's configuration file {path} can't be read: {error}", hint="Correct or remove it."
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


def _from_table(table: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> UvSettings:
    entries = [entry for entry in _dicts(table.get("index")) if isinstance(entry.get("url"), str)]
    usable = [entry for entry in entries if entry.get("explicit") is not True]
    flat = [_from_entry(entry, path, environ) for entry in usable if entry.get("format") == "flat"]
    simple = [entry for entry in usable if entry.get("format") != "flat"]
    defaults = [_from_entry(entry, path, environ) for entry in simple if entry.get("default") is True]
    defaults += [_located(url, path) for url in _strings(table.get("index-url"))]
    extras = [_from_entry(entry, path, environ) for entry in simple if entry.get("default") is not True]
    extras += [_located(url, path) for url in _strings(table.get("extra-index-url"))]
    no_index = table.get("no-index")
    proxies = {scheme: _strings(table.get(f"{scheme}-proxy")) for scheme in ("http", "https")}
    proxies["no"] = [",".join(_strings(table.get("no-proxy")))]
    return UvSettings(
        default_index=defaults[0] if defaults else None,
        indexes=tuple(extras),
        find_links=(*flat, *(_located(link, path) for link in _strings(table.get("find-links")))),
        no_index=no_index if isinstance(no_index, bool) else None,
        index_strategy=_first(table.get("index-strategy")),
        keyring_provider=_first(table.get("keyring-provider")),
        insecure_hosts=tuple(_strings(table.get("allow-insecure-host"))),
        proxies=tuple((scheme, values[0]) for scheme, values in proxies.items() if values and values[0]),
    )


def _from_entry(entry: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> str:
    url = _located(str(entry["url"]), path)
    name = entry.get("name")
    return _with_credentials(url, name, environ) if isinstance(name, str) else url


def _named_index(text: str, environ: Mapping[str, str]) -> str:
    """An index as a variable gives it: a URL or a path, after `NAME=` or without."""
    named = _NAMED.fullmatch(text)
    if named is None:
        return text
    return _with_credentials(named[2], named[1], environ)


def _with_credentials(url: str, name: str, environ: Mapping[str, str]) -> str:
    """The URL with the credentials that variables give to an index of this name, unless it has its own."""
    prefix = "UV_INDEX_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
    username, password = environ.get(f"{prefix}_USERNAME"), environ.get(f"{prefix}_PASSWORD")
    if (username is None and password is None) or "://" not in url or credentials_in(url) is not None:
        return url
    parts = urlsplit(url)
    userinfo = f"{quote(username or '', safe='')}:{quote(password or '', safe='')}"
    return urlunsplit(parts._replace(netloc=f"{userinfo}@{parts.netloc}"))


def _located(location: str, path: Path) -> str:
    """A path in a file counts from that file's folder."""
    checked_url(location, f"an index or find-links location in {path}")
    return location if "://" in location else str(path.parent / Path(location))


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _strings(value: object) -> list[str]:
    values: Iterable[object] = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str) and item]


def _first(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
