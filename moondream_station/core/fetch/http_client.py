"""The one way the station fetches over HTTP, as the user set it up, and what can fail there, in words.

It imports the HTTP library: who may fetch nothing imports it when a client is opened.
"""

from __future__ import annotations

import errno
import netrc
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import urlsplit

import httpx2

from moondream_station.core.facts.errors import NetworkFault, SettingsInvalid
from moondream_station.core.facts.redact import Credentials, credentials_in, redact_text, redact_url
from moondream_station.core.facts.version import VERSION
from moondream_station.core.packaging.packaging_config import CONNECT_SECONDS, STALL_SECONDS, PackagingConfig

USER_AGENT = f"moondream-station/{VERSION}"

_MAX_CONNECTIONS = 32
_IPV6 = 6
_Route: TypeAlias = tuple[str | None, bool]
"""By which proxy a server is reached, and whether its certificate is checked."""

_DEFAULT_PORTS = {"http": 80, "https": 443}

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


def open_client(config: PackagingConfig, *, torch_index: str | None = None) -> httpx2.AsyncClient:
    """A client that reaches servers as the user's set-up says, to be used as an async context manager.

    Redirects are followed; what authenticates to one host is never sent to another. The name and password in
    `torch_index`, which stands for https://download.pytorch.org/whl, go with every request to it.
    """
    trusting = _tls_context(config)
    careless = _tls_context(config, check=False) if config.trusted_hosts else trusting
    limits = httpx2.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS)

    def transport(route: _Route) -> _Transport:
        proxy, is_checked = route
        try:
            return _Transport(verify=trusting if is_checked else careless, proxy=proxy, limits=limits)
        except ImportError as error:
            raise SettingsInvalid(
                f"The proxy {redact_url(proxy or '')} needs the package `socksio` for SOCKS.",
                hint="Install `socksio` into Moondream Station's environment, or use an HTTP proxy.",
            ) from error
        except (ValueError, httpx2.InvalidURL) as error:
            raise SettingsInvalid(
                f"The proxy {redact_url(proxy or '')} is not valid: {error}",
                hint="Write it as http://HOST:PORT, in pip's `proxy`, HTTPS_PROXY or HTTP_PROXY.",
            ) from error

    routes = _routes(config)
    return httpx2.AsyncClient(
        auth=_Authorizer(config, *([torch_index] if torch_index is not None else [])),
        headers={"User-Agent": USER_AGENT},
        follow_redirects=True,
        timeout=httpx2.Timeout(
            config.timeout_seconds or STALL_SECONDS,
            connect=config.connect_timeout_seconds or CONNECT_SECONDS,
            pool=None,
        ),
        transport=transport(routes.pop("all://")),
        mounts={pattern: transport(route) for pattern, route in routes.items()},
        trust_env=False,
    )


def _routes(config: PackagingConfig) -> dict[str, _Route]:
    """How each URL is reached, by the library's own patterns; the most specific one counts."""
    everywhere = {"*"} & set(config.no_proxy)
    proxies: Mapping[str, str] = {} if everywhere else config.proxies
    routes: dict[str, _Route] = {"all://": (None, True)}
    routes |= {f"{scheme}://": (url, True) for scheme, url in proxies.items()}
    if proxies:
        patterns = map(_pattern, config.no_proxy)
        routes |= {pattern: (None, True) for pattern in patterns if pattern is not None}
    for host in config.trusted_hosts:  # pip takes IPv6 addresses without brackets too
        is_bare = host.count(":") > 1 and "[" not in host
        try:
            url = httpx2.URL(f"https://[{host}]" if is_bare else f"https://{host}")
        except httpx2.InvalidURL as error:
            raise SettingsInvalid(
                f"The trusted host {redact_text(host)!r} is not valid: {error}",
                hint="Write it as HOST or HOST:PORT, in pip's `trusted-host` or UV_INSECURE_HOST.",
            ) from error
        is_direct = any(_excepts(entry, url.host) for entry in config.no_proxy)
        routes[str(url)] = (None if is_direct else proxies.get("https"), False)
    return routes


