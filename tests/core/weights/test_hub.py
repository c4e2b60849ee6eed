"""The hub is asked before anything is installed: what weights take, and whether they can be downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.home.layout import Home
from moondream_station.core.packaging.packaging_config import PackagingConfig
from moondream_station.core.weights.disk import Learned, WeightsSource, recorded_weights
from moondream_station.core.weights.hub import learn
from support.index_traffic import Fault
from support.model_hub import COMMIT, ModelHub
from support.posix import make_fifo
from support.weights import Tensors, write_model

pytestmark = pytest.mark.anyio

ONE: dict[str, Tensors] = {"model.safetensors": {"x": ("BF16", (1000,))}}
SHARDS: dict[str, Tensors] = {f"model-{n}.safetensors": {f"x{n}": ("BF16", (n, 10))} for n in range(1, 12)}
NEWEST = WeightsSource(repository="me/tiny")
PINNED = WeightsSource(repository="me/tiny", revision=COMMIT)


@dataclass
class Questioner:
    """Asks a hub on loopback, as a station with a home and a cache of its own."""

    hub: ModelHub
    folder: Path

    @property
    def home(self) -> Home:
        """Where it keeps answers."""
        return Home(root=self.folder / "home")

    async def learn(self, source: WeightsSource = NEWEST, **variables: str) -> Learned:
        """What it comes to know of weights."""
        environ = {"HF_HOME": str(self.folder / "hf"), "HF_ENDPOINT": self.hub.address, **variables}
        async with open_client(PackagingConfig()) as client:

            async def connect() -> httpx2.AsyncClient:
                return client

            return await learn(source, home=self.home, environ=environ, connect=connect)

    def write_snapshot(self) -> None:
        """Put the model into the hub's cache, whole."""
        cache = self.folder / "hf" / "hub" / "models--me--tiny"
        write_model(cache / "snapshots" / COMMIT, ONE)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text(COMMIT)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Questioner]:
    """A hub that has the model me/tiny."""
    with ModelHub() as hub:
        hub.repositories["me/tiny"] = write_model(tmp_path / "tiny", ONE)
        yield Questioner(hub, tmp_path)


async def test_sizes_and_types_without_a_download(station: Questioner) -> None:
    """By the repository's description and the beginning of its weights; what was said is kept."""
    weights = (await station.learn()).weights
    assert weights is not None
    assert (weights.commit, weights.by_dtype) == (COMMIT, {"bfloat16": 2000})
    assert weights.size_bytes == (station.folder / "tiny" / "model.safetensors").stat().st_size
    assert recorded_weights(NEWEST, station.home, {"HF_ENDPOINT": station.hub.address}) == weights
    *_, last = station.hub.server.requests
    assert (last.path, last.range) == (f"/me/tiny/resolve/{COMMIT}/model.safetensors", "bytes=0-99999")


@pytest.mark.parametrize("padding", [0, 150_000])
async def test_weights_in_many_files(station: Questioner, padding: int) -> None:
    """Those of the index alone, each asked for its header, however long that is."""
    folder = write_model(station.folder / "many", SHARDS, padding=padding)
    write_model(folder, {"other.safetensors": {"x": ("F32", (10**6,))}})
    write_model(folder, SHARDS, padding=padding)
    station.hub.repositories["me/tiny"] = folder
    weights = (await station.learn()).weights
    assert weights is not None
    assert len(weights.files) == len(SHARDS)
    assert weights.by_dtype == {"bfloat16": sum(20 * n for n in range(1, 12))}
    assert not [item for item in station.hub.server.requests if "other" in item.path]


async def test_a_server_without_ranges_sends_no_gigabytes(station: Questioner) -> None:
    """What is larger than any header is not read on; the sizes are known, the types not."""
    large: dict[str, Tensors] = {"model.safetensors": {"x": ("I8", (40 << 20,))}}
    station.hub.repositories["me/tiny"] = write_model(station.folder / "large", large)
    station.hub.server.faults.append(Fault(match="*.safetensors", ignore_range=True))
    weights = (await station.learn()).weights
    assert weights is not None
    assert weights.size_bytes > 40 << 20
    assert weights.dtype is None


