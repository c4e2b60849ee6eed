"""Removes what is private from a finding: reports are pasted into public places."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.facts.redact import redact_text
from moondream_station.core.home.layout import Home
from moondream_station.core.machine.record import cleaner as identity_cleaner
from moondream_station.core.machine.record import local_identity
from moondream_station.core.packaging.packaging_config import PYPI_URL
from moondream_station.doctor.checks.findings import Verdict

_SECRET_NAME: Final = re.compile(r"TOKEN|SECRET|PASS|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_SECRET_CHARACTERS: Final = 6
"""Shorter values are words of ordinary text."""

_URL: Final = re.compile(r"(\bhttps?://[^\s/'\"<>(),;]+)/[^\s'\"<>(),;]*[^\s'\"<>(),;:.]")
_PATH: Final = re.compile(r"(?<![\w~.$:/*<-])(?:/[^\s/'\"<>(),;:]+){2,}/?|\b[A-Za-z]:\\[^\s'\"<>(),;:]+")
_PUBLIC_PATH: Final = re.compile(
    r"/(?:bin|dev|etc|lib|lib64|opt/rocm|proc|sbin|sys|usr)/|[A-Za-z]:\\(?:Windows|Program Files)\\"
)


def cleaner(home: Home, environ: Mapping[str, str]) -> Callable[[Verdict], Verdict]:
    """A function that removes what is private from a verdict.

    Removed are credentials in URLs and paths below hosts other than the public indexes (tokens hide there),
    values of variables that are named like secrets, user and host names, GPU identifiers, and every path that
    is not the operating system's own; those below the user's home folder begin with `~`.
    The home is shown as its variable, or below `~`.
    """
    identity = local_identity(environ)
    anonymous = identity_cleaner(identity)
    # SSH_AUTH_SOCK and its like are paths, which are taken out as such.
    named = {value for name, value in environ.items() if _SECRET_NAME.search(name)}
    secrets = [value for value in named if len(value) >= _SECRET_CHARACTERS and value[0] not in "/~"]
    secrets.sort(key=len, reverse=True)
    is_usual = any(str(home.root) == f"{folder}/.moondream-station" for folder in identity.homes)

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "***")
        text = _URL.sub(_without_path, redact_text(text))
        if not is_usual:
            text = text.replace(str(home.root), "$MOONDREAM_STATION_HOME")
        return _PATH.sub(_without_place, anonymous(text))

    def clean_verdict(verdict: Verdict) -> Verdict:
        # Commands are the doctor's own words, and must stay what they are.
        remedy = verdict.remedy and replace(verdict.remedy, text=clean(verdict.remedy.text))
        detail = verdict.detail and clean(verdict.detail)
        return replace(verdict, summary=clean(verdict.summary), detail=detail, remedy=remedy)

    return clean_verdict


def _without_path(match: re.Match[str]) -> str:
    public = (load_catalog().index, PYPI_URL, "https://www.nvidia.com/")
    return match[0] if match[0].startswith(public) else f"{match[1]}/…"


def _without_place(match: re.Match[str]) -> str:
    return match[0] if _PUBLIC_PATH.match(match[0]) else "<path>"
