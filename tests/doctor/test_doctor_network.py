"""The places that packages come from: whether they answer, and why not."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

import moondream_station
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.machine.record import MachineRecord, load_record
from moondream_station.doctor.examination import CHECKS, examine
from moondream_station.doctor.report import Finding, Report, Status
from support import machines as m
from support.catalogs import catalog_text
from support.environments import made_home
from support.index_traffic import Fault
from support.patients import ALONE, Here, finding_of, install, words_of
from support.stations import HERE
from support.torch_index import TorchIndex
from support.wheels import torch_wheel

pytestmark = pytest.mark.anyio

MACHINES = Path(__file__).parents[1] / "machines"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of the test's own."""
    return made_home(tmp_path)


@pytest.fixture
def index() -> Iterator[TorchIndex]:
    """A PyTorch index with wheels for this interpreter, and an ordinary one without torch."""
    with TorchIndex() as index:
        index.add_torch("2.9.0", "cpu")
        yield index


@pytest.fixture
def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def examined(
    home: Home, *, torch_index: str, simple: str, variables: Mapping[str, str] | None = None
) -> Report:
    """The report on this computer with these indexes."""
    environ = {"HOME": str(home.root), "PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": simple}
    return await examine(
        home=home,
        settings=Settings(torch_index=torch_index),
        environ={**environ, **(variables or {})},
        machine=Here(m.cpu_only()),
    )


async def test_indexes_that_answer_are_well(home: Home, index: TorchIndex) -> None:
    """That the ordinary one has no torch is nothing to complain of. Nothing is kept of what was fetched."""
    report = await examined(home, torch_index=index.torch_url, simple=index.simple_url)
    for check in ("network.settings", "network.torch-index", "network.package-index", "network.find-links"):
        assert finding_of(report, check).status is Status.OK
    assert not (home.cache / "listings").exists()


async def test_the_build_is_one_that_the_index_has(home: Home, index: TorchIndex) -> None:
    """What this version knows of may not be there; where nobody answers, it is all there is."""
    environ = {"HOME": str(home.root), "PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": index.simple_url}
    for settings, torch in (
        (Settings(torch_index=index.torch_url), "2.9.0"),
        (Settings(torch_index=f"{index.torch_url}/nowhere"), "2.14.1"),
    ):
        machine = Here(m.cpu_only(HERE))
        report = await examine(home=home, settings=settings, environ=environ, machine=machine)
        assert finding_of(report, "gpu.build").summary == f"This machine gets cpu with torch {torch}."


async def test_indexes_that_nobody_reaches_are_errors_while_nothing_is_installed(
    home: Home, closed_port: int
) -> None:
    """Afterwards the model works without them, so that they are warnings."""
    address = f"http://127.0.0.1:{closed_port}"
    report = await examined(home, torch_index=f"{address}/whl", simple=f"{address}/simple")
    for check in ("network.torch-index", "network.package-index"):
        finding = finding_of(report, check)
        assert finding.status is Status.ERROR
        assert "refused" in finding.summary
        assert finding.remedy is not None
    await install(home)
    report = await examined(home, torch_index=f"{address}/whl", simple=f"{address}/simple")
    assert finding_of(report, "network.torch-index").status is Status.WARNING
    assert finding_of(report, "network.package-index").status is Status.WARNING


async def test_the_remedy_says_where_the_address_stands(home: Home, closed_port: int) -> None:
    """The mirror of PyTorch's index is the station's own setting, the other index is pip's."""
    address = f"http://127.0.0.1:{closed_port}"
    report = await examined(home, torch_index=f"{address}/whl", simple=f"{address}/simple")
    ours, pips = (finding_of(report, f"network.{one}-index").remedy for one in ("torch", "package"))
    assert ours is not None
    assert pips is not None
    assert "MOONDREAM_STATION_TORCH_INDEX" in ours.text
    assert ours.commands == ()
    assert "MOONDREAM_STATION_TORCH_INDEX" not in pips.text
    assert pips.commands == ("python -m pip config list",)


