"""The HTTP library's transport, with two kinds of failure brought into clearer terms."""

from __future__ import annotations

import ssl

import httpx2

from moondream_station.core.facts.redact import redact_url
from moondream_station.core.fetch.http_failures import explain_failure, is_of_tls


class Transport(httpx2.AsyncHTTPTransport):
    """Raises the library's own exceptions alone, and says when it was the proxy that could not be reached.

    With TLS 1.3 a server refuses a client's certificate after the handshake. Under asyncio httpx2 2.16 then
    lets the bare `ssl.SSLError` through (measured: in every third request or so; under trio it does not).

    Args:
        verify: What servers have to prove.
        proxy: The proxy's URL, None for a direct way.
        limits: How many connections there may be.
    """

    def __init__(self, *, verify: ssl.SSLContext, proxy: str | None, limits: httpx2.Limits) -> None:
        super().__init__(verify=verify, proxy=proxy, limits=limits, trust_env=False)
        self._proxy = proxy

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request."""
        try:
            return await super().handle_async_request(request)
        except ssl.SSLError as error:
            raise httpx2.ReadError(str(error), request=request) from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if self._proxy is None or is_of_tls(error):  # behind a proxy TLS is spoken with the server itself
                raise
            text = f"{redact_url(self._proxy)}: {explain_failure(error)}"
            raise httpx2.ProxyError(text, request=request) from error
