"""The loopback index is what other tests stand on, so it is held to the standards it plays."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.index_traffic import Fault
from support.torch_index import TorchIndex
from support.wheels import TorchBehaviour, Wheel, torch_wheel

_JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}


@pytest.fixture
def index() -> Iterator[TorchIndex]:
    """An index with the usual wheels."""
    with TorchIndex() as served:
        yield served.add_usual()


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    """A plain client."""
    with httpx2.Client(trust_env=False, timeout=20) as opened:
        yield opened


def test_wheels_are_the_same_in_every_making() -> None:
    """A wheel's bytes depend on what it is made of and on nothing else."""
    first, second = (torch_wheel("2.9.0", "cu128", filler_bytes=5000) for _ in range(2))
    assert first.data == second.data
    assert first.sha256 == hashlib.sha256(second.data).hexdigest()
    assert torch_wheel("2.9.0", "cu126", filler_bytes=5000).data != first.data


def test_a_record_names_every_file_with_its_hash_and_size() -> None:
    """RECORD can be checked as an installer and the station check it."""
    wheel = torch_wheel("2.9.0", "cpu", filler_bytes=100)
    with zipfile.ZipFile(io.BytesIO(wheel.data)) as archive:
        rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(archive.read(_record(archive)).decode()))}
        assert set(rows) == set(archive.namelist())
        for name, (digest, size) in rows.items():
            content = archive.read(name)
            if digest:
                expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert digest == f"sha256={expected}"
                assert int(size) == len(content)


def _record(archive: zipfile.ZipFile) -> str:
    return next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))


def test_a_filler_gives_a_wheel_its_size() -> None:
    """A wanted size is met almost exactly, because the filler can't be compressed."""
    small, large = torch_wheel("2.9.0", "cpu"), torch_wheel("2.9.0", "cpu", filler_bytes=1 << 20)
    assert 0 <= len(large.data) - len(small.data) - (1 << 20) < 1024


def test_pages_are_as_on_the_real_index(index: TorchIndex, client: httpx2.Client) -> None:
    """One page tells all builds, each build has its own, and what does not exist is forbidden."""
    everything = client.get(f"{index.torch_url}/torch/").text
    own = client.get(f"{index.torch_url}/cu128/torch/").text
    assert "torch-2.9.0%2Bcu128-" in everything
    assert "torch-2.9.0%2Bcpu-" in everything
    assert "torch-2.9.0%2Bcu128-" in own
    assert "%2Bcpu" not in own
    assert "#sha256=" in own
    assert 'data-requires-python="&gt;=3.10"' in own
    assert client.get(f"{index.torch_url}/cu999/torch/").status_code == 403
    assert client.get(f"{index.torch_url}/cu128/no-such-name/").status_code == 403
    assert client.get(f"{index.simple_url}/no-such-name/").status_code == 404


def test_the_ordinary_index_speaks_json(index: TorchIndex, client: httpx2.Client) -> None:
    """It lists sizes and hashes, and serves the metadata beside the wheel."""
    page = client.get(f"{index.simple_url}/wrapstorch/", headers=_JSON)
    assert page.headers["Content-Type"] == _JSON["Accept"]
    (file,) = page.json()["files"]
    wheel = client.get(index.address + file["url"]).content
    assert len(wheel) == file["size"]
    assert hashlib.sha256(wheel).hexdigest() == file["hashes"]["sha256"]
    metadata = client.get(f"{index.address}{file['url']}.metadata").content
    assert hashlib.sha256(metadata).hexdigest() == file["core-metadata"]["sha256"]
    assert b"Requires-Dist: torch>=2.8" in metadata


def test_options_take_away_what_a_server_may_lack(client: httpx2.Client) -> None:
    """Without hashes, metadata, ranges or validators it is still an index."""
    with TorchIndex(metadata=False, hashes=False, ranges=False, etags=False) as index:
        wheel = index.add_torch("2.9.0", "cpu")
        page = client.get(f"{index.torch_url}/cpu/torch/")
        assert "sha256" not in page.text
        url = f"{index.torch_url}/cpu/{wheel.filename}"
        assert client.get(f"{url}.metadata").status_code == 403
        whole = client.get(url, headers={"Range": "bytes=10-"})
        assert (whole.status_code, whole.content) == (200, wheel.data)
        assert "ETag" not in whole.headers


