"""What goes through the loopback index: requests, answers, and the faults that spoil them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Fault:
    """One way in which the server does not behave, for the requests it matches.

    Args:
        match: Shell pattern over the decoded path ("/whl/cu128/torch-*.whl", "*").
        times: How many matching requests it spoils; None for all of them.
        skip: How many matching requests go well first.
        status: Answer this status and nothing else.
        headers: Further headers of that answer ("Retry-After").
        hang_after_bytes: Send so much of the body, then nothing, until the server ends.
        reset_after_bytes: Send so much of the body, then reset the connection.
        close_after_bytes: Send so much of the body, then close the connection in order.
        corrupt_byte: Flip the byte of the file at this position.
        size_delta: Claim a length that is wrong by so many bytes.
        ignore_range: Answer 200 with the whole file to a request for a part.
        ignore_if_range: Send the part that is asked for although the file is another one by now.
        bytes_per_second: Send no faster than this.
        redirect: Answer 302 to this location.
    """

    match: str
    times: int | None = None
    skip: int = 0
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_after_bytes: int | None = None
    reset_after_bytes: int | None = None
    close_after_bytes: int | None = None
    corrupt_byte: int | None = None
    size_delta: int = 0
    ignore_range: bool = False
    ignore_if_range: bool = False
    bytes_per_second: int | None = None
    redirect: str | None = None

    def is_due(self) -> bool:
        """Whether it holds for the request that just came; counts that request."""
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
            return self.times >= 0
        return True

    def add(self, fault: Fault) -> None:
        """Takes over everything that another fault does."""
        harmless = Fault(match=fault.match)
        for name, value in vars(fault).items():
            if name not in {"match", "times", "skip"} and value != getattr(harmless, name):
                setattr(self, name, value)


@dataclass(kw_only=True)
class Request:
    """One request as the server saw it; `status` and `bytes_sent` grow while it is answered.

    Args:
        method: "GET" or "HEAD".
        path: Decoded path, without the query.
        target: As it stood in the request line; an absolute URL where the server is used as a proxy.
        range: The `Range` header, None without one.
        headers: All headers, names in lower case.
        status: What was answered, None before that.
        bytes_sent: How much of the body was sent.
    """

    method: str
    path: str
    target: str
    range: str | None
    headers: dict[str, str]
    status: int | None = None
    bytes_sent: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For the page `/_requests`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Resource:
    """What a path gives."""

    content: bytes
    content_type: str
    etag: str | None = None
    ranges: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
