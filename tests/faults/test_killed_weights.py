"""A switch that is killed at each stage of its model's weights, or has a slow line for them."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from support.commands import events_of, started, switch
from support.index_traffic import Fault, Request
from support.model_premises import ModelPremises, check_succeeded, open_model_premises
from support.posix import SIGKILL
from support.survival import gone
from support.tiny_model import write_tiny_model

pytestmark = [pytest.mark.faults, pytest.mark.torch]

WEIGHTS = "model.safetensors"
SIZE = 100_000_000
HELD_BACK = 60_000_000


@dataclass(frozen=True)
class Cache:
    """What is there of a repository in the hub's cache."""

    folder: Path

    def size_of(self, name: str) -> int:
        """How much of a file; of what is unfinished only weights count, which are large enough to resume."""
        for path in (self.folder / "snapshots").glob(f"*/{name}"):
            return path.stat().st_size
        return max((path.stat().st_size for path in self._of_weights()), default=0) if name == WEIGHTS else 0

    @property
    def has_all_bytes(self) -> bool:
        """Whether the weights are under their digest, which has not been compared."""
        is_whole = any(not path.name.endswith(".incomplete") for path in self._of_weights())
        return is_whole and not (self.folder / "checked").exists()

    def _of_weights(self) -> Iterator[Path]:
        return (path for path in (self.folder / "blobs").glob("*") if len(path.name.partition(".")[0]) == 64)


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPremises]:
    """A home that has an environment for the model, whose weights take a while to read."""
    with open_model_premises(tmp_path_factory.mktemp("killed")) as premises:
        check_succeeded(switch(premises, "tiny"))
        large = write_tiny_model(premises.folder / "models" / "large", filler_bytes=SIZE)
        premises.hub.repositories["me/tiny"] = large
        yield premises


STAGES: dict[str, tuple[Fault | None, Callable[[Request], bool] | None]] = {
    "described": (
        Fault(match="*/words.py", hang_after_bytes=0, skip=1),
        lambda request: request.path.endswith("words.py") and request.method == "GET",
    ),
    "in the middle": (
        Fault(match=f"*/{WEIGHTS}", hang_after_bytes=HELD_BACK, skip=1),
        lambda request: request.bytes_sent >= HELD_BACK,
    ),
    "the last byte": (None, lambda request: request.bytes_sent >= SIZE),
    "digest": (None, None),
    "tokenizer": (
        Fault(match="*/tokenizer.json", hang_after_bytes=0, skip=1),
        lambda request: request.path.endswith("tokenizer.json") and request.method == "GET",
    ),
}


@pytest.mark.parametrize("victim", ["station", "worker"])
@pytest.mark.parametrize("stage", STAGES)
def test_what_had_arrived_is_not_fetched_again(premises: ModelPremises, stage: str, victim: str) -> None:
    """SIGKILL of either: the next switch fetches the rest alone, counted on the hub."""
    server = premises.hub.server
    cache = Cache(premises.folder / "cache" / "hub" / "models--me--tiny")
    shutil.rmtree(premises.folder / "cache", ignore_errors=True)
    fault, is_reached = STAGES[stage]
    with started(premises, "switch", "hub-tiny", "--json") as process:
        events = events_of(process)
        worker = next(event["pid"] for event in events if event["event"] == "WorkerStarted")
        server.clear_requests()
        server.faults[:] = [Fault(**vars(fault))] if fault else []
        if is_reached:
            server.wait_for(is_reached)
        while stage == "digest" and not cache.has_all_bytes:
            time.sleep(0.001)
        os.kill(process.pid if victim == "station" else worker, SIGKILL)
        if victim == "worker":
            *_, last = events
            assert (last["event"], last["error"]["code"]) == ("ActivationFailed", "worker-failed")
        process.wait()
    assert gone(premises.folder)
    assert not psutil.pid_exists(worker)
    assert stage != "digest" or cache.has_all_bytes
    names = [path.name for path in premises.hub.repositories["me/tiny"].iterdir()]
    lacking = {name: _size(premises, name) - cache.size_of(name) for name in names}
    server.faults.clear()
    server.clear_requests()
    check_succeeded(switch(premises, "hub-tiny"))
    sent = Counter[str]()
    for request in server.requests:
        if request.method == "GET" and "/me/tiny/resolve/" in request.path and "hf_hub/" in _agent(request):
            sent[request.path.rpartition("/")[2]] += request.bytes_sent
    assert {name: sent[name] for name in names} == lacking
    whole = _size(premises, WEIGHTS)
    in_buffers = 16 << 20  # sockets' and Python's
    bounds = {
        "described": (whole, whole),
        "in the middle": (whole - HELD_BACK, whole - HELD_BACK + in_buffers),
        "the last byte": (0, in_buffers),
    }
    least, most = bounds.get(stage, (0, 0))
    assert least <= lacking[WEIGHTS] <= most


def test_a_slow_line_is_told_as_bytes_arrive(premises: ModelPremises) -> None:
    """Twice a second, and never backwards."""
    shutil.rmtree(premises.folder / "cache", ignore_errors=True)
    premises.hub.server.faults[:] = [Fault(match=f"*/{WEIGHTS}", bytes_per_second=SIZE // 4)]
    events = switch(premises, "hub-tiny")
    premises.hub.server.faults.clear()
    check_succeeded(events)
    told = [event["done"] for event in events if event.get("unit") == "bytes"]
    assert told == sorted(told)
    assert len({done for done in told if SIZE // 10 < done < SIZE}) >= 4


def _size(premises: ModelPremises, name: str) -> int:
    return (premises.hub.repositories["me/tiny"] / name).stat().st_size


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")
