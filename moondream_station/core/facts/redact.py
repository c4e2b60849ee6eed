"""Credentials out of URLs, before anything is shown, logged, recorded or written."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from moondream_station.core.facts.errors import SettingsInvalid

# Up to the last @ before the path. What follows a colon and is no port belongs to a password, with the
# slashes that it should not have; a later @ in a path is a revision, and no secret.
_CREDENTIALS_IN_TEXT = re.compile(
    r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/?#'\"<>]*@|[^\s/?#:@\['\"<>]*:(?!\d*(?:[\s/?#'\"<>]|$))[^\s'\"<>]*@)",
    re.IGNORECASE,
)
_WITHOUT_SCHEME = re.compile(r"(?!file:|[a-z]:[/\\])(?![^@]*://)[^/\\@]+:[^@]*@", re.IGNORECASE)
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
        parts.port  # noqa: B018  raises
    except ValueError:  # no URL ("http://[::1", "http://me:a/b@host"): still nothing to give away
        return redact_text(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def redact_url(url: str) -> str:
    """A URL as it may be shown: without credentials, query and fragment, each of which can hold a secret."""
    return without_credentials(url).partition("#")[0].partition("?")[0]


def redact_text(text: str) -> str:
    """A tool's output as it may be shown: every URL in it without credentials and query."""
    return _QUERY_IN_TEXT.sub(r"\1", _CREDENTIALS_IN_TEXT.sub(r"\1", text))


def checked_url(text: str, what: str) -> str:
    """A URL or a path out of the user's settings, unless it can't be told from a password in it.

    Raises:
        SettingsInvalid: It is a URL that can't be understood. It is not quoted: nobody knows where in it the
            password ends.
    """
    if is_malformed(text):
        raise SettingsInvalid(
            f"The URL of {what} is malformed; it is not shown, because it may hold a password.",
            hint="Begin it with https://, and in a user name or password write / as %2F, @ as %40, : as %3A.",
        )
    return text


def is_malformed(text: str) -> bool:
    """Whether it is a URL that can't be understood, so that nobody knows where in it a password ends."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  raises
    except ValueError:
        return True
    has_no_host = parts.scheme in {"http", "https"} and not parts.hostname
    return has_no_host or _WITHOUT_SCHEME.match(text) is not None


def credentials_in(url: str) -> Credentials | None:
    """The user's name and password that a URL holds, None where it holds neither."""
    try:
        userinfo, separator, _ = urlsplit(url).netloc.rpartition("@")
    except ValueError:  # no URL
        return None
    if not separator:
        return None
    username, _, password = userinfo.partition(":")
    return Credentials(unquote(username), unquote(password))