async def test_a_whole_snapshot_answers_for_the_hub(station: Questioner) -> None:
    """Where a commit is named nobody is asked; where the newest is wanted, it stands in for a silent hub."""
    station.write_snapshot()
    learned = await station.learn(PINNED)
    assert learned.weights is not None
    assert not station.hub.server.requests
    for fault in (Fault(match="*", status=500), Fault(match="*", status=404)):
        station.hub.server.faults = [fault]
        learned = await station.learn()
        assert learned.weights is not None
        assert learned.failure is None
    station.hub.server.clear_requests()
    assert (await station.learn(HF_HUB_OFFLINE="1")).failure is None
    assert not station.hub.server.requests


async def test_offline_without_a_snapshot(station: Questioner) -> None:
    """That the weights can't be had is certain, and nobody is asked."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        failure = (await station.learn(NEWEST, **{variable: "1"})).failure
        assert failure is not None
        assert failure.message == f"me/tiny is not downloaded, and {variable} is set."
    assert not station.hub.server.requests


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(match="*", status=403, headers={"X-Error-Code": "GatedRepo"}), "have accepted its terms"),
        (
            Fault(match="*.safetensors", status=401, headers={"X-Error-Code": "GatedRepo"}),
            "have accepted its terms",
        ),
        (Fault(match="*", status=401, headers={"X-Error-Code": "RepoNotFound"}), "or it is private"),
        (Fault(match="*", status=404), "There is no model me/tiny on 127.0.0.1"),
        (Fault(match="*", status=401), "or it is private"),
        (Fault(match="*", status=403), "it answered 403: the token is not accepted"),
        (Fault(match="*", status=404, headers={"X-Error-Code": "RevisionNotFound"}), "has no revision None"),
        (Fault(match="*.safetensors", status=404), "does not have model.safetensors, which me/tiny needs"),
    ],
)
async def test_a_hub_that_does_not_give_weights(station: Questioner, fault: Fault, words: str) -> None:
    """Each refusal has its sentence, and a remedy; the next answer makes up for it."""
    station.hub.server.faults.append(fault)
    failure = (await station.learn()).failure
    assert failure is not None
    assert words in failure.message
    assert failure.hint
    station.hub.server.faults.clear()
    assert (await station.learn()).failure is None


@pytest.mark.parametrize(
    "fault",
    [
        Fault(match="*", status=500),
        Fault(match="*", status=429),
        Fault(match="*", reset_after_bytes=0),
        Fault(match="/api/*", status=404),
        Fault(match="*.safetensors", status=503),
    ],
)
async def test_what_passes_by_is_no_failure(station: Questioner, fault: Fault) -> None:
    """Nor is a mirror without descriptions. What was said before counts."""
    before = (await station.learn()).weights
    station.hub.server.faults.append(fault)
    learned = await station.learn()
    assert learned.failure is None
    assert learned.weights is not None
    assert before is not None
    assert learned.weights.size_bytes == before.size_bytes


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
async def test_a_hub_that_nobody_reaches(station: Questioner, endpoint: str) -> None:
    """Refused, or without an address: that is certain at once."""
    failure = (await station.learn(HF_ENDPOINT=endpoint)).failure
    assert failure is not None
    assert failure.message.startswith("me/tiny is not available from ")
    assert "HF_ENDPOINT" in (failure.hint or "")


@pytest.mark.parametrize("endpoint", ["hub", "ftp://hub", "http://", "http://[", "http://127.0.0.1:99999"])
async def test_an_address_that_is_none(station: Questioner, endpoint: str) -> None:
    """It is not shown: where a password in it ends, nobody knows."""
    failure = (await station.learn(HF_ENDPOINT=endpoint)).failure
    assert failure is not None
    assert failure.message == "HF_ENDPOINT, which names the hub, is not a valid http or https address."


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
async def test_what_is_no_file_is_not_read(station: Questioner) -> None:
    """A FIFO as the token, as weights, or as what the hub said: to open one could block for ever."""
    learned = await station.learn()
    (record,) = (station.home.cache / "weights").iterdir()
    record.unlink()
    (station.folder / "hf").mkdir()
    folder = station.folder / "tiny"
    (folder / "model.safetensors").unlink()
    for path in (record, station.folder / "hf" / "token", folder / "model.safetensors"):
        make_fifo(path)
    assert (await station.learn(WeightsSource(folder=folder))).weights is None
    station.hub.repositories["me/tiny"] = write_model(station.folder / "again", ONE)
    assert (await station.learn()).weights == learned.weights


async def test_the_token_goes_to_the_hub_alone(station: Questioner) -> None:
    """From the variable or the file that the hub's client writes; another host gets none of it."""
    with ModelHub() as storage:
        storage.repositories = station.hub.repositories
        path = f"/me/tiny/resolve/{COMMIT}/model.safetensors"
        elsewhere = storage.address.replace("127.0.0.1", "localhost") + path
        station.hub.server.faults.append(Fault(match="*.safetensors", redirect=elsewhere))
        (station.folder / "hf").mkdir()
        (station.folder / "hf" / "token").write_text("hf_file\n")
        for variables, token in (({"HF_TOKEN": "hf_mine"}, "hf_mine"), ({}, "hf_file")):
            weights = (await station.learn(NEWEST, **variables)).weights
            assert weights is not None
            assert weights.dtype == "bfloat16"
            own = {item.headers.get("authorization") for item in station.hub.server.requests}
            assert own == {f"Bearer {token}"}
            station.hub.server.clear_requests()
        assert storage.server.requests
        assert {item.headers.get("authorization") for item in storage.server.requests} == {None}
        await station.learn(NEWEST, HF_TOKEN="hf_mine", HF_HUB_DISABLE_IMPLICIT_TOKEN="1")  # noqa: S106
        assert {item.headers.get("authorization") for item in station.hub.server.requests} == {None}


