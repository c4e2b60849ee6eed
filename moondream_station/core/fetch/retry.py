"""When a server is asked again: the one policy, for pages, sizes and the parts of a file."""

from __future__ import annotations

import email.utils
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING

import anyio

from moondream_station.core.packaging.packaging_config import PackagingConfig

if TYPE_CHECKING:
    import httpx2

MAX_PAGE_BYTES = 64 << 20
"""PyPI's largest listings have some 20 MB; what is larger is none, and must not fill the memory."""

_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
CREDENTIALS_HINT = "Put them into the index's URL or into netrc."
CREDENTIALS_REFUSED = "requires credentials, or rejected those it was given"


class AttemptFailed(Exception):
    """An attempt did not bring everything; the message says why, in words that follow a colon.

    Args:
        reason: Those words.
        is_final: Whether a further attempt can't help.
        is_unreachable: Whether nobody answered at all, or no secure connection came of it.
        retry_after_seconds: How long the server asked to wait.
        hint: What to do, where this failure has a remedy of its own.
    """

    def __init__(
        self,
        reason: str,
        *,
        is_final: bool = False,
        is_unreachable: bool = False,
        retry_after_seconds: float = 0.0,
        hint: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.is_final = is_final
        self.is_unreachable = is_unreachable
        self.retry_after_seconds = retry_after_seconds
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server may take; there is no limit for a whole file.

    Args:
        first_byte_seconds: From a request to the first byte of its answer.
        stall_seconds: Between two pieces of an answer.
        silence_seconds: Of one address in all, whatever attempts remain: then it is an error that names it.
        attempts: How many attempts in a row may bring nothing.
        pause_seconds: Before the second attempt; doubled before each further one.
        longest_pause_seconds: No pause is longer, also where a server asks for it.
    """

    first_byte_seconds: float = 30.0
    stall_seconds: float = 30.0
    silence_seconds: float = 60.0
    attempts: int = 5
    pause_seconds: float = 0.5
    longest_pause_seconds: float = 30.0

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
    seconds, retries = config.timeout_seconds, config.retries
    return replace(
        usual,
        first_byte_seconds=usual.first_byte_seconds if seconds is None else seconds,
        stall_seconds=usual.stall_seconds if seconds is None else seconds,
        silence_seconds=max(usual.silence_seconds, seconds or 0.0),
        attempts=usual.attempts if retries is None else retries + 1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A server's answer with its whole body.

    Args:
        status: 4xx too; what may pass by itself was asked again.
        url: Where it came from, after redirects.
        content_type: As the server says.
        content: The body; empty for HEAD.
        announced_bytes: The size of the body by its head, None where that does not say.
    """

    status: int
    url: str
    content_type: str
    content: bytes
    announced_bytes: int | None


async def ask(client: httpx2.AsyncClient, url: str, patience: Patience, *, method: str = "GET") -> Answer:
    """A server's answer about a page or file, whether that exists or not.

    Raises:
        AttemptFailed: It can't be reached, keeps failing, or its page is too large.
    """
    import httpx2  # noqa: PLC0415  65 ms that nothing which asks nobody should pay

    headers = {"Accept-Encoding": "identity"} if method == "HEAD" else {}
    fruitless, began = 0, anyio.current_time()
    while True:
        try:
            async with client.stream(method, url, headers=headers, follow_redirects=True) as response:
                if not is_passing(response.status_code):
                    return Answer(
                        status=response.status_code,
                        url=str(response.url),
                        content_type=response.headers.get("Content-Type", ""),
                        content=await read_bounded(response),
                        announced_bytes=content_length(response),
                    )
                failure = refusal(response)
        except httpx2.RequestError as error:
            failure = failure_of(error, is_answered=False)
        fruitless += 1
        await patience.pause(fruitless, failure, silent_since=began)


async def read_bounded(response: httpx2.Response, limit_bytes: int = MAX_PAGE_BYTES) -> bytes:
    """A body, whole."""
    content = bytearray()
    with anyio.CancelScope() as scope:
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > limit_bytes:
                scope.cancel()  # not left by an error: the library's generators would be left standing
    if len(content) > limit_bytes:
        raise AttemptFailed(f"the page is larger than {limit_bytes >> 20} MiB", is_final=True)
    return bytes(content)


def content_length(response: httpx2.Response) -> int | None:
    """The size that a server announces, None where it does not."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def is_passing(status: int) -> bool:
    """Whether an answer of this status may be another one soon."""
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING


def refusal(response: httpx2.Response) -> AttemptFailed:
    """What a status that is no success says."""
    status = response.status_code
    reason = f"the server answers {status} {response.reason_phrase}".rstrip()
    if is_passing(status):
        return AttemptFailed(reason, retry_after_seconds=_retry_after(response))
    hint = {
        HTTPStatus.UNAUTHORIZED: f"The index {CREDENTIALS_REFUSED}. {CREDENTIALS_HINT}",
        HTTPStatus.FORBIDDEN: "The file may no longer exist (the PyTorch index answers 403 for that), or the "
        "index requires credentials. `--upgrade` locks again.",
        HTTPStatus.NOT_FOUND: "The file no longer exists. `--upgrade` locks again.",
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "The proxy requires credentials: put them into its URL.",
    }.get(HTTPStatus(status) if status in set(HTTPStatus) else HTTPStatus.OK)
    return AttemptFailed(reason, is_final=True, hint=hint)


def failure_of(error: httpx2.RequestError, *, is_answered: bool) -> AttemptFailed:
    """What the HTTP library raised, as a failed attempt; without any answer, a failure of TLS is final."""
    import httpx2  # noqa: PLC0415  as above

    from moondream_station.core.fetch.http_failures import (  # noqa: PLC0415  it imports the library
        explain_failure,
        is_of_tls,
        is_unreachable,
    )

    tls = is_of_tls(error)
    is_lasting = isinstance(error, httpx2.UnsupportedProtocol | httpx2.TooManyRedirects)
    hint = "Name the certificate authority's file with PIP_CERT, or add it to the system's store."
    return AttemptFailed(
        explain_failure(error),
        is_final=(tls and not is_answered) or is_lasting,
        is_unreachable=tls or is_unreachable(error),
        hint=hint if tls and not is_answered else None,
    )


def _retry_after(response: httpx2.Response) -> float:
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    if not text:
        return 0.0
    try:
        at = email.utils.parsedate_to_datetime(text)
        sent = email.utils.parsedate_to_datetime(response.headers.get("Date", ""))
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, (at - sent).total_seconds()) if (at.tzinfo is None) == (sent.tzinfo is None) else 0.0
