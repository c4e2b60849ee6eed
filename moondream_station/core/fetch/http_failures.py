"""What HTTP and sockets can raise, in a user's words: the one table of it."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator

import httpx2

from moondream_station.core.facts.redact import redact_text

_UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH}

_BY_TYPE: tuple[tuple[type[Exception], str], ...] = (
    (httpx2.ProxyError, "the proxy does not help ({text})"),
    (httpx2.ConnectTimeout, "it does not answer (no connection in time)"),
    (httpx2.TimeoutException, "it does not answer in time"),
    (TimeoutError, "it does not answer in time"),
    (httpx2.TooManyRedirects, "it redirects in circles"),
    (httpx2.ConnectError, "no connection ({text})"),
    (httpx2.TransportError, "the connection broke ({text})"),
)
"""The first that fits counts, so a special case stands before what it is a case of."""


def explain_failure(error: Exception) -> str:
    """Why nothing came, in words that follow a colon.

    Args:
        error: What the client raised, or the time limit around it.
    """
    words = next((text for cause in _causes(error) if (text := _explain_cause(cause)) is not None), None)
    if words is not None and not isinstance(error, httpx2.ProxyError):
        return words
    text = redact_text(str(error)) or type(error).__name__
    return next((form.format(text=text) for kind, form in _BY_TYPE if isinstance(error, kind)), text)


def is_unreachable(error: Exception) -> bool:
    """Whether nobody answered at all, so that asking the same server for something else is in vain."""
    return isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError)


def is_of_tls(error: Exception) -> bool:
    """Whether somebody answered, and no secure connection came of it."""
    return any(isinstance(cause, ssl.SSLError) for cause in _causes(error))


def _explain_cause(cause: BaseException) -> str | None:
    match cause:
        case ssl.SSLCertVerificationError():
            words = f"its certificate is not trusted ({cause.verify_message})"
        case ssl.SSLError():
            words = f"no secure connection ({cause.reason or cause})"
        case socket.gaierror():
            words = "its name can't be resolved"
        case ConnectionRefusedError():
            words = "the connection is refused"
        case OSError() if cause.errno in _UNREACHABLE:
            words = "there is no way to it (network unreachable)"
        case _:
            return None
    return words


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, what it was raised from, and what those group, outermost first."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions
        pending += [cause for cause in (current.__cause__, current.__context__) if cause is not None]
