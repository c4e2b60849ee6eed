"""Reaching servers as the user's set-up says, against real servers on loopback."""

from __future__ import annotations

import importlib.util
import ssl
import subprocess
import sys
from pathlib import Path

import anyio
import httpx2
import pytest
import trustme

from moondream_station import __version__
from moondream_station.core.facts.errors import NetworkFault, SettingsInvalid
from moondream_station.core.fetch.http_client import explain_failure, is_unreachable, open_client, understand
from moondream_station.core.packaging.packaging_config import PackagingConfig
from support.index_traffic import Fault
from support.torch_index import TorchIndex

pytestmark = pytest.mark.anyio

_BASIC = "Basic bWU6c2VjcmV0"  # me:secret


async def _get(url: str, config: PackagingConfig, *, torch_index: str | None = None) -> httpx2.Response:
    async with open_client(config, torch_index=torch_index) as client:
        return await client.get(url)


async def test_the_station_says_who_it_is() -> None:
    """Operators of indexes see name and version."""
    with TorchIndex() as index:
        assert (await _get(f"{index.simple_url}/", PackagingConfig())).status_code == 200
        (request,) = index.requests
    assert request.headers["user-agent"] == f"moondream-station/{__version__}"
    assert "authorization" not in request.headers


async def test_time_limits_bound_silence() -> None:
    """The user's own limits go before the built-in ones."""
    async with open_client(PackagingConfig(timeout_seconds=180, connect_timeout_seconds=4)) as client:
        assert client.timeout == httpx2.Timeout(180, connect=4, pool=None)
    async with open_client(PackagingConfig()) as client:
        assert client.timeout == httpx2.Timeout(30, connect=10, pool=None)


async def test_an_indexs_credentials_go_to_its_host() -> None:
    """Also with files that lie beside the index, whose URLs carry none; before anyone asks for them."""
    with TorchIndex(credentials=("me", "secret")) as index:
        url = index.torch_url.replace("://", "://me:secret@")
        for config, torch_index in (
            (PackagingConfig(index_url=url), None),
            (PackagingConfig(extra_index_urls=(url,)), None),
            (PackagingConfig(find_links=(url,)), None),
            (PackagingConfig(), url),
        ):
            response = await _get(f"{index.simple_url}/", config, torch_index=torch_index)
            assert response.status_code == 200
        assert (await _get(f"{url.removesuffix('whl')}simple/", PackagingConfig())).status_code == 200
        assert {request.status for request in index.requests} == {200}
        assert (await _get(f"{index.simple_url}/", PackagingConfig())).status_code == 401


async def test_the_longest_matching_index_decides() -> None:
    """Two indexes of one host may have credentials of their own."""
    with TorchIndex(credentials=("me", "secret")) as index:
        config = PackagingConfig(
            index_url=f"{index.address.replace('://', '://other:wrong@')}/whl",
            extra_index_urls=(index.simple_url.replace("://", "://me:secret@"),),
        )
        assert (await _get(f"{index.simple_url}/", config)).status_code == 200
        assert (await _get(f"{index.torch_url}/", config)).status_code == 401


async def test_a_redirect_to_another_host_takes_no_credentials_along() -> None:
    """What authenticates to the index is nobody else's business."""
    with TorchIndex() as index, TorchIndex() as other:
        index.faults.append(Fault(match="/whl/", redirect=f"{other.simple_url}/"))
        config = PackagingConfig(index_url=index.torch_url.replace("://", "://me:secret@"))
        assert (await _get(f"{index.torch_url}/", config)).status_code == 200
        assert index.requests[0].headers["authorization"] == _BASIC
        assert "authorization" not in other.requests[0].headers


async def test_netrc_gives_credentials_by_host(tmp_path: Path) -> None:
    """As pip and uv read it; a host it doesn't name gets none, and a broken file says nothing."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    with TorchIndex(credentials=("me", "secret")) as index:
        assert (await _get(f"{index.simple_url}/", PackagingConfig(netrc=netrc))).status_code == 200
        for other in ("machine other.example login me password secret\n", "machine\n"):
            netrc.write_text(other)
            assert (await _get(f"{index.simple_url}/", PackagingConfig(netrc=netrc))).status_code == 401


async def test_a_proxy_gets_every_request_but_the_excepted() -> None:
    """Names that only the proxy can resolve work; `NO_PROXY` is reached directly."""
    with TorchIndex() as proxy, TorchIndex() as direct:
        config = PackagingConfig(
            proxies={"http": proxy.address.replace("://", "://me:secret@")}, no_proxy=("127.0.0.1",)
        )
        assert (await _get("http://packages.invalid/simple/", config)).status_code == 200
        assert (await _get(f"{direct.simple_url}/", config)).status_code == 200
        (request,) = proxy.requests
    assert request.target == "http://packages.invalid/simple/"
    assert request.headers["proxy-authorization"] == _BASIC


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that no system knows."""
    return trustme.CA()


def _server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_the_users_certificates_are_trusted(authority: trustme.CA, tmp_path: Path) -> None:
    """A company's own authority works once it is named, and not before."""
    cert = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(cert))
    with TorchIndex(tls=_server_context(authority)) as index:
        assert (await _get(f"{index.simple_url}/", PackagingConfig(cert=cert))).status_code == 200
        with pytest.raises(httpx2.ConnectError) as caught:
            await _get(f"{index.simple_url}/", PackagingConfig())
    assert explain_failure(caught.value).startswith("its certificate is not trusted")


