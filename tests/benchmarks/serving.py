"""How quickly the station answers, beside its predecessor with the same backend, and what it bears.

    python tests/benchmarks/serving.py [--runs 200] [--requests 5000] [--only PART,...]

The predecessor, 0.1, is installed from PyPI into a temporary virtual environment, or taken from `--before
PYTHON`, one that has it. Both serve a backend that does nothing; each request goes to one and then to the
other, and medians and their ratio are printed. Aims: at most 1.5 times the predecessor's; at 64 clients the
throughput of 16 or more; no request without an answer; who asks alone waits for one call of a crowd's.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a program: find `support`

from support.commands import Served, serving, switch
from support.posix import SIGKILL, descriptors_of
from support.stations import Premises
from support.torch_index import TorchIndex

_PREDECESSOR = ("moondream-station==0.1.9", "fastapi", "uvicorn")  # it installs the last two by itself
_MODELS = ("here", "there")
_PARTS = "latency,clients,fairness,parallel,memory,faults"
_BACKEND = '''
"""Does nothing, or takes 20 ms, of waiting or of computing."""
import os, time

def caption(image_url=None, **kwargs):
    return {"caption": f"{len(image_url)} characters", "pid": os.getpid()}

def query(image_url=None, **kwargs):
    time.sleep(0.02)
    return {"answer": "yes"}

def detect(image_url=None, **kwargs):
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass
    return {"objects": []}
'''
_BEFORE = """
import sys, threading
sys.path.insert(0, sys.argv[1])
import backend
from moondream_station.core.rest_server import RestServer

class Models:
    def get_models(self): return {}
    def clear_worker_backends(self): pass
    def get_worker_backends(self, model, workers): return [backend]