async def test_torch_from_elsewhere_makes_its_index_dispensable(
    home: Home, index: TorchIndex, closed_port: int
) -> None:
    """The ordinary index, or find-links, has a torch too."""
    index.add_simple(torch_wheel("2.9.1", None))
    address = f"http://127.0.0.1:{closed_port}/whl"
    report = await examined(home, torch_index=address, simple=index.simple_url)
    assert finding_of(report, "network.torch-index").status is Status.WARNING


async def test_a_server_that_refuses_is_told_with_its_status(home: Home, index: TorchIndex) -> None:
    """403, as a bucket says for what it has not, and a proxy for what it does not like."""
    index.faults.append(Fault(match="/whl/*", status=403))
    report = await examined(home, torch_index=index.torch_url, simple=index.simple_url)
    finding = finding_of(report, "network.torch-index")
    assert finding.status is Status.ERROR
    assert "403" in finding.summary
    assert "refuses" in words_of(finding)


async def test_a_server_that_wants_a_password_is_told(home: Home, index: TorchIndex) -> None:
    """401 names netrc and the URL as places for it."""
    index.faults.append(Fault(match="/simple/*", status=401))
    report = await examined(home, torch_index=index.torch_url, simple=index.simple_url)
    assert "netrc" in words_of(finding_of(report, "network.package-index"))


async def test_a_name_that_does_not_exist_is_told(home: Home, index: TorchIndex) -> None:
    """DNS is what fails."""
    simple = "http://no-such-host.invalid/simple"
    report = await examined(home, torch_index=index.torch_url, simple=simple)
    finding = finding_of(report, "network.package-index")
    assert "can't be resolved" in finding.summary
    assert "DNS" in words_of(finding)


async def test_a_proxy_that_does_not_answer_is_told(home: Home, index: TorchIndex, closed_port: int) -> None:
    """It stands between every server and this computer."""
    proxy = {"HTTP_PROXY": f"http://ann:s3cret@127.0.0.1:{closed_port}"}
    report = await examined(home, torch_index=index.torch_url, simple=index.simple_url, variables=proxy)
    finding = finding_of(report, "network.torch-index")
    assert finding.status is Status.ERROR
    assert "Check the proxy" in words_of(finding)
    settings = words_of(finding_of(report, "network.settings"))
    assert f"http proxy: 127.0.0.1:{closed_port}" in settings
    assert "s3cret" not in settings


async def test_a_certificate_that_nobody_trusts_is_told(home: Home, index: TorchIndex) -> None:
    """With where certificates of one's own are named; there, it is trusted."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    pem = home.root / "ca.pem"
    authority.cert_pem.write_to_path(str(pem))
    with TorchIndex(tls=context) as packages:
        report = await examined(home, torch_index=index.torch_url, simple=packages.simple_url)
        finding = finding_of(report, "network.package-index")
        assert finding.status is Status.ERROR
        assert "SSL_CERT_FILE" in words_of(finding)
        report = await examined(
            home,
            torch_index=index.torch_url,
            simple=packages.simple_url,
            variables={"PIP_CERT": str(pem)},
        )
        assert finding_of(report, "network.package-index").status is Status.OK


@pytest.mark.parametrize("years", [-2, 2])
async def test_a_certificate_of_another_time_makes_the_clock_suspect(
    home: Home, index: TorchIndex, years: int
) -> None:
    """Its issuer is trusted; it was valid, or will be."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    begin = datetime.now(UTC) + timedelta(days=365 * years)
    leaf = authority.issue_cert("127.0.0.1", not_before=begin, not_after=begin + timedelta(days=30))
    leaf.configure_cert(context)
    pem = home.root / "ca.pem"
    authority.cert_pem.write_to_path(str(pem))
    with TorchIndex(tls=context) as packages:
        report = await examined(
            home,
            torch_index=index.torch_url,
            simple=packages.simple_url,
            variables={"PIP_CERT": str(pem)},
        )
    finding = finding_of(report, "network.package-index")
    assert finding.status is Status.ERROR
    assert "this computer's clock" in words_of(finding)


async def test_an_index_that_takes_too_long_is_told(home: Home, index: TorchIndex) -> None:
    """It is given up after seconds, and the remedy names what can be raised; the other one is well."""
    index.faults.append(Fault(match="/whl/*", hang_after_bytes=0))
    report = await examined(home, torch_index=index.torch_url, simple=index.simple_url)
    finding = finding_of(report, "network.torch-index")
    assert finding.status is Status.ERROR
    assert "raise pip's `timeout`" in words_of(finding)
    assert finding_of(report, "network.package-index").status is Status.OK


