"""`serve` as a user runs it: a process of its own that answers, is asked, is harmed, and ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NoReturn

import anyio
import anyio.to_thread
import psutil
import pytest

from moondream_station.cli.serve import serve_here
from moondream_station.core.facts.errors import AddressUnusable, StationRunning
from moondream_station.core.home.locks import announce_station, serve_lock
from moondream_station.core.home.settings import load_settings
from support.commands import (
    Served,
    events_of,
    exit_code_after,
    run,
    run_json,
    serving,
    started,
    switch,
    wait_until,
)
from support.index_traffic import Fault
from support.stations import Premises, processes_naming
from support.wheels import Wheel


def test_it_says_where_it_serves_and_answers_at_once(lasting: Premises) -> None:
    """The record is private; a request that comes while the worker loads is answered when it has."""
    with serving(lasting) as station:
        assert station.post("/v1/caption", {})["caption"] == "a small caption"
        assert stat.S_IMODE(lasting.home.station.stat().st_mode) == 0o600
        assert station.get("/health") == {"status": "ok", "server": "moondream-station"}
        shown = run_json(lasting, "status")
        assert shown["station"]["address"] == station.address
        assert (shown["active"]["model"], shown["active"]["worker"]) == ("colours", "ready")
        assert exit_code_after(station.process, signal.SIGTERM) == 0
    assert not lasting.home.station.exists()


THINKING = """
import os, time

def query(path, progress, stream=False, **kwargs):
    tokens = 0
    while not os.path.exists(path):
        tokens += 1
        progress(tokens)
        time.sleep(0.02)
    answer = {"reasoning": {"text": "thought", "grounding": []}}
    return {**answer, "answer": iter(["a ", "cat"]) if stream else "a cat"}
"""


def test_a_slow_answer_says_how_far_it_is(installed: Premises, tmp_path: Path) -> None:
    """To who reads its stream before it has a word, and to `status`; its reasoning comes before the words."""
    gate = tmp_path / "gate"
    installed.add_model("thinking", requirements="", source=THINKING)
    with serving(installed) as station:
        assert run_json(installed, "status")["calls"] == []
        switch(installed, "thinking")
        with station.streaming("/v1/query", {"path": str(gate), "stream": True}) as lines:
            first = json.loads(next(lines).removeprefix(b"data: "))["progress"]
            assert (first["total"], first["unit"]) == (None, "tokens")
            (call,) = run_json(installed, "status")["calls"]
            assert (call["function"], call["unit"]) == ("query", "tokens")
            assert call["done"] >= first["done"] > 1
            assert "Answering: query, since" in run(installed, "status").stdout
            gate.touch()
            sent = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.strip()]
        told = [message for message in sent if "progress" not in message]
        thought = {"reasoning": {"text": "thought", "grounding": []}}
        assert told[:3] == [thought, {"chunk": "a "}, {"chunk": "cat"}]
        assert told[-1] == {"completed": True}
    assert run_json(installed, "status")["calls"] is None


def test_an_open_event_stream_does_not_hold_up_the_end(lasting: Premises) -> None:
    """SIGINT ends a station within seconds, with exit code 0, whoever listens."""
    with serving(lasting) as station:
        address = station.address.removeprefix("http://")
        listener = http.client.HTTPConnection(address, timeout=30)
        listener.request("GET", "/v1/station/events")
        stream = listener.getresponse()
        assert stream.readline().startswith(b"id: ")
        began = time.monotonic()
        assert exit_code_after(station.process, signal.SIGINT) == 0
        assert time.monotonic() - began < 10
        listener.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_ended_as_soon_as_it_says_where_it_serves(
    installed: Premises, number: signal.Signals
) -> None:
    """Whoever waits for the address may end the station in the next moment: that is exit code 0 too."""
    with serving(installed) as station:
        assert exit_code_after(station.process, number) == 0
    assert not installed.home.station.exists()


def test_who_follows_a_switch_is_told_that_the_station_ended_it(installed: Premises) -> None:
    """The terminal fact is the command's last line, and its exit code that of what was cancelled."""
    installed.add_model("shapes", requirements="torch>=2.8\nnumpy\n")
    installed.index.faults.append(Fault(match="/files/*", hang_after_bytes=10))
    installed.index.faults.append(Fault(match="*numpy*.whl", hang_after_bytes=10))
    with serving(installed) as station, started(installed, "switch", "shapes", "--json") as process:
        events = events_of(process)
        for event in events:
            if event["event"] == "StageStarted" and event["stage"] == "download":
                break
        assert exit_code_after(station.process, signal.SIGTERM) == 0
        *_, last = events
        assert (last["event"], last["reason"]) == ("ActivationCancelled", "shutdown")
        assert process.wait(timeout=20) == 130


