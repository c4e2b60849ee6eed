"""Who is let in, by rule and byte by byte over a socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from moondream_station.http.api import Answer, HostForbidden, OriginForbidden, TokenRequired
from moondream_station.http.guard import (
    MAX_BODIES_BYTES,
    MAX_BODY_BYTES,
    Access,
    is_loopback,
    split_authority,
)
from support.http_server import TOKEN, Served, serving
from support.station_api import FakeStation, echoes

pytestmark = pytest.mark.anyio

ROUTES = (
    "/",
    "/health",
    "/openapi.json",
    "/v1/models",
    "/v1/models/selftest",
    "/v1/stats",
    "/v1/station",
    "/v1/station/events",
    "/v1/station/doctor",
    "/v1/station/plan",
    "/v1/station/activations",
    "/v1/station/activations/a-1",
    "/v1/station/logs",
    "/v1/station/usage",
    "/page/main.js",
)
POSTS = (
    *("/v1/caption", "/caption", "/v1/chat/completions"),
    *("/v1/station/switch", "/v1/station/cancel", "/v1/station/rollback", "/v1/station/remove"),
)


def local(**headers: str) -> Headers:
    """Headers of a request to a station on port 2020."""
    return Headers(
        {"host": "localhost:2020"} | {name.replace("_", "-"): text for name, text in headers.items()}
    )


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "127.0.0.1:2020",
        "LOCALHOST:2020",
        "[::1]:2020",
        "[0:0:0:0:0:0:0:1]:1",
    ],
)
def test_own_names_are_answered_for(host: str) -> None:
    """Every spelling of this computer's own names passes, with any port."""
    Access.of(bound=["127.0.0.1"], token=TOKEN).check("/", Headers({"host": host}))


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:2020",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost.",
        "evil@localhost",
        "localhost:2020@evil.example",
        "127.0.0.1:port",
        "127.0.0.1:2020:1",
        "::1",
        "[::1",
        "[localhost]",
        "localhost/",
        "127.1",
        "2130706433",
        "0.0.0.0",
        "localhost, evil.example",
    ],
)
def test_other_names_are_refused(host: str) -> None:
    """A name that somebody else may own, or that is none, is not answered for."""
    with pytest.raises(HostForbidden):
        Access.of(bound=["127.0.0.1"], token=TOKEN).check("/", Headers({"host": host}))


def test_a_request_without_host_or_with_two_is_refused() -> None:
    """Nothing is guessed where the header is missing or ambiguous."""
    access = Access.of(bound=["127.0.0.1"], token=TOKEN)
    with pytest.raises(HostForbidden):
        access.check("/", Headers({}))
    with pytest.raises(HostForbidden):
        access.check("/", Headers(raw=[(b"host", b"localhost"), (b"host", b"evil.example")]))


def test_bound_and_allowed_names_are_answered_for() -> None:
    """The name the station is bound to, and each that `--allow-host` adds, pass."""
    access = Access.of(bound=["192.0.2.7"], allowed=["Station.Example"], token=TOKEN)
    for host in ("192.0.2.7:2020", "station.example", "STATION.example:443"):
        access.check("/health", Headers({"host": host}))


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:2020",
        "https://localhost:2020",
        "HTTP://LOCALHOST:2020",
        "http://127.0.0.1:2020",
        "http://[::1]:2020",
    ],
)
def test_own_origin_passes(origin: str) -> None:
    """The station's own page may ask, by each loopback name; behind a proxy with TLS its scheme is https."""
    Access.of(bound=["127.0.0.1"], token=TOKEN).check("/", local(origin=origin))


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://evil.example", "http://localhost", "http://localhost:3000", "http://127.0.0.1:3000",
     "http://127.0.0.2:2020", "http://192.0.2.7:2020",
     "file://", "http://localhost:2020.evil.example", "ftp://localhost:2020", "http://localhost:2020/"],
)  # fmt: skip
def test_other_origins_are_refused(origin: str) -> None:
    """Another port of this computer is another origin, too."""
    with pytest.raises(OriginForbidden):
        Access.of(bound=["127.0.0.1"], token=TOKEN).check("/", local(origin=origin))