async def test_an_answer_that_is_none(station: Questioner) -> None:
    """A page of somebody else's, or a description without anything: nothing is known, nothing fails."""
    (station.folder / "tiny" / "model.safetensors").write_bytes(b"<html>")
    weights = (await station.learn()).weights
    assert weights is not None
    assert weights.dtype is None
    learned = await station.learn(HF_ENDPOINT=f"{station.hub.address}/me/tiny/resolve/main/config.json?")
    assert (learned.weights, learned.failure) == (None, None)


async def test_a_repository_without_weights_that_are_known(station: Questioner) -> None:
    """A backend may load them from files of another form; what that takes is unknown."""
    (station.folder / "tiny" / "model.safetensors").rename(station.folder / "tiny" / "model.gguf")
    learned = await station.learn()
    assert (learned.weights, learned.failure) == (None, None)
    assert learned.reason == "127.0.0.1 can't tell: it lists no weights"
    learned = await station.learn(WeightsSource(folder=station.folder / "tiny"))
    assert (learned.weights, learned.failure) == (None, None)


@pytest.mark.parametrize(
    "place", ["hf/hub/models--me--tiny/snapshots/x/model.gguf", "own/models--me--tiny/x"]
)
async def test_what_may_be_here_is_not_refused_offline(station: Questioner, place: str) -> None:
    """Of another form, or in the folder of TRANSFORMERS_CACHE, which transformers 4 looks into."""
    file = station.folder / place
    file.parent.mkdir(parents=True)
    file.touch()
    own = str(station.folder / "own")
    learned = await station.learn(HF_HUB_OFFLINE="1", TRANSFORMERS_CACHE=own)
    assert (learned.weights, learned.failure) == (None, None)


async def test_folders(station: Questioner) -> None:
    """One that has no weights, or is not there, has none to offer."""
    learned = await station.learn(WeightsSource(folder=station.folder / "tiny"))
    assert learned.weights is not None
    for name, words in (("nowhere", "does not exist"), ("", "is incomplete")):
        failure = (await station.learn(WeightsSource(folder=station.folder / name))).failure
        assert failure is not None
        assert words in failure.message