def test_it_can_be_ended_before_it_serves(lasting: Premises) -> None:
    """While a manifest does not come, say; exit code 0, and nothing was announced."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        manifest = f"http://127.0.0.1:{silent.getsockname()[1]}/manifest.json"
        with started(lasting, "serve", "--port", "0", MOONDREAM_STATION_MANIFEST=manifest) as process:
            connection, _ = silent.accept()
            assert exit_code_after(process, signal.SIGTERM) == 0
            connection.close()
    assert not lasting.home.station.exists()


def test_a_second_station_is_refused(lasting: Premises) -> None:
    """It says where the first one serves, and ends with 1."""
    with serving(lasting) as station:
        second = run(lasting, "serve", "--port", "0")
        assert second.returncode == 1
        assert f"at {station.address} (pid {station.process.pid}, since" in second.stderr
        assert run_json(lasting, "serve", "--port", "0")["error"]["code"] == "station-running"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_slow_name_server_blocks_nothing(premises: Premises, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the host's address is looked up, signals and all else are still heeded."""
    has_begun, may_end = threading.Event(), threading.Event()

    def look_up(*_: object, **__: object) -> NoReturn:
        has_begun.set()
        may_end.wait(5)
        raise OSError("no such name")

    settings = load_settings(premises.home, premises.environ, service_host="slow.example")
    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def serve() -> None:
        stopping = anyio.Event()
        with pytest.raises(AddressUnusable):
            async with serve_here(premises.home, settings, stopping=stopping, announce=lambda _: None):
                pytest.fail("there is no such address")

    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await anyio.to_thread.run_sync(has_begun.wait)
        may_end.set()
    assert time.monotonic() - began < 4


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_second_station_waits_to_be_told_where_the_first_one_serves(premises: Premises) -> None:
    """Two that begin at once: the one that comes too late names the other, which has only just begun."""
    premises.home.create()
    settings = load_settings(premises.home, premises.environ)
    refusals: list[str] = []

    async def serve() -> None:
        stopping = anyio.Event()
        try:
            async with serve_here(premises.home, settings, stopping=stopping, announce=lambda _: None):
                pytest.fail("two stations serve one home")
        except StationRunning as refusal:
            refusals.append(refusal.message)

    with serve_lock(premises.home):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await anyio.wait_all_tasks_blocked()
            assert refusals == []
            announce_station(premises.home, address="http://127.0.0.1:9", instance="x", version="0")
    assert f"already serving at http://127.0.0.1:9 (pid {os.getpid()}, since" in refusals[0]


def test_a_killed_station_leaves_nothing(lasting: Premises) -> None:
    """SIGKILL takes the worker along, and the next station serves."""
    with serving(lasting) as station:
        station.post("/v1/caption", {})
        station.process.kill()
        station.process.wait()
    for _ in range(100):
        if not processes_naming(lasting.folder):
            break
        time.sleep(0.05)
    assert processes_naming(lasting.folder) == []
    with serving(lasting) as station:
        assert station.post("/v1/caption", {})["caption"] == "a small caption"


def test_a_crashed_worker_is_replaced(lasting: Premises) -> None:
    """Whoever asks next waits for the new one."""
    with serving(lasting) as station:
        pid = station.post("/v1/pid", {})["pid"]
        worker = psutil.Process(pid)
        worker.kill()
        psutil.wait_procs([worker], timeout=10)
        assert station.post("/v1/pid", {})["pid"] != pid


