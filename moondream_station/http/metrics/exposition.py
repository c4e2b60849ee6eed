"""`GET /metrics`: the station's figures in Prometheus' text format, by its own client library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moondream_station.core.facts.version import VERSION

if TYPE_CHECKING:
    from prometheus_client import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "moondream_station"
_GAUGES: Final = {
    "queue_size": ("queue_size", "Requests that wait."),
    "max_queue_size": ("queue_limit", "Requests that may wait."),
    "processing": ("requests_in_progress", "Requests that are being answered."),
    "workers": ("workers", "Requests that are answered at the same time; 0 while no worker runs."),
}


def metrics_text(figures: Mapping[str, Any], usage: Mapping[str, Any]) -> bytes:
    """The shapes of `/v1/stats` and `/v1/station/usage` as Prometheus scrapes them.

    The first time it imports: call it in a thread.
    """
    from prometheus_client.exposition import generate_latest  # noqa: PLC0415  only where somebody scrapes

    return generate_latest(_Figures(figures, usage))


@dataclass(frozen=True, slots=True)
class _Figures:
    """What the library takes metrics from; the station counts by itself, since others show its figures."""

    figures: Mapping[str, Any]
    usage: Mapping[str, Any]

    def collect(self) -> Iterator[Metric]:
        """Every metric, with the samples of this moment."""
        from prometheus_client.core import (  # noqa: PLC0415  see above
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        figures = self.figures
        yield InfoMetricFamily(_PREFIX, "The station.", {"version": VERSION})
        if figures["model"] is not None:
            yield InfoMetricFamily(f"{_PREFIX}_model", "The active model.", {"model": figures["model"]})
        for key, (name, words) in _GAUGES.items():
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", words, figures[key])
        requests = CounterMetricFamily(
            f"{_PREFIX}_requests", "Requests that ended, by how.", labels=("function", "status")
        )
        tokens = CounterMetricFamily(
            f"{_PREFIX}_tokens", "Words of answers, or pieces of streams.", labels=("function",)
        )
        seconds = HistogramMetricFamily(
            f"{_PREFIX}_request_duration_seconds",
            "From a request to the end of its answer.",
            labels=("function",),
        )
        for shown in figures["functions"]:
            for status, count in shown["requests"].items():
                requests.add_metric((shown["function"], status), count)
            tokens.add_metric((shown["function"],), shown["tokens"])
            seconds.add_metric((shown["function"],), *_histogram(shown["seconds"]))
        yield from (requests, tokens, seconds)
        waiting = HistogramMetricFamily(
            f"{_PREFIX}_queue_wait_seconds", "How long requests waited for their turn."
        )
        waiting.add_metric((), *_histogram(figures["waiting"]))
        yield waiting
        yield CounterMetricFamily(
            f"{_PREFIX}_worker_restarts",
            "Workers that crashed and were started again.",
            figures["worker_restarts"],
        )
        activations = CounterMetricFamily(
            f"{_PREFIX}_activations", "Activations that ended.", labels=("outcome",)
        )
        for outcome in ("succeeded", "failed", "cancelled"):
            activations.add_metric((outcome,), figures["activations"][outcome])
        yield activations
        yield CounterMetricFamily(
            f"{_PREFIX}_downloaded_bytes",
            "Bytes that activations downloaded.",
            figures["activations"]["downloaded_bytes"],
        )
        memory = GaugeMetricFamily(f"{_PREFIX}_memory_bytes", "Resident memory.", labels=("process",))
        for process in ("station", "worker"):
            memory.add_metric((process,), self.usage["memory"][f"{process}_bytes"] or 0)
        yield memory
        gpus = GaugeMetricFamily(f"{_PREFIX}_gpu_memory_used_bytes", "By any program.", labels=("gpu",))
        for number, gpu in enumerate(self.usage["gpus"]):
            gpus.add_metric((str(number),), gpu["used_bytes"])
        yield gpus
        yield GaugeMetricFamily(
            f"{_PREFIX}_disk_free_bytes", "Free on the home's disk.", self.usage["disk"]["free_bytes"]
        )


def _histogram(durations: Mapping[str, Any]) -> tuple[list[tuple[str, float]], float]:
    """Buckets, the last without a bound, and the sum."""
    buckets = [(str(bucket["le"]), bucket["count"]) for bucket in durations["buckets"]]
    return [*buckets, ("+Inf", durations["count"])], durations["sum"]
