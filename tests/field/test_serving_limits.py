"""A station that serves with few descriptors, and one that many large images are sent to at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from support.commands import Served, command, exit_code_after, serving, wait_until
from support.posix import SIGKILL, descriptors_of
from support.stations import Premises, activate, open_premises

FEW = 64
MEBIBYTE = 1 << 20


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    """Premises with an active model."""
    with open_premises(tmp_path) as premises:
        premises.add_model("here", requirements="")
        activate(premises, "here")
        yield premises


@contextmanager
def serving_with_few_descriptors(premises: Premises) -> Iterator[Served]:
    """As `serving`, in a shell that allows 64."""
    limited = ["sh", "-c", f'ulimit -n {FEW}; exec "$@"', "sh", *command("serve", "--port", "0")]
    with (
        (premises.folder / "log").open("w+", encoding="utf-8") as log,
        subprocess.Popen(
            limited, env=premises.environ, cwd=premises.folder, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield Served(process, process.stdout.readline().split()[-1])
            assert exit_code_after(process, signal.SIGTERM) == 0
            log.seek(0)
            assert "Too many open files" not in log.read()
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are not limited there")
def test_idle_clients_leave_enough_for_a_new_worker(premises: Premises) -> None:
    """They take all that they may have; the station answers others, and replaces a worker that dies."""
    with serving_with_few_descriptors(premises) as station, ExitStack() as idle:
        port = int(station.address.rpartition(":")[2])
        first = station.post("/v1/pid", {})["pid"]
        for _ in range(2 * FEW):
            idle.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert station.post("/v1/pid", {})["pid"] == first
        os.kill(first, SIGKILL)
        wait_until(lambda: not psutil.pid_exists(first))
        assert station.post("/v1/pid", {})["pid"] != first
        assert descriptors_of(psutil.Process(station.process.pid)) < FEW


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries return memory as they like")
def test_memory_is_bounded_and_given_back(premises: Premises) -> None:
    """Large images are read one after the other; what they took is returned when they are answered."""
    with serving(premises) as station:
        process = psutil.Process(station.process.pid)
        station.post("/v1/caption", {})
        assert process.memory_info().rss <= 60 * MEBIBYTE
        body = {"image_url": "x" * 31_000_000, "timeout": 100}
        clients = [threading.Thread(target=station.post, args=("/v1/caption", body)) for _ in range(8)]
        most = 0
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            most = max(most, process.memory_info().rss)
            clients[0].join(0.01)
        assert station.get("/v1/stats")["requests_processed"] == 9
        assert most < 250 * MEBIBYTE
        wait_until(lambda: process.memory_info().rss <= 90 * MEBIBYTE)
