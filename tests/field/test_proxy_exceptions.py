"""NO_PROXY as people have it, from the reports of other projects."""

from __future__ import annotations

import httpx2
import pytest

from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.packaging.packaging_config import PackagingConfig
from support.torch_index import TorchIndex

pytestmark = pytest.mark.anyio

_REFUSED = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "entry", ["127.0.0.0/8", "127.0.0.1/8", "127.0.0.0/255.0.0.0", "127.0.0.1", "http://127.0.0.1/"]
)
async def test_a_network_excepts_the_addresses_in_it(entry: str) -> None:
    """As curl, pip and uv understand it; fe80::/10, of which they make nothing here, stops nobody."""
    config = PackagingConfig(proxies={"http": _REFUSED}, no_proxy=("localhost", entry, "fe80::/10"))
    with TorchIndex() as index:
        async with open_client(config) as client:
            assert (await client.get(f"{index.simple_url}/")).status_code == 200


@pytest.mark.parametrize(
    "entry",
    ["10.0.0.0/8", "10.0.0.0/33", "fe80::1%eth0", "[::1]/200", "[::1", "host:port", "a b", "example/8"],
)
async def test_an_entry_that_means_nothing_here_is_skipped(entry: str) -> None:
    """Everything goes on through the proxy, as with curl, pip and uv."""
    with TorchIndex() as proxy:
        config = PackagingConfig(proxies={"http": proxy.address}, no_proxy=(entry,))
        async with open_client(config) as client:
            assert (await client.get("http://packages.invalid/simple/")).status_code == 200


async def test_a_trusted_host_may_be_an_address_in_an_excepted_network() -> None:
    """It is reached directly, without a proxy that would refuse, and its IPv6 may stand without brackets."""
    config = PackagingConfig(
        proxies={"https": _REFUSED}, no_proxy=("127.0.0.0/8",), trusted_hosts=("127.0.0.1", "fe80::1")
    )
    async with open_client(config) as client:
        with pytest.raises(httpx2.ConnectError) as caught:
            await client.get("https://127.0.0.1:9/")
    assert not isinstance(caught.value, httpx2.ProxyError)


def test_a_trusted_host_that_does_not_parse_is_a_setting_to_correct() -> None:
    """The message names it and where it is set."""
    with pytest.raises(SettingsInvalid, match="trusted host 'a:b' is not valid"):
        open_client(PackagingConfig(trusted_hosts=("a:b",)))
