"""When a server is asked again: the one policy, for pages, sizes and the parts of a file."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING

import anyio

from moondream_station.core.facts.errors import NetworkFault
from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.packaging.packaging_config import CONNECT_SECONDS, STALL_SECONDS, PackagingConfig

if TYPE_CHECKING:
    import httpx2

MAX_PAGE_BYTES = 64 << 20
"""PyPI's largest listings have some 20 MB; what is larger is none, and must not fill the memory."""

_SLOWEST_BYTES_PER_SECOND = 1 << 10
"""What sends less than this counts as silent: a page that trickles would come for hours."""

_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
CREDENTIALS_HINT = "Put them into the index's URL or into netrc."
CREDENTIALS_REFUSED = "requires credentials, or rejected those it was given"
_REASONS = {
    401: f"it {CREDENTIALS_REFUSED} (status 401)",
    407: "the proxy requires credentials (status 407)",
}
_HINTS = {
    401: CREDENTIALS_HINT,
    403: "The file may no longer exist (the PyTorch index answers 403 for that), or the index requires"
    " credentials. `--upgrade` locks again.",
    404: "The file no longer exists. `--upgrade` locks again.",
    407: "The proxy requires credentials: put them into its URL.",
}
_FAULTS = {401: NetworkFault.CREDENTIALS, 403: NetworkFault.FORBIDDEN, 407: NetworkFault.PROXY}


@dataclass(eq=False)
class AttemptFailed(Exception):
    """An attempt did not bring everything; `reason` says why, in words that follow a colon.

    It is final where a further attempt can't help, and unreachable where nobody answered at all, or no secure
    connection came of it. `hint` is what to do, where this failure has a remedy of its own.
    """

    reason: str
    _: KW_ONLY
    is_final: bool = False
    is_unreachable: bool = False
    retry_after_seconds: float = 0.0
    hint: str | None = None
    fault: NetworkFault | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server may take, uv's own limits; there is no limit for a whole file."""

    connect_seconds: float = CONNECT_SECONDS
    stall_seconds: float = STALL_SECONDS
    """From a request to the first byte of its answer, and between two pieces of it."""
    silence_seconds: float = 60.0
    """Of one address in all, whatever attempts remain: then it is an error that names it."""
    attempts: int = 5
    """How many in a row may bring nothing."""
    pause_seconds: float = 0.5
    """Before the second attempt; doubled before each further one."""
    longest_pause_seconds: float = 30.0
    """No pause is longer, also where a server asks for it."""

    async def pause(self, fruitless: int, failure: AttemptFailed, *, silent_since: float) -> None:
        """Wait before the next attempt, after so many that brought nothing since a time on anyio's clock."""
        is_over = anyio.current_time() - silent_since >= self.silence_seconds
        if failure.is_final or fruitless >= self.attempts or is_over:
            raise failure
        pause = self.pause_seconds * 2 ** (fruitless - 1)
        await anyio.sleep(min(max(pause, failure.retry_after_seconds), self.longest_pause_seconds))


FILE_PATIENCE = Patience()
PAGE_PATIENCE = Patience(attempts=3, pause_seconds=0.3)
"""A page is small and somebody waits for it."""


