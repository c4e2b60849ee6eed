"""How a user's set-up says that servers are reached: certificates, proxies, passwords."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moondream_station.core.facts.redact import checked_url
from moondream_station.core.packaging.file_urls import absolute
from moondream_station.core.packaging.uv_settings import UvSettings

_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def certificates(
    environ: Mapping[str, str], pip: Mapping[str, str], cwd: Path, home: Path, notes: list[str]
) -> Path | None:
    """Pip's own setting first, then the variables that uv and pip's library read."""
    for text in (pip.get("cert"), *(environ.get(name) for name in _CERTIFICATE_VARIABLES)):
        path = absolute(text, cwd, home) if text else None
        if path is not None and path.exists():
            return path
        if path is not None:
            notes.append(f"The certificates at {path} do not exist; those of the system are used.")
    return None


def proxies(
    environ: Mapping[str, str], pip: Mapping[str, str], uv: Iterable[UvSettings]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Pip's proxy for everything; else by scheme what variables say, then uv's files, then the system."""
    proxy_of: dict[str, str] = {}
    for scheme in ("http", "https", "no"):
        names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
        fallback = () if scheme == "no" else ("all_proxy", "ALL_PROXY")
        value = first(*(environ.get(name) for name in (*names, *fallback)))
        value = value or first(*(settings.proxies.get(scheme) for settings in uv))
        if value:
            proxy_of[scheme] = value
    if not proxy_of:
        proxy_of = _system_proxies()
    no_proxy = tuple(host.strip() for host in proxy_of.pop("no", "").split(",") if host.strip())
    if pip.get("proxy"):
        proxy_of = dict.fromkeys(("http", "https"), pip["proxy"])
    by_scheme = {name: _with_scheme(url) for name, url in proxy_of.items() if name in {"http", "https"}}
    return by_scheme, no_proxy


def _system_proxies() -> dict[str, str]:
    """What macOS and Windows have set for every program; other systems have variables alone."""
    ask: Any = getattr(urllib.request, "getproxies_macosx_sysconf", None)
    ask = ask or getattr(urllib.request, "getproxies_registry", None)
    return dict(ask()) if ask is not None else {}


def _with_scheme(proxy: str) -> str:
    return checked_url(proxy if "://" in proxy else f"http://{proxy}", "a proxy")


def first(*values: str | None) -> str | None:
    """The first that says something."""
    return next((value for value in values if value), None)


def netrc_file(environ: Mapping[str, str], home: Path, platform: str) -> Path | None:
    """The file of credentials by host, None where there is none."""
    named = environ.get("NETRC")
    places = [Path(named)] if named else [home / ".netrc"]
    if platform == "win32" and not named:
        places.append(home / "_netrc")
    return next((path for path in places if path.is_file()), None)