def test_ranges_and_validators(index: TorchIndex, client: httpx2.Client) -> None:
    """Parts come as asked for, unless the file has changed; an unchanged page need not come again."""
    wheel = index.add_torch("2.9.0", "cu999")
    url = f"{index.torch_url}/cu999/{wheel.filename}"
    etag = client.head(url).headers["ETag"]
    part = client.get(url, headers={"Range": "bytes=100-199", "If-Range": etag})
    assert (part.status_code, part.content) == (206, wheel.data[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(wheel.data)}"
    assert client.get(url, headers={"Range": "bytes=-5"}).content == wheel.data[-5:]
    assert client.get(url, headers={"Range": f"bytes={len(wheel.data)}-"}).status_code == 416
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
    index.replace(wheel.filename, b"another file")
    changed = client.get(url, headers={"Range": "bytes=5-", "If-Range": etag})
    assert (changed.status_code, changed.content) == (200, b"another file")


def test_faults(index: TorchIndex, client: httpx2.Client) -> None:
    """Each fault does what it says, as often as it says."""
    wheel = index.add_torch("2.9.0", "cu999")
    url, path = f"{index.torch_url}/cu999/{wheel.filename}", f"*/{wheel.filename}"
    index.faults.append(Fault(match=path, status=503, headers={"Retry-After": "1"}, times=1))
    refused = client.get(url)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert client.get(url).content == wheel.data
    index.faults[:] = [Fault(match=path, corrupt_byte=7)]
    assert [
        i for i, (a, b) in enumerate(zip(client.get(url).content, wheel.data, strict=True)) if a != b
    ] == [7]
    index.faults[:] = [Fault(match=path, ignore_range=True)]
    assert client.get(url, headers={"Range": "bytes=5-"}).status_code == 200
    index.faults[:] = [Fault(match=path, reset_after_bytes=1000)]
    with pytest.raises(httpx2.ReadError):
        client.get(url)
    index.faults[:] = [Fault(match=path, close_after_bytes=1000)]
    with pytest.raises(httpx2.RemoteProtocolError):
        client.get(url)
    index.faults[:] = [Fault(match=path, size_delta=10)]
    with pytest.raises(httpx2.RemoteProtocolError):
        client.get(url)
    index.faults[:] = [Fault(match=path, hang_after_bytes=1000)]
    with pytest.raises(httpx2.ReadTimeout):
        client.get(url, timeout=0.2)


def test_a_pace_holds_over_the_whole_file(index: TorchIndex, client: httpx2.Client) -> None:
    """A slow file still arrives whole, in small pieces."""
    wheel = index.add_torch("2.9.0", "cu999")
    index.faults.append(Fault(match="*.whl", bytes_per_second=len(wheel.data) * 10))
    with client.stream("GET", f"{index.torch_url}/cu999/{wheel.filename}") as response:
        pieces = list(response.iter_raw())
    assert b"".join(pieces) == wheel.data
    assert len(pieces) > 1


def test_requests_are_recorded(index: TorchIndex, client: httpx2.Client) -> None:
    """A test can ask what was asked, and wait for it."""
    wheel = index.add_torch("2.9.0", "cu999")
    client.get(f"{index.torch_url}/cu999/{wheel.filename}", headers={"Range": "bytes=0-9"})
    request = index.wait_for(wheel.filename, bytes_sent=10)
    assert (request.method, request.range, request.status, request.bytes_sent) == (
        "GET",
        "bytes=0-9",
        206,
        10,
    )
    recorded = client.get(f"{index.address}/_requests").json()
    assert recorded[-2]["path"] == f"/whl/cu999/{wheel.filename}"


def test_nothing_is_left_behind() -> None:
    """Ending the index ends its threads, also those of idle and of hanging connections."""
    before = threading.active_count()
    with httpx2.Client(trust_env=False, timeout=0.2) as client, TorchIndex() as index:
        wheel = index.add_torch("2.9.0", "cpu")
        client.get(f"{index.torch_url}/torch/")
        index.faults.append(Fault(match="*.whl", hang_after_bytes=10))
        with pytest.raises(httpx2.ReadTimeout):
            client.get(f"{index.torch_url}/cpu/{wheel.filename}")
    assert threading.active_count() == before


def test_the_fake_torch_computes(tmp_path: Path) -> None:
    """Installed, it tells its version and devices, and multiplies matrices."""
    behaviour = TorchBehaviour(cuda="12.8", cuda_devices=("One", "Two"), arch_list=("sm_90",))
    report = _run_torch(torch_wheel("2.9.0", "cu128", behaviour=behaviour), tmp_path)
    assert report == {
        "version": "2.9.0+cu128",
        "cuda": "12.8",
        "count": 2,
        "name": "Two",
        "arch": ["sm_90"],
        "product": [[7.0, 10.0], [15.0, 22.0]],
        "error": 0,
    }


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (TorchBehaviour(import_error="libcudart.so.12: cannot open"), "cannot open"),
        (
            TorchBehaviour(cuda_devices=("One", "Two"), compute_errors={"cuda": "no kernel image"}),
            "no kernel image",
        ),
        (TorchBehaviour(), "not compiled with cuda"),
    ],
)
def test_the_fake_torch_fails_as_it_is_told(behaviour: TorchBehaviour, words: str, tmp_path: Path) -> None:
    """Its failures come from the data in its wheel, so that they reach a worker's process."""
    report = _run_torch(torch_wheel("2.9.0", "cu128", behaviour=behaviour), tmp_path)
    assert words in report["failure"]


_TORCH_PROGRAM = """
import json
try:
    import torch
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).to("cuda")
    product = (a @ a).cpu().double()
    exact = a.cpu().to(torch.float64) @ a.cpu().to(torch.float64)
    print(json.dumps({
        "version": torch.__version__, "cuda": torch.version.cuda, "count": torch.cuda.device_count(),
        "name": torch.cuda.get_device_name(1), "arch": torch.cuda.get_arch_list(),
        "product": product.tolist(), "error": (product - exact).abs().max().item(),
    }))
except (ImportError, RuntimeError) as error:
    print(json.dumps({"failure": str(error)}))
"""


def _run_torch(wheel: Wheel, folder: Path) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(wheel.data)) as archive:
        archive.extractall(folder)
    argv = [sys.executable, "-c", _TORCH_PROGRAM]
    completed = subprocess.run(argv, cwd=folder, capture_output=True, check=True, text=True)
    report: dict[str, Any] = json.loads(completed.stdout)
    return report


def test_it_runs_as_a_program() -> None:
    """Other processes get its address as the first line; the end of its stdin ends it."""
    program = Path(__file__).with_name("torch_index.py")
    fault = json.dumps({"match": "/simple/numpy/", "status": 503})
    argv = [sys.executable, str(program), "--port", "0", "--no-metadata", "--fault", fault]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with httpx2.Client(trust_env=False) as client:
            assert "wrapstorch" in client.get(f"{address}/simple/").text
            assert client.get(f"{address}/simple/numpy/").status_code == 503
        process.stdin.close()
        assert process.wait(timeout=20) == 0