def patience_of(config: PackagingConfig, usual: Patience = FILE_PATIENCE) -> Patience:
    """As patient as the user's packaging set-up says, the usual where it says nothing."""
    seconds, connect, retries = config.timeout_seconds, config.connect_timeout_seconds, config.retries
    return replace(
        usual,
        connect_seconds=connect or usual.connect_seconds,
        stall_seconds=seconds or usual.stall_seconds,
        silence_seconds=max(usual.silence_seconds, seconds or 0.0),
        attempts=usual.attempts if retries is None else retries + 1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A server's answer with its whole body, which is empty for HEAD; `url` is its own after redirects."""

    status: int
    reason: str
    url: str
    headers: Mapping[str, str]
    content: bytes = b""

    @property
    def announced_bytes(self) -> int | None:
        """The size of the body by its head, None where that does not say."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() else None


async def ask(
    client: httpx2.AsyncClient,
    url: str,
    patience: Patience,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    most_bytes: int = MAX_PAGE_BYTES,
) -> Answer:
    """A server's answer about a page or file, whether that exists or not; a larger body is a failure."""
    import httpx2  # noqa: PLC0415  65 ms that nothing which asks nobody should pay

    headers = {"Accept-Encoding": "identity"} if method == "HEAD" else headers
    timeout = httpx2.Timeout(patience.stall_seconds, connect=patience.connect_seconds, pool=None)
    fruitless, began = 0, anyio.current_time()
    with anyio.CancelScope(deadline=began + patience.silence_seconds) as scope:
        while True:
            try:
                async with client.stream(
                    method, url, headers=headers, timeout=timeout, follow_redirects=True
                ) as response:
                    answer = head_of(response)
                    failure = refusal(answer)
                    if failure.is_final:
                        return replace(answer, content=await _read(response, scope, most_bytes))
            except (httpx2.RequestError, httpx2.InvalidURL) as error:
                failure = failure_of(error, is_answered=False)
            fruitless += 1
            await patience.pause(fruitless, failure, silent_since=began)
    raise AttemptFailed(f"it sent next to nothing for {patience.silence_seconds:g} seconds")


async def _read(response: httpx2.Response, slow: anyio.CancelScope, most_bytes: int) -> bytes:
    """A body, whole; what arrives puts off the end of patience."""
    content = bytearray()
    with anyio.CancelScope() as scope:
        async for chunk in response.aiter_bytes():
            content += chunk
            slow.deadline += len(chunk) / _SLOWEST_BYTES_PER_SECOND
            if len(content) > most_bytes:
                scope.cancel()  # not left by an error: the library's generators would be left standing
    if len(content) > most_bytes:
        raise AttemptFailed(f"the page is larger than {most_bytes >> 20} MiB", is_final=True)
    return bytes(content)


def head_of(response: httpx2.Response) -> Answer:
    """An answer without its body."""
    return Answer(
        status=response.status_code,
        reason=response.reason_phrase,
        url=without_credentials(str(response.url)),
        headers=response.headers,
    )


def refusal(answer: Answer) -> AttemptFailed:
    """What a status that is no success says."""
    status = answer.status
    reason = _REASONS.get(status) or f"it answers {status} {answer.reason}".rstrip()
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING:  # another one soon, perhaps
        return AttemptFailed(reason, retry_after_seconds=_retry_after(answer.headers))
    return AttemptFailed(reason, is_final=True, hint=_HINTS.get(status), fault=_FAULTS.get(status))


def failure_of(error: httpx2.RequestError | httpx2.InvalidURL, *, is_answered: bool) -> AttemptFailed:
    """What the HTTP library raised, as a failed attempt; without any answer, a failure of TLS is final."""
    import httpx2  # noqa: PLC0415  as above

    from moondream_station.core.fetch import http_client  # noqa: PLC0415  it imports the library

    if isinstance(error, httpx2.InvalidURL):
        return AttemptFailed(f"its address is not valid ({error})", is_final=True)
    tls = http_client.is_of_tls(error)
    is_lasting = isinstance(error, httpx2.UnsupportedProtocol | httpx2.TooManyRedirects)
    hint = "Name the certificate authority's file with PIP_CERT, or add it to the system's store."
    fault, reason = http_client.understand(error)
    return AttemptFailed(
        reason,
        is_final=(tls and not is_answered) or is_lasting,
        is_unreachable=tls or http_client.is_unreachable(error),
        hint=hint if tls and not is_answered else None,
        fault=fault,
    )


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text)
        sent = email.utils.parsedate_to_datetime(headers.get("Date", ""))
        return max(0.0, (at - sent).total_seconds())
    except (ValueError, TypeError):  # no date, or one of the two without a time zone
        return 0.0
