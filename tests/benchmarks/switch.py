"""How long a switch takes to a model whose environment exists, from the request to the first answer.

    python tests/benchmarks/switch.py [--runs 5] [--fake-torch] [--against CHECKOUT]

A station serves; two models take turns, each on an environment of its own, so that every switch goes back to
the model that was active just before. Beside it stands what no switch can do without: the worker alone, from
the start of its process over torch's computing and `init_backend` to its first answer, in the same
environment, started by the same code. The two take turns; medians and what the station adds are printed. Aim:
at most 150 ms. With `--against` the station of another checkout, in its `.venv`, takes its turns too.

With the CPU torch of pip's find-links where it is there, else (or with `--fake-torch`) with the test suite's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a program: find `support`

from benchmarks.installing.participants import python_of
from benchmarks.installing.wheels import WheelSet, serve_real_torch

from moondream_station.core.backends.code_store import read_backend
from moondream_station.core.environments.store import load_commit, place_of
from moondream_station.core.home.active_file import read_active
from moondream_station.core.processes.child_process import child_environment
from moondream_station.core.worker.verification import WorkerPlan
from moondream_station.core.worker.worker import open_worker
from support.backends import call
from support.commands import Served, events_of, serving, started
from support.stations import Premises
from support.torch_index import TorchIndex

_MODELS = ("here", "there")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="switches to each of the two models (5)")
    parser.add_argument("--fake-torch", action="store_true", help="with a torch that is imported in no time")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure another checkout's too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, TorchIndex() as index:
        folder = Path(name)
        real = None if options.fake_torch else serve_real_torch(index, folder / "wheels")
        if real is None:
            index.add_usual()
        pythons = {"this station": sys.executable}
        if options.against:
            pythons["the other one"] = python_of(options.against)
        with ExitStack() as stack:
            stations: dict[str, Served] = {}
            for station, python in pythons.items():
                premises = _installed(folder / station, index, real, python)
                stations[station] = stack.enter_context(serving(premises, python=python))
                stations[station].post("/v1/echo", {})  # waits for the active model's worker
            torch = real.name if real else "the test suite's torch"
            _say(f"{torch}; {options.runs * len(_MODELS)} switches of each")
            _compare(stations, Premises(folder=folder / "this station", index=index), options.runs)


def _installed(folder: Path, index: TorchIndex, real: WheelSet | None, python: str) -> Premises:
    """A home with both models, made by the station of that Python."""
    requirements = real.requirements if real else ("torch==2.9.1",)
    folder.mkdir()
    premises = Premises(folder=folder, index=index, variables={"MOONDREAM_STATION_LOG": "error"})
    for model in _MODELS:
        premises.add_model(model, requirements="\n".join([*requirements, f"# {model}", ""]))
        with started(premises, "switch", model, "--json", python=python) as process:
            *_, last = events_of(process)
        if last["event"] != "ActivationSucceeded":
            sys.exit(f"the first switch failed: {last}")
    return premises


def _compare(stations: Mapping[str, Served], premises: Premises, runs: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in stations}
    alone: list[float] = []
    for _ in range(runs):
        for model in _MODELS:
            for name, station in stations.items():
                times[name].append(_switched(station, model))
            alone.append(anyio.run(_worker_alone, premises, model))
    for name, found in times.items():
        added = statistics.median(one - other for one, other in zip(found, alone, strict=True))
        ratio = statistics.median(one / other for one, other in zip(found, alone, strict=True))
        _say(f"{name:<14}{statistics.median(found):7.3f} s   ({_spread(found)})")
        _say(f"  adds        {added * 1000:7.0f} ms  {ratio:.3f} of the worker alone")
    _say(f"worker alone  {statistics.median(alone):7.3f} s   ({_spread(alone)})")


def _switched(station: Served, model: str) -> float:
    """Seconds from the request for a model to its first answer."""
    with urllib.request.urlopen(f"{station.address}/v1/station/events", timeout=60) as events:
        began = time.perf_counter()
        activation = station.post("/v1/station/switch", {"model": model})["activation"]
        last = _terminal(events, activation)
        if last["event"] != "ActivationSucceeded":
            raise RuntimeError(f"the switch failed: {last}")
        station.post("/v1/echo", {})
        return time.perf_counter() - began


def _terminal(events: Any, activation: str) -> Mapping[str, Any]:
    terminal = {"ActivationSucceeded", "ActivationFailed", "ActivationCancelled"}
    for line in events:
        if line.startswith(b"data:"):
            event: dict[str, Any] = json.loads(line.removeprefix(b"data:"))
            if event.get("activation") == activation and event["event"] in terminal:
                return event
    raise RuntimeError("the events ended")


async def _worker_alone(premises: Premises, model: str) -> float:
    """Seconds from the start of a model's worker to its first answer."""
    home = premises.home
    place = place_of(home, read_active(home).models[model].environment)
    record = load_commit(place)
    code = read_backend(home, record.code_place) if record else None
    if record is None or code is None:
        raise RuntimeError(f"{model} is not installed")
    began = time.perf_counter()
    environment = child_environment(premises.environ)
    log = home.logs / "alone.log"
    async with open_worker(place.python, env=environment, cwd=code.folder, log_path=log) as worker:
        verification = await worker.verify(WorkerPlan(build=record.build, torch=record.torch))
        await worker.init(code, {}, device=verification.report.device)
        await call(worker, "echo", {})
        return time.perf_counter() - began


def _spread(times: list[float]) -> str:
    return f"{min(times):.2f} to {max(times):.2f}"


def _say(text: str) -> None:
    print(text)  # noqa: T201  the result


if __name__ == "__main__":
    main()