def test_a_switch_goes_through_the_station_that_serves(installed: Premises) -> None:
    """The command follows it fact by fact; the old worker ends when the new one has taken over."""
    installed.add_model("shapes")
    with serving(installed) as station:
        station.post("/v1/caption", {})
        events = switch(installed, "shapes")
        names = [event["event"] for event in events]
        assert (names[0], names[-1]) == ("BackendActivationRequested", "ActivationSucceeded")
        assert len({event["activation"] for event in events}) == 1
        assert station.get("/v1/station")["active"]["model"] == "shapes"
        assert station.post("/v1/caption", {})["caption"] == "a small caption"
        requested, failed = switch(installed, "nope")
        assert (requested["model"], failed["error"]["code"]) == ("nope", "unknown-model")


def test_another_python_is_taken_by_the_station_that_serves(installed: Premises) -> None:
    """The command shows that it may name a program to run; the environment is made from that Python."""
    installed.add_model("shapes")
    with serving(installed) as station:
        *_, last = switch(installed, "shapes", "--python", sys.executable)
        assert last["event"] == "ActivationSucceeded"
        assert station.get("/v1/station")["active"]["environment"] == last["environment"]
        *_, failed = switch(installed, "colours", "--upgrade", "--python", __file__)
        assert "can't be started" in failed["error"]["message"]


def test_a_switch_that_began_before_the_station_reaches_it(installed: Premises) -> None:
    """The command does it by itself, as it began to; the station goes over to that model when it is there."""
    installed.index.add_simple(Wheel(name="large", version="1.0.0", filler_bytes=3_000_000))
    installed.index.faults.append(Fault(match="*large-1.0.0*.whl", bytes_per_second=600_000))
    installed.add_model("shapes", requirements="torch>=2.8\nlarge\n")
    with started(installed, "switch", "shapes", "--json") as process:
        for event in events_of(process):
            if event["event"] == "StageStarted" and event["stage"] == "download":
                break
        with serving(installed) as station:
            assert station.get("/v1/station")["active"]["model"] == "colours"
            *_, last = events_of(process)
            assert (last["event"], process.wait(timeout=60)) == ("ActivationSucceeded", 0)
            wait_until(lambda: station.get("/v1/station")["active"]["model"] == "shapes")
            assert station.get("/v1/station")["active"]["environment"] == last["environment"]
            assert station.post("/v1/caption", {})["caption"] == "a small caption"