def test_one_foreign_origin_of_two_is_refused() -> None:
    """A second header does not hide the first."""
    raw = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"http://evil.example")]
    with pytest.raises(OriginForbidden):
        Access.of(bound=["127.0.0.1"], token=TOKEN).check("/", Headers(raw=raw))


def test_on_loopback_no_token_is_asked_for() -> None:
    """Whatever a client sends as its key is no business of a station that only this computer reaches."""
    access = Access.of(bound=["127.0.0.1", "::1", "localhost"], token=TOKEN)
    access.check("/v1/caption", local(x_moondream_auth="somebody's key"))
    access.check("/v1/caption", local(authorization="Bearer wrong"))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer  {TOKEN}"},
        {"x-moondream-auth": TOKEN},
    ],
)
def test_the_token_opens_a_station_that_others_reach(headers: dict[str, str]) -> None:
    """Both headers carry it."""
    Access.of(bound=["0.0.0.0"], token=TOKEN).check("/v1/station", Headers({"host": "localhost"} | headers))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": TOKEN},
        {"authorization": "Bearer "},
        {"authorization": f"Basic {TOKEN}"},
        {"x-moondream-auth": ""},
        {"x-moondream-auth": TOKEN + "x"},
        {"x-moondream-auth": "é"},
    ],
)
def test_without_the_token_only_health_answers_others(headers: dict[str, str]) -> None:
    """One address that others reach is enough for the token to be asked for, on every route but one."""
    access = Access.of(bound=["127.0.0.1", "192.0.2.7"], token=TOKEN)
    sent = Headers({"host": "localhost"} | headers)
    access.check("/health", sent)
    for path in (*(route for route in ROUTES if route != "/health"), *POSTS):
        with pytest.raises(TokenRequired) as caught:
            access.check(path, sent)
        assert caught.value.headers == {"WWW-Authenticate": "Bearer"}


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.5", False), ("station.example", False)],
)  # fmt: skip
def test_loopback_is_told_from_the_rest(host: str, expected: bool) -> None:  # noqa: FBT001  a table's column
    """A name that is not localhost counts as reachable by others."""
    assert is_loopback(host) is expected


@given(st.text())
def test_any_authority_is_read_without_failing(text: str) -> None:
    """Whatever stands in `Host` is a host or is none; what is one carries nothing but its name."""
    host, _ = split_authority(text)
    assert host is None or not set(host) & set("/@ ,[]")


@pytest.mark.parametrize("path", ROUTES)
async def test_a_foreign_host_is_refused_on_every_route(served: Served, path: str) -> None:
    """The rule stands before the routes."""
    reply = await served.exchange(f"GET {path} HTTP/1.1\nHost: evil.example\n\n")
    assert reply.status == 403
    assert json.loads(reply.body)["error"]["code"] == "host-forbidden"


@pytest.mark.parametrize("path", [*POSTS, "/v1/nonsense"])
async def test_a_foreign_origin_is_refused_on_every_post(served: Served, path: str) -> None:
    """A page elsewhere can send a form without asking; it gets nothing, and the backend hears nothing."""
    served.station.backend["caption"] = echoes
    reply = await served.exchange(
        f"POST {path} HTTP/1.1\nHost: HOST\nOrigin: http://evil.example\n"
        "Content-Type: application/json\nContent-Length: 2\n\n{}"
    )
    assert reply.status == 403
    assert "origin-forbidden" in reply.body.decode()
    assert not served.station.calls
    assert served.station.state.activation is None


async def test_a_preflight_is_refused_and_no_answer_invites_other_origins(served: Served) -> None:
    """No answer carries a header that lets another origin read it."""
    foreign = await served.exchange(
        "OPTIONS /v1/caption HTTP/1.1\nHost: HOST\nOrigin: http://evil.example\n\n"
    )
    assert foreign.status == 403
    for path in ("/", "/health", "/v1/station", "/v1/models"):
        reply = await served.exchange(f"GET {path} HTTP/1.1\nHost: HOST\nOrigin: http://HOST\n\n")
        assert reply.status == 200
        assert not [
            name
            for name in (*reply.headers, *foreign.headers)
            if name.startswith(("access-control", "cross-"))
        ]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert "server" not in reply.headers


