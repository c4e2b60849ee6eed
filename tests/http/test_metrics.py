"""What Prometheus scrapes, read by its own client library."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from moondream_station.core.facts.errors import ErrorInfo, UnknownFunction, WorkerBusy
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    CancelReason,
    DownloadProgressed,
    Fact,
    Stage,
    StopReason,
    WorkerStarted,
    WorkerStopped,
)
from moondream_station.core.facts.figures import BUCKETS, Outcome
from support.facts import published
from support.http_server import TOKEN, serving
from support.station_api import USAGE, FakeStation

pytestmark = pytest.mark.anyio

ERROR = ErrorInfo(code="c", message="m", hint=None)


def samples(text: str) -> Mapping[str, float]:
    """Every sample, by its name with its labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def download(transferred_bytes: int) -> DownloadProgressed:
    """So much was transferred in an activation by now."""
    return DownloadProgressed(
        file="a.whl",
        received_bytes=0,
        total_bytes=None,
        transferred_bytes=0,
        resumed_from=0,
        overall_received_bytes=0,
        overall_total_bytes=None,
        overall_transferred_bytes=transferred_bytes,
        bytes_per_second=None,
        eta_seconds=None,
    )


@pytest.fixture
def busy() -> FakeStation:
    """A station to which something has happened."""
    station = FakeStation()
    tally = station.tally
    for seconds in (0.02, 0.3, 45.0, 10_000.0):
        tally.ended("caption", Outcome.OK, None, seconds=seconds, tokens=5)
    tally.ended("caption", Outcome.REJECTED, WorkerBusy("full"), seconds=0.1, tokens=0)
    for name in ("no", "such", "function"):
        tally.ended(name, Outcome.REJECTED, UnknownFunction("no"), seconds=0.1, tokens=0)
    tally.waited(0.2)
    first: list[Fact] = [
        download(100),
        download(250),
        ActivationFailed(model="m", stage=Stage.LOCK, error=ERROR),
    ]
    second: list[Fact] = [
        download(40),
        ActivationCancelled(model="m", stage=Stage.LOCK, reason=CancelReason.USER),
    ]
    crash: list[Fact] = [
        WorkerStarted(model="m", pid=1),
        WorkerStopped(model="m", pid=1, reason=StopReason.CRASHED),
        WorkerStarted(model="m", pid=2),
        WorkerStopped(model="m", pid=2, reason=StopReason.MEMORY),
        WorkerStarted(model="m", pid=3),
    ]
    courses: tuple[tuple[str | None, list[Fact]], ...] = (("a", first), ("b", second), (None, crash))
    for activation, facts in courses:
        for event in published(facts, activation=activation):
            tally.observe(event)
    return station


async def test_prometheus_reads_what_has_happened(busy: FakeStation) -> None:
    """Requests, latencies, queue, tokens, restarts, memory, activations and their bytes."""
    async with serving(busy) as served, httpx2.AsyncClient(base_url=served.url, trust_env=False) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(answer.text)
    expected = {
        "moondream_station_info{version=0.2.0}": 1,
        "moondream_station_model_info{model=selftest}": 1,
        "moondream_station_requests_total{function=caption,status=ok}": 4,
        "moondream_station_requests_total{function=caption,status=rejected}": 1,
        "moondream_station_requests_total{function=caption,status=timeout}": 0,
        "moondream_station_requests_total{function=unknown,status=rejected}": 3,
        "moondream_station_request_duration_seconds_count{function=caption}": 4,
        "moondream_station_request_duration_seconds_sum{function=caption}": 10_045.32,
        "moondream_station_request_duration_seconds_bucket{function=caption,le=0.025}": 1,
        "moondream_station_request_duration_seconds_bucket{function=caption,le=0.5}": 2,
        "moondream_station_request_duration_seconds_bucket{function=caption,le=600.0}": 3,
        "moondream_station_request_duration_seconds_bucket{function=caption,le=+Inf}": 4,
        "moondream_station_queue_wait_seconds_count{}": 1,
        "moondream_station_queue_size{}": 0,
        "moondream_station_queue_limit{}": 10,
        "moondream_station_requests_in_progress{}": 0,
        "moondream_station_workers{}": 1,
        "moondream_station_tokens_total{function=caption}": 20,
        "moondream_station_worker_restarts_total{}": 1,
        "moondream_station_activations_total{outcome=succeeded}": 0,
        "moondream_station_activations_total{outcome=failed}": 1,
        "moondream_station_activations_total{outcome=cancelled}": 1,
        "moondream_station_downloaded_bytes_total{}": 290,
        "moondream_station_memory_bytes{process=station}": USAGE["memory"]["station_bytes"],
        "moondream_station_memory_bytes{process=worker}": USAGE["memory"]["worker_bytes"],
        "moondream_station_gpu_memory_used_bytes{gpu=0}": USAGE["gpus"][0]["used_bytes"],
        "moondream_station_disk_free_bytes{}": USAGE["disk"]["free_bytes"],
    }
    assert {name: found.get(name) for name in expected} == expected
    assert not any("such" in name for name in found), "a client's text became a label"


async def test_stats_have_the_same_figures(busy: FakeStation) -> None:
    """And median and 95 % of the last requests, which need no estimate from buckets."""
    async with serving(busy) as served, httpx2.AsyncClient(base_url=served.url, trust_env=False) as client:
        stats = (await client.get("/v1/stats")).json()
    caption, unknown = stats["functions"]
    assert caption["requests"] == {"ok": 4, "rejected": 1, "timeout": 0, "error": 0, "cancelled": 0}
    assert caption["seconds"]["median"] == 22.65
    assert caption["seconds"]["p95"] == 10_000
    assert unknown["seconds"]["median"] is None
    assert [bucket["le"] for bucket in stats["waiting"]["buckets"]] == list(BUCKETS)


async def test_a_station_on_the_network_tells_only_who_has_the_key(busy: FakeStation) -> None:
    """As every other route; Prometheus sends it as `authorization`."""
    async with (
        serving(busy, bound="0.0.0.0") as served,
        httpx2.AsyncClient(base_url=served.url, trust_env=False) as client,
    ):
        assert (await client.get("/metrics")).status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert (await client.get("/metrics", headers=headers)).status_code == 200
        assert (await client.post("/metrics", headers=headers)).status_code == 405