settings = {"current_model": "here", "inference_max_queue_size": 100}
assert RestServer(settings, Models()).start(port=int(sys.argv[2]))
print("serving", flush=True)
threading.Event().wait()
"""
_IMAGES = {"small image": 1_000, "2 MB image": 2_000_000}


class Client:
    """A connection that is made anew where it was closed, with as little work of its own as possible."""

    def __init__(self, port: int, *, kept_alive: bool = True) -> None:
        self._port = port
        self._kept_alive = kept_alive
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; gives status and body. OSError where no answer comes."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.sendall(request)
            received = b""
            while b"\r\n\r\n" not in received:
                received += self._read()
            head, _, body = received.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            while len(body) < length:
                body += self._read()
        except OSError:
            self.close()
            raise
        if not self._kept_alive or b"connection: close" in head.lower():
            self.close()
        return int(head.split()[1]), body

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _read(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("closed without an answer")
        return data


def call(size: int, function: str = "caption", key: str = "") -> bytes:
    """A call with an image of so many bytes; another key is another client."""
    image = base64.b64encode(os.urandom(size)).decode()
    body = json.dumps({"image_url": f"data:image/jpeg;base64,{image}"}).encode()
    lines = (f"POST /v1/{function} HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return (
        "\r\n".join([*lines, f"X-Moondream-Auth: {key}", f"Content-Length: {len(body)}", "", ""]).encode()
        + body
    )


@dataclass
class Load:
    """Clients that ask all the time, each over a connection of its own, and what came of it."""

    port: int
    request: bytes
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def of(self, clients: int, *, most: int = sys.maxsize) -> Iterator[None]:
        """Ask while the block runs, or `most` times in all; ends once every request is answered."""
        left = iter(range(most))
        threads = [threading.Thread(target=self._ask, args=(left,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            if most == sys.maxsize:
                self.over.set()
            for thread in threads:
                thread.join()

    def _ask(self, left: Iterator[int]) -> None:
        client = Client(self.port)
        while not self.over.is_set() and next(left, None) is not None:
            began = time.perf_counter()
            try:
                status, _ = client.ask(self.request)
                self.statuses[str(status)] += 1
            except OSError as error:
                self.statuses[f"{type(error).__name__}: {error}"] += 1
            self.seconds.append(time.perf_counter() - began)
        client.close()

    def row(self, took: float) -> str:
        """Percentiles in milliseconds, throughput and errors."""
        cuts = statistics.quantiles(self.seconds, n=100)
        figures = "  ".join(f"p{cut} {cuts[cut - 1] * 1000:7.1f} ms" for cut in (50, 95, 99))
        return f"{figures}  {len(self.seconds) / took:6.0f}/s  {dict(self.statuses)}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="requests of each kind to each of the two")
    parser.add_argument("--requests", type=int, default=5000, help="requests before memory is looked at")
    parser.add_argument("--before", type=Path, help="a Python that has the predecessor")
    parser.add_argument("--only", default=_PARTS, help=f"of {_PARTS}")
    options = parser.parse_args()
    parts = options.only.split(",")
    with tempfile.TemporaryDirectory() as name, TorchIndex() as index:
        folder = Path(name)
        premises = Premises(folder=folder, index=index, variables={"MOONDREAM_STATION_LOG": "error"})
        for model in _MODELS:
            premises.add_model(model, requirements="", source=_BACKEND)
            switch(premises, model)
        settings = premises.home.root / "config.json"
        if "parallel" in parts:
            _compare_parallel(premises)
            switch(premises, _MODELS[0])
        settings.write_text(json.dumps({"inference_max_queue_size": 300}))
        with serving(premises) as station:
            port = int(station.address.rpartition(":")[2])
            Client(port).ask(call(10))  # waits for the worker
            _say(f"idle        {_held(station)}")
            if "latency" in parts:
                with _predecessor(folder, options.before) as before:
                    _compare(port, before, options.runs)
            if "clients" in parts:
                _crowd(port, options.requests)
            if "fairness" in parts:
                _compare_turns(port)
            if "memory" in parts:
                _endure(station, port, options.requests)
            if "faults" in parts:
                _under_load(port, "worker killed ten times", lambda: _kill(port))
                _under_load(port, "model switched ten times", lambda: _switch(station))


@contextmanager
def _predecessor(folder: Path, python: Path | None) -> Iterator[int]:
    if python is None:
        subprocess.run([sys.executable, "-m", "venv", folder / "before"], check=True)
        python = folder / "before" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *_PREDECESSOR], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    (folder / "before.py").write_text(_BEFORE)
    command = [str(python), str(folder / "before.py"), str(folder / "backends" / _MODELS[0]), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "serving\n":
            sys.exit("the predecessor does not serve")
        yield port
        process.kill()


def _compare(ours: int, before: int, runs: int) -> None:
    for image, size in _IMAGES.items():
        request = call(size)
        for kept_alive in (True, False):
            clients = [Client(port, kept_alive=kept_alive) for port in (ours, before)]
            times: list[list[float]] = [[], []]
            for _ in range(runs + 5):
                for client, taken in zip(clients, times, strict=True):
                    began = time.perf_counter()
                    if client.ask(request)[0] != 200:
                        sys.exit("a request failed")
                    taken.append(time.perf_counter() - began)
            for client in clients:
                client.close()
            mine, theirs = (statistics.median(taken[5:]) * 1000 for taken in times)
            kind = f"{image}, {'kept alive' if kept_alive else 'new connection'}"
            _say(f"{kind:28} {mine:7.2f} ms   before {theirs:7.2f} ms   ratio {mine / theirs:.2f}")


def _crowd(port: int, requests: int) -> None:
    """As many connections as clients, in one thread: 64 threads would wait for each other."""
    request = call(_IMAGES["small image"])
    for clients in (1, 4, 16, 64):
        load = Load(port, request)
        began = time.perf_counter()
        with ExitStack() as connections, selectors.DefaultSelector() as selector:
            for _ in range(clients):
                client = connections.enter_context(socket.create_connection(("127.0.0.1", port)))
                client.sendall(request)
                selector.register(client, selectors.EVENT_READ, (client, time.perf_counter(), bytearray()))
            while len(load.seconds) < requests // 4:
                for key, _ in selector.select():
                    client, asked, answer = key.data
                    answer += client.recv(1 << 16)
                    if not answer.endswith(b"}"):
                        continue
                    load.statuses[answer.split()[1].decode()] += 1
                    load.seconds.append(time.perf_counter() - asked)
                    client.sendall(request)
                    selector.modify(client, selectors.EVENT_READ, (client, time.perf_counter(), bytearray()))
        _say(f"{clients:3} clients  {load.row(time.perf_counter() - began)}")


def _compare_turns(port: int) -> None:
    """A client that asks one thing after the other, alone and beside one with 200 requests in the queue."""
    alone, beside = Load(port, call(1_000, "query", "b")), Load(port, call(1_000, "query", "b"))
    with alone.of(1, most=50):
        pass
    crowd = Load(port, call(1_000, "query", "a"))
    with crowd.of(200):
        while len(crowd.seconds) < 20:
            time.sleep(0.05)
        with beside.of(1, most=50):
            pass
    for name, load in (("alone", alone), ("beside 200 of another", beside), ("each of the 200", crowd)):
        typical = statistics.median(load.seconds) * 1000
        _say(f"calls of 20 ms, {name:22} p50 {typical:7.1f} ms  {dict(load.statuses)}")


def _compare_parallel(premises: Premises) -> None:
    """The same backend with `inference_workers` 2, by what its manifest says."""
    (premises.home.root / "config.json").write_text(json.dumps({"inference_workers": 2}))
    for parallel in (None, "threads", "processes"):
        premises.add_model("several", requirements="", source=_BACKEND, parallel=parallel)
        switch(premises, "several")
        with serving(premises) as station:
            port = int(station.address.rpartition(":")[2])
            Client(port).ask(call(10))
            wanted = 1 if parallel is None else 2
            while station.get("/v1/stats")["workers"] < wanted:
                time.sleep(0.05)
            for function, kind in (("query", "waiting"), ("detect", "computing")):
                load, began = Load(port, call(1_000, function)), time.perf_counter()
                with load.of(4, most=200):
                    pass
                took = time.perf_counter() - began
                _say(
                    f"parallel {parallel!s:10} 20 ms of {kind:10} {200 / took:6.1f}/s  {dict(load.statuses)}"
                )


def _endure(station: Served, port: int, requests: int) -> None:
    with Load(port, call(_IMAGES["small image"])).of(8, most=requests):
        pass
    _say(f"after {requests:5} {_held(station)}")
    large = Load(port, call(23_000_000))
    with large.of(8, most=8):
        most = 0
        while sum(large.statuses.values()) < 8:
            most = max(most, psutil.Process(station.process.pid).memory_info().rss)
            time.sleep(0.01)
    _say(f"8 bodies of 31 MB: at most {most >> 20} MiB  {dict(large.statuses)}")
    time.sleep(60)
    _say(f"a minute on {_held(station)}")


def _held(station: Served) -> str:
    process = psutil.Process(station.process.pid)
    return f"{process.memory_info().rss >> 20} MiB, {descriptors_of(process)} descriptors"


def _under_load(port: int, what: str, disturb: Callable[[], None]) -> None:
    load = Load(port, call(_IMAGES["small image"]))
    began = time.perf_counter()
    with load.of(8):
        for _ in range(10):
            disturb()
            time.sleep(0.5)
    _say(f"{what}: {load.row(time.perf_counter() - began)}")


def _kill(port: int) -> None:
    status, body = Client(port).ask(call(10))
    if status == 200:
        os.kill(json.loads(body)["pid"], SIGKILL)


def _switch(station: Served) -> None:
    (model,) = {*_MODELS} - {station.get("/v1/station")["active"]["model"]}
    station.post("/v1/station/switch", {"model": model})
    while station.get("/v1/station")["active"]["model"] != model:
        time.sleep(0.05)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  the result


if __name__ == "__main__":
    main()