def _pattern(entry: str) -> str | None:
    """An entry of NO_PROXY as curl, pip and uv understand it: a network, an address, or a name and all below.

    None for one that none of them does: they skip it, and so does the station.
    """
    network = _network(entry)
    if network is not None:
        address = network.network_address
        host = f"[{address}]" if network.version == _IPV6 else str(address)
        return f"all://{host}/{network.prefixlen}"
    name = _bare(entry)
    pattern = f"all://{name}" if name.startswith("[") else f"all://*{name}"
    try:
        return str(httpx2.URL(pattern)) if "/" not in name else None
    except httpx2.InvalidURL:
        return None


def _network(entry: str) -> IPv4Network | IPv6Network | None:
    """The network that an entry of NO_PROXY names, an address being one of its own; None for a name."""
    try:  # a zone ("fe80::1%eth0") is no part of a network, and the HTTP library refuses it
        return ip_network(_bare(entry).replace("[", "").replace("]", "").partition("%")[0], strict=False)
    except ValueError:
        return None


def _excepts(entry: str, host: str) -> bool:
    """Whether an entry of NO_PROXY is about a host."""
    network = _network(entry)
    if network is None:
        name = _bare(entry).lstrip(".").lower()
        return host == name or host.endswith(f".{name}")
    try:
        return ip_address(host) in network
    except ValueError:
        return False


def _bare(entry: str) -> str:
    return (entry.partition("://")[2] or entry).rstrip("/")


def _tls_context(config: PackagingConfig, *, check: bool = True) -> ssl.SSLContext:
    """What servers have to prove: to the user's own certificates, else to those of the system."""
    try:
        if config.cert is None or not check:
            context = httpx2.create_ssl_context(verify=check, trust_env=False)
        else:
            is_folder = config.cert.is_dir()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(**{"capath" if is_folder else "cafile": str(config.cert)})
    except OSError as error:  # ssl.SSLError is one
        raise SettingsInvalid(
            f"The certificates at {config.cert} can't be read: {error}",
            hint="PIP_CERT, pip's `cert`, SSL_CERT_FILE or REQUESTS_CA_BUNDLE names them.",
        ) from error
    if config.client_cert is not None:
        try:
            context.load_cert_chain(config.client_cert)
        except OSError as error:
            raise SettingsInvalid(
                f"The client certificate {config.client_cert} can't be read: {error}",
                hint="pip's `client-cert` names it: one PEM file with the certificate and its key.",
            ) from error
    return context


class _Authorizer:
    """Adds a user's name and password to requests for the places they belong to.

    A URL's own come first, then those of the index that the URL lies below, then those of an index on the
    same host (an index's files often lie beside it), then the netrc file's. The HTTP library takes them off
    again where a redirect leads to another host.
    """

    def __init__(self, config: PackagingConfig, *further_urls: str) -> None:
        self._places: list[tuple[str, str, Credentials]] = []
        for url in (*further_urls, *config.index_urls, *config.find_links):
            credentials = credentials_in(url)
            if credentials is not None:
                self._places.append((_origin(url), urlsplit(url).path, credentials))
        self._places.sort(key=lambda place: len(place[1]), reverse=True)
        self._netrc: netrc.netrc | None = None
        # Pip and uv too go on without a file that can't be understood; a server then answers 401.
        with suppress(OSError, netrc.NetrcParseError, UnicodeDecodeError):
            self._netrc = netrc.netrc(config.netrc) if config.netrc is not None else None

    def __call__(self, request: httpx2.Request) -> httpx2.Request:
        """The request with what belongs to its URL, unless it is authorized already."""
        if "Authorization" not in request.headers:
            credentials = self._find(request)
            if credentials is not None:
                return next(httpx2.BasicAuth(*credentials).auth_flow(request))
        return request

    def _find(self, request: httpx2.Request) -> Credentials | None:
        url = request.url
        if url.username or url.password:
            return Credentials(url.username, url.password)
        origin = _origin(str(url))
        here = [(path, known) for place, path, known in self._places if place == origin]
        below = [known for path, known in here if url.path.startswith(path)]
        for known in (*below, *(known for _, known in here)):
            return known
        entry = self._netrc.authenticators(url.host) if self._netrc is not None else None
        return Credentials(entry[0] or "", entry[2] or "") if entry else None


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or _DEFAULT_PORTS.get(parts.scheme)}"


class _Transport(httpx2.AsyncHTTPTransport):
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