async def test_a_trusted_host_need_not_prove_itself(authority: trustme.CA) -> None:
    """With its port or without; other hosts still must."""
    with TorchIndex(tls=_server_context(authority)) as index:
        host = index.address.removeprefix("https://")
        for trusted in (host, "127.0.0.1"):
            config = PackagingConfig(trusted_hosts=(trusted,))
            assert (await _get(f"{index.simple_url}/", config)).status_code == 200
        with pytest.raises(httpx2.ConnectError):
            await _get(f"{index.simple_url}/", PackagingConfig(trusted_hosts=("127.0.0.1:1",)))


async def test_a_client_certificate_is_shown(authority: trustme.CA, tmp_path: Path) -> None:
    """A server that asks for one gets it."""
    cert, client_cert = tmp_path / "ca.pem", tmp_path / "client.pem"
    authority.cert_pem.write_to_path(str(cert))
    authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(str(client_cert))
    context = _server_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    with TorchIndex(tls=context) as index:
        config = PackagingConfig(cert=cert, client_cert=client_cert)
        assert (await _get(f"{index.simple_url}/", config)).status_code == 200
        with pytest.raises(httpx2.TransportError):
            await _get(f"{index.simple_url}/", PackagingConfig(cert=cert))


def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """Certificates that are none, a client certificate that is absent, a proxy of a strange kind."""
    broken = tmp_path / "broken"
    broken.write_text("machine\n")
    for config, words in (
        (PackagingConfig(cert=broken), "certificates at .*broken"),
        (PackagingConfig(client_cert=tmp_path / "absent"), "client certificate .*absent"),
        (
            PackagingConfig(proxies={"https": "gopher://me:secret@proxy.example"}),
            "proxy gopher://proxy.example",
        ),
    ):
        with pytest.raises(SettingsInvalid, match=words) as refused:
            open_client(config)
        assert refused.value.hint


@pytest.mark.skipif(
    importlib.util.find_spec("socksio") is not None, reason="SOCKS works where socksio is there"
)
def test_a_socks_proxy_needs_its_package() -> None:
    """The message says what to install."""
    with pytest.raises(SettingsInvalid, match="SOCKS") as caught:
        open_client(PackagingConfig(proxies={"https": "socks5://proxy.example:1"}))
    assert "socksio" in (caught.value.hint or "")


async def _failure(
    url: str, config: PackagingConfig | None = None, *, limit_seconds: float | None = None
) -> Exception:
    with pytest.raises((httpx2.HTTPError, TimeoutError)) as caught, anyio.fail_after(limit_seconds):
        await _get(url, config or PackagingConfig())
    return caught.value


async def test_failures_are_told_in_words(free_port: int) -> None:
    """Refused, unknown name, silence, a broken connection, a loop."""
    refused = await _failure(f"http://127.0.0.1:{free_port}/")
    assert understand(refused) == (NetworkFault.REFUSED, "the connection is refused")
    assert is_unreachable(refused)
    unknown = await _failure("http://packages.invalid/")
    assert understand(unknown) == (NetworkFault.NAME_UNKNOWN, "its name can't be resolved")
    assert is_unreachable(unknown)
    with TorchIndex() as index:
        index.faults.append(Fault(match="/simple/", hang_after_bytes=0))
        silent = await _failure(f"{index.simple_url}/", PackagingConfig(timeout_seconds=0.1))
        assert understand(silent) == (NetworkFault.SILENT, "it does not answer in time")
        assert not is_unreachable(silent)
        assert explain_failure(await _failure(f"{index.simple_url}/", limit_seconds=0.1)) == explain_failure(
            silent
        )
        index.faults[:] = [Fault(match="/simple/", reset_after_bytes=10)]
        assert explain_failure(await _failure(f"{index.simple_url}/")).startswith("the connection broke")
        index.faults[:] = [Fault(match="/simple/", redirect="/simple/")]
        assert explain_failure(await _failure(f"{index.simple_url}/")) == "it redirects in circles"


async def test_a_proxys_failures_are_its_own(free_port: int) -> None:
    """Neither a proxy that is not there nor one that refuses is taken for the server; no password is told."""
    with TorchIndex() as unwilling:
        for address, words in (
            (
                f"http://me:secret@127.0.0.1:{free_port}",
                f"http://127.0.0.1:{free_port}: the connection is refused",
            ),
            (unwilling.address, "405"),
        ):
            config = PackagingConfig(proxies={"https": address})
            error = await _failure("https://packages.invalid/", config)
            assert explain_failure(error).startswith("the proxy failed (")
            assert words in explain_failure(error)
            assert "secret" not in explain_failure(error)
            assert is_unreachable(error)


@pytest.fixture
def free_port() -> int:
    """A port of loopback that nobody listens on: of a server that has just ended."""
    with TorchIndex() as index:
        return int(index.address.rpartition(":")[2])


def test_the_library_is_imported_when_a_client_is_opened() -> None:
    """Commands that fetch nothing do not pay for it."""
    program = (
        "import sys, moondream_station.core.index.offers, moondream_station.core.fetch.download\n"
        "print(*sorted({'httpx2', 'truststore', 'pydantic', 'torch'} & set(sys.modules)))\n"
        "import moondream_station.cli.plan\n"
        "print(*sorted({'httpx2', 'truststore', 'torch'} & set(sys.modules)))"
    )
    argv = [sys.executable, "-c", program]
    completed = subprocess.run(
        argv, cwd=Path(__file__).parents[3], capture_output=True, check=True, text=True
    )
    assert completed.stdout.strip() == ""