def test_a_station_that_does_not_answer_is_not_waited_for_after_a_signal(installed: Premises) -> None:
    """The switch is done, and ends with 0; what the station was not told is said."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        serve_lock(installed.home),
        started(installed, "switch", "colours", "--json") as process,
    ):
        assert next(events_of(process))["event"] == "BackendActivationRequested"
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        announce_station(installed.home, address=address, instance="x", version="0")
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert f"The station at {address} was not notified: interrupted." in process.stderr.read()


def test_who_joins_a_switch_only_detaches(installed: Premises) -> None:
    """Ctrl-C of the second command leaves the switch to the first; Ctrl-C of the first cancels it."""
    installed.add_model("shapes", requirements="torch>=2.8\nnumpy\n")
    installed.index.faults.append(Fault(match="/files/*", hang_after_bytes=10))
    installed.index.faults.append(Fault(match="*numpy*.whl", hang_after_bytes=10))
    with serving(installed) as station, started(installed, "switch", "shapes", "--json") as first:
        for event in events_of(first):
            if event["event"] == "StageStarted" and event["stage"] == "download":
                break
        with started(installed, "switch", "shapes", "--json") as second:
            assert next(events_of(second))["activation"] == event["activation"]
            assert exit_code_after(second, signal.SIGINT) == 130
        assert station.get("/v1/station")["activation"]["id"] == event["activation"]
        assert exit_code_after(first, signal.SIGINT) == 130
        assert station.post("/v1/caption", {})["caption"] == "a small caption"


def test_without_a_model_it_serves_and_says_so(premises: Premises) -> None:
    """503 and what to do; the switch that follows makes it answer."""
    with serving(premises) as station:
        with pytest.raises(urllib.error.HTTPError) as caught:
            station.post("/v1/caption", {})
        assert caught.value.code in {404, 503}
        caught.value.close()
        assert switch(premises, "colours")[-1]["event"] == "ActivationSucceeded"
        assert station.post("/v1/caption", {})["caption"] == "a small caption"


def test_a_config_of_0_1_counts_and_stays_as_it_is(installed: Premises) -> None:
    """Its address, port and queue are taken; a flag goes before; nothing ever rewrites the file."""
    port = _free_port()
    text = json.dumps(
        {
            "current_model": "moondream-2",
            "service_port": port,
            "service_host": "127.0.0.1",
            "models_dir": "~/.moondream-station/models",
            "inference_workers": 1,
            "inference_max_queue_size": 5,
            "inference_timeout": 60.0,
            "auto_start": True,
            "theirs": {"kept": ["as", "it", "is"]},
        },
        indent=4,
    )
    installed.home.config.write_text(text)
    with started(installed, "serve") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"Moondream Station is serving on http://127.0.0.1:{port}\n"
        stats = Served(process, f"http://127.0.0.1:{port}").get("/v1/stats")
        assert (stats["max_queue_size"], stats["default_timeout"]) == (5, 60.0)
        assert switch(installed, "colours")[-1]["event"] == "ActivationSucceeded"
    with serving(installed) as station:  # with --port 0
        assert not station.address.endswith(f":{port}")
    assert installed.home.config.read_text() == text


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_port_that_is_taken(lasting: Premises, tmp_path: Path) -> None:
    """An explicit one is an error; nobody else's station is touched."""
    with serving(lasting) as station:
        port = station.address.rpartition(":")[2]
        elsewhere = {"MOONDREAM_STATION_HOME": str(tmp_path / "another")}
        refused = run(lasting, "serve", "--port", port, **elsewhere)
        assert refused.returncode == 1
        assert f"port {port}" in refused.stderr


def test_figures_memory_given_back_and_a_line_for_each_request(installed: Premises, tmp_path: Path) -> None:
    """What `status` and `/metrics` tell; `stop` ends the process; the access log has no query."""
    installed.home.config.write_text(json.dumps({"access_log": True}))
    with (tmp_path / "log").open("w+", encoding="utf-8") as log:
        with started(installed, "serve", "--port", "0", log=log) as process:
            assert process.stdout is not None
            station = Served(process, process.stdout.readline().split()[-1])
            assert station.post("/v1/caption?key=secret", {})["caption"] == "a small caption"
            worker = station.post("/v1/pid", {})["pid"]
            shown = run(installed, "status").stdout
            assert "Requests: 2 answered; 0 in progress, 0 waiting" in shown
            assert "Median: caption " in shown
            assert "Memory: station " in shown
            assert run(installed, "stop").stdout == (
                "The worker of colours was stopped; the next request starts it again.\n"
            )
            assert not psutil.pid_exists(worker)
            assert "worker stopped" in run(installed, "status").stdout
            assert run_json(installed, "stop") == {"model": "colours", "stopped": False}
            with urllib.request.urlopen(f"{station.address}/metrics", timeout=20) as response:
                text = response.read().decode()
            assert 'moondream_station_requests_total{function="caption",status="ok"} 1.0' in text
            assert station.post("/v1/pid", {})["pid"] != worker
        log.seek(0)
        lines = [json.loads(line) for line in log if '"event": "request"' in line]
    assert run_json(installed, "stop")["error"]["code"] == "station-unreachable"
    first = lines[0]
    assert (first["method"], first["path"], first["status"]) == ("POST", "/v1/caption", 200)
    assert first["client"] == "127.0.0.1"
    assert first["bytes"] > 0
    assert first["seconds"] > 0
    assert not any("secret" in str(line) for line in lines)
    assert {line["path"] for line in lines} >= {"/metrics", "/v1/station/stop", "/v1/stats"}
