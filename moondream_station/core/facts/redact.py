"""Credentials out of URLs, before anything is shown, logged, recorded or written."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

_CREDENTIALS_IN_TEXT = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/@'\"<>]*(?:@[^\s/@'\"<>]*)*@", re.IGNORECASE)
_QUERY_IN_TEXT = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#'\"<>]+)\?[^\s#'\"<>]+", re.IGNORECASE)


class Credentials(NamedTuple):
    """A user's name and password for one place. Never in a repr."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(…)"


def without_credentials(url: str) -> str:
    """A URL without the user's name and password; whatever else it has stays."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL ("http://[::1"): still nothing to give away
        return redact_text(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def redact_url(url: str) -> str:
    """A URL as it may be shown: without credentials, query and fragment, each of which can hold a secret."""
    return without_credentials(url).partition("#")[0].partition("?")[0]


def redact_text(text: str) -> str:
    """A tool's output as it may be shown: every URL in it without credentials and query."""
    return _QUERY_IN_TEXT.sub(r"\1", _CREDENTIALS_IN_TEXT.sub(r"\1", text))


def credentials_in(url: str) -> Credentials | None:
    """The user's name and password that a URL holds, None where it holds neither."""
    userinfo, separator, _ = urlsplit(url).netloc.rpartition("@")
    if not separator:
        return None
    username, _, password = userinfo.partition(":")
    return Credentials(unquote(username), unquote(password))