async def test_a_request_of_http_1_0_without_host_is_refused(served: Served) -> None:
    """The older protocol allows the header to be missing; the station does not."""
    assert (await served.exchange("GET /health HTTP/1.0\n\n")).status == 403


async def test_a_station_for_others_asks_for_its_token() -> None:
    """Over the line: 401 and the scheme without it, the answer with it, health for everybody."""
    async with serving(FakeStation(), bound="192.0.2.7", allowed=("station.example",)) as served:
        refused = await served.exchange("GET / HTTP/1.1\nHost: station.example\n\n")
        assert refused.status == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        given = await served.exchange(f"GET / HTTP/1.1\nHost: 192.0.2.7\nAuthorization: Bearer {TOKEN}\n\n")
        assert given.status == 200
        assert (await served.exchange("GET /health HTTP/1.1\nHost: HOST\n\n")).status == 200
        no_function = await served.exchange("POST /v1/x HTTP/1.1\nHost: HOST\nContent-Length: 0\n\n")
        assert json.loads(no_function.body).keys() == {"error", "status", "code"}


@pytest.mark.parametrize("path", ["/v1/caption", "/v1/station/switch"])
async def test_an_announced_body_that_is_too_large_is_refused_unread(served: Served, path: str) -> None:
    """The length alone decides; a client that asks first never sends the body."""
    reply = await served.exchange(
        f"POST {path} HTTP/1.1\nHost: HOST\nContent-Type: application/json\nExpect: 100-continue\n"
        f"Content-Length: {MAX_BODY_BYTES + 1}\n\n"
    )
    assert reply.status == 413
    assert "body-too-large" in reply.body.decode()


async def test_a_chunked_body_is_stopped_where_it_grows_too_large(served: Served) -> None:
    """Nothing is announced, so the bytes are counted as they come; a client that sends all is told."""
    served.station.backend["caption"] = echoes
    part = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    async with served.line() as line:
        await line.send(
            f"POST /v1/caption HTTP/1.1\nHost: 127.0.0.1:{served.port}\nContent-Type: application/json\n"
            "Transfer-Encoding: chunked\n\n"
        )
        for _ in range(33):
            await line.send(part)
        await line.send(b"0\r\n\r\n")
        reply = await line.read_reply()
    assert reply.status == 413
    assert json.loads(reply.body)["status"] == "rejected"
    assert not served.station.calls


async def test_a_body_of_just_the_limit_is_read(served: Served) -> None:
    """32 MiB are 32 MiB."""
    served.station.backend["caption"] = echoes
    body = b'{"a": "' + b"x" * (MAX_BODY_BYTES - 9) + b'"}'
    async with served.line() as line:
        await line.send(
            f"POST /v1/caption HTTP/1.1\nHost: 127.0.0.1:{served.port}\nContent-Type: application/json\n"
            f"Content-Length: {len(body)}\n\n"
        )
        await line.send(body)
        reply = await line.read_reply()
    assert reply.status == 200
    assert len(served.station.calls[0][1]["a"]) == MAX_BODY_BYTES - 9


async def test_large_bodies_wait_for_room_in_order(served: Served) -> None:
    """What is in memory is limited; small ones need no room, and pass."""
    may_answer = anyio.Event()

    async def slowly(arguments: Mapping[str, Any]) -> Answer:
        if "a" in arguments:
            await may_answer.wait()
        return {"size": len(arguments.get("a", ""))}

    async def send(size: int) -> None:
        body = b'{"a": "' + b"x" * (size - 9) + b'"}' if size else b"{}"
        async with served.line() as line:
            await line.send(
                f"POST /v1/caption HTTP/1.1\nHost: 127.0.0.1:{served.port}\nContent-Type: application/json\n"
                f"Content-Length: {len(body)}\n\n"
            )
            await line.send(body)
            assert (await line.read_reply()).status == 200

    served.station.backend["caption"] = slowly
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(send, MAX_BODIES_BYTES // 2)
        await send(0)
        while len(served.station.calls) < 3:  # noqa: ASYNC110  the fake tells nobody
            await anyio.sleep(0.01)
        await send(0)
        assert len(served.station.calls) == 4  # two large ones are answered, and two small ones were
        may_answer.set()
    assert len(served.station.calls) == 5
