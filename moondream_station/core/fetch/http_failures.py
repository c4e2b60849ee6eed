"""What HTTP and sockets can raise: in the HTTP library's own terms, and in a user's words."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import AsyncIterator, Iterator

import httpx2

from moondream_station.core.facts.errors import NetworkFault
from moondream_station.core.facts.redact import redact_text, redact_url

_BY_VERIFY_CODE = {9: NetworkFault.CERTIFICATE_NOT_YET_VALID, 10: NetworkFault.CERTIFICATE_EXPIRED}
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH}

_BY_TYPE: tuple[tuple[type[Exception], NetworkFault | None, str], ...] = (
    (httpx2.ProxyError, NetworkFault.PROXY, "the proxy failed ({text})"),
    (httpx2.ConnectTimeout, NetworkFault.SILENT, "it does not answer (no connection in time)"),
    (httpx2.TimeoutException, NetworkFault.SILENT, "it does not answer in time"),
    (TimeoutError, NetworkFault.SILENT, "it does not answer in time"),
    (httpx2.TooManyRedirects, None, "it redirects in circles"),
    (httpx2.ConnectError, None, "no connection ({text})"),
    (httpx2.TransportError, None, "the connection broke ({text})"),
)
"""The first that fits counts, so a special case stands before what it is a case of."""


class Transport(httpx2.AsyncHTTPTransport):
    """Raises the library's own exceptions alone, and says when it was the proxy that could not be reached.

    httpx2 2.16 lets a bare `ssl.SSLError` through, which is an `OSError` and would read as a fault of the
    disk: under asyncio, where a server refuses a client's certificate after the handshake, as TLS 1.3 does
    it (measured: in every third request or so; under trio not), and where a body breaks off in TLS.
    """

    def __init__(self, *, verify: ssl.SSLContext, proxy: str | None, limits: httpx2.Limits) -> None:
        super().__init__(verify=verify, proxy=proxy, limits=limits, trust_env=False)
        self._proxy = proxy

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request."""
        try:
            response = await super().handle_async_request(request)
        except ssl.SSLError as error:
            raise httpx2.ReadError(str(error), request=request) from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if self._proxy is None or is_of_tls(error):  # behind a proxy TLS is spoken with the server itself
                raise
            text = f"{redact_url(self._proxy)}: {explain_failure(error)}"
            raise httpx2.ProxyError(text, request=request) from error
        assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101  it was asked asynchronously
        response.stream = _Body(response.stream, request)
        return response


class _Body(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, request: httpx2.Request) -> None:
        self._stream = stream
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._stream:
                yield piece
        except ssl.SSLError as error:  # what the library passes on as it is
            raise httpx2.ReadError(str(error), request=self._request) from error

    async def aclose(self) -> None:
        await self._stream.aclose()


def explain_failure(error: Exception) -> str:
    """Why nothing came, in words that follow a colon, of what the client or a time limit around it raised."""
    return understand(error)[1]


def understand(error: Exception) -> tuple[NetworkFault | None, str]:
    """The same, with what it is a case of."""
    known = next((known for cause in _causes(error) if (known := _understand_cause(cause))), None)
    if known is not None and not isinstance(error, httpx2.ProxyError):
        return known
    text = redact_text(str(error)) or type(error).__name__
    fitting = ((fault, form) for kind, fault, form in _BY_TYPE if isinstance(error, kind))
    fault, form = next(fitting, (None, "{text}"))
    return fault, form.format(text=text)


def is_unreachable(error: Exception) -> bool:
    """Whether nobody answered at all, so that asking the same server for something else is in vain."""
    return isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError)


def is_of_tls(error: Exception) -> bool:
    """Whether somebody answered, and no secure connection came of it."""
    return any(isinstance(cause, ssl.SSLError) for cause in _causes(error))


def _understand_cause(cause: BaseException) -> tuple[NetworkFault, str] | None:
    match cause:
        case ssl.SSLCertVerificationError():
            fault = _BY_VERIFY_CODE.get(cause.verify_code, NetworkFault.CERTIFICATE_UNTRUSTED)
            return fault, f"its certificate is not trusted ({cause.verify_message})"
        case ssl.SSLError():
            return NetworkFault.TLS, f"no secure connection ({cause.reason or cause})"
        case socket.gaierror():
            return NetworkFault.NAME_UNKNOWN, "its name can't be resolved"
        case ConnectionRefusedError():
            return NetworkFault.REFUSED, "the connection is refused"
        case OSError() if cause.errno in _UNREACHABLE:
            return NetworkFault.NO_NETWORK, "the network is unreachable"
        case _:
            return None


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