async def test_an_index_that_is_switched_off_is_not_asked(home: Home, index: TorchIndex) -> None:
    """`no-index` leaves find-links; a mirror that is named nevertheless is asked."""
    variables = {"PIP_NO_INDEX": "1"}
    report = await examined(
        home, torch_index="https://download.pytorch.org/whl", simple=index.simple_url, variables=variables
    )
    assert finding_of(report, "network.torch-index").status is Status.OK
    assert finding_of(report, "network.package-index").status is Status.OK
    assert index.requests == ()


async def test_find_links_that_are_not_there_are_a_warning(home: Home, index: TorchIndex) -> None:
    """They are left out, and somebody meant them."""
    variables = {"PIP_FIND_LINKS": str(home.root / "wheels")}
    report = await examined(home, torch_index=index.torch_url, simple=index.simple_url, variables=variables)
    assert finding_of(report, "network.settings").status is Status.WARNING


async def test_settings_that_pip_refuses_are_an_error(home: Home, index: TorchIndex) -> None:
    """What the indexes have can't be asked then, and is skipped."""
    variables = {"PIP_TIMEOUT": "soon"}
    report = await examined(home, torch_index=index.torch_url, simple=index.simple_url, variables=variables)
    assert finding_of(report, "network.settings").status is Status.ERROR
    assert finding_of(report, "network.torch-index").status is Status.SKIPPED


async def test_a_manifest_from_the_network_is_read_and_not_kept(home: Home, tmp_path: Path) -> None:
    """It is what a switch would use; only a switch keeps it as the last good copy."""
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(Path(moondream_station.__file__).parent / "bundled" / "manifest.json", folder)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    before = sorted(home.root.rglob("*"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            report = await examine(
                home=home,
                settings=Settings(manifest=f"http://127.0.0.1:{server.server_port}/manifest.json"),
                environ={**ALONE, "HOME": str(home.root)},
                machine=Here(m.cpu_only()),
            )
        finally:
            server.shutdown()
    assert finding_of(report, "backends.manifest").status is Status.OK
    assert sorted(home.root.rglob("*")) == before


async def test_amds_index_is_told_of_where_it_may_serve(home: Home, tmp_path: Path) -> None:
    """It answers or is silent; not asked without an AMD GPU, or where PyTorch's builds alone are wanted."""
    with TorchIndex() as index:
        index.add_torch("2.9.0", "cpu")
        index.add_amd("2.16.0", "10.2.0", "gfx1100")
        own = tmp_path / "catalog.toml"
        own.write_text(
            catalog_text(
                ("https://repo.amd.com/rocm/whl-multi-arch", f"{index.address}/elsewhere"),
                ("https://stable.repo.amd.com/rocm/whl-next", index.amd_url),
            )
        )
        environ = {"HOME": str(home.root), "PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": index.simple_url}

        async def finding(record: MachineRecord, vendor_indexes: int = 1) -> Finding:
            named = Settings(torch_index=index.torch_url, catalog=str(own), vendor_indexes=vendor_indexes)
            checks = [check for check in CHECKS if check.id == "network.amd-index"]
            machine = Here(replace(record, platform=HERE))
            report = await examine(home=home, settings=named, environ=environ, machine=machine, checks=checks)
            return finding_of(report, "network.amd-index")

        radeon = load_record(MACHINES / "amd-rx7900xtx-gfx1100-same-torch.json")
        good = await finding(radeon)
        assert (good.status, good.summary) == (Status.OK, "AMD's index answers.")
        assert "1 wheel of torch" in (good.detail or "")
        index.faults.append(Fault(match="/amd/*", status=503))
        silent = await finding(radeon)
        assert silent.status is Status.WARNING
        assert silent.summary.startswith("AMD's index can't be reached: ")
        assert "moondream-station settings set vendor_indexes 0" in words_of(silent)
        assert "`vendor_indexes` is 0" in (await finding(radeon, 0)).summary
        assert "no use for it" in (await finding(m.cpu_only())).summary
