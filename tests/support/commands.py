"""The real command, on the premises of a test: in a process of its own, or called in the test's."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

import anyio
import pytest
import structlog

from moondream_station.cli.run import run as call_command
from moondream_station.core.home.log import set_up_logging

_END_SECONDS = 20


class Premises(Protocol):
    """Where a command runs: a folder, and the user's variables."""

    @property
    def folder(self) -> Path:
        """Where everything is."""

    @property
    def environ(self) -> Mapping[str, str]:
        """The user's variables."""


def command(*arguments: str, python: str = sys.executable) -> list[str]:
    """The command line of `moondream-station`, as that Python has it."""
    return [python, "-m", "moondream_station", *arguments]


def run(premises: Premises, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and give its exit code and what it printed.

    It is called in this process, where nothing forbids that, unless the test is marked `own_process`.
    """
    if in_process.wanted and _may_call():
        return call_here(premises, *arguments, **variables)
    return subprocess.run(
        command(*arguments),
        env={**premises.environ, **variables},
        cwd=premises.folder,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


@dataclass
class InProcess:
    """How commands that are only run to their end are run.

    Args:
        wanted: Whether without a process of their own, which takes a tenth of the time.
    """

    wanted: bool = False


in_process = InProcess()


def _may_call() -> bool:
    """Whether a command's own event loop can run here."""
    try:
        anyio.get_current_task()
    except anyio.NoEventLoopError:
        return threading.current_thread() is threading.main_thread()
    return False


def call_here(premises: Premises, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Call a command in this process, as if it had one of its own: a tenth of the time."""
    with (
        Path(os.devnull).open(encoding="utf-8") as nothing,
        TemporaryFile("w+", encoding="utf-8") as out,
        TemporaryFile("w+", encoding="utf-8") as err,
        pytest.MonkeyPatch.context() as patched,
    ):
        for name, stream in (("stdin", nothing), ("stdout", out), ("stderr", err)):
            patched.setattr(sys, name, stream)
        patched.chdir(premises.folder)
        for name in tuple(os.environ):
            patched.delenv(name)
        for name, value in {**premises.environ, **variables}.items():
            patched.setenv(name, value)
        try:
            code = call_command(arguments)
        finally:
            set_up_logging(logging.NOTSET, lambda: None)
            structlog.reset_defaults()
        for stream in (out, err):
            stream.seek(0)
        return subprocess.CompletedProcess(command(*arguments), code, out.read(), err.read())


def run_json(premises: Premises, *arguments: str) -> Any:
    """Run a command with `--json`, and give the one thing that it printed."""
    (line,) = run(premises, *arguments, "--json").stdout.splitlines()
    return json.loads(line)


def switch(premises: Premises, *arguments: str) -> list[dict[str, Any]]:
    """Switch with `--json`, and give the events."""
    return [json.loads(line) for line in run(premises, "switch", *arguments, "--json").stdout.splitlines()]


@contextmanager
def started(
    premises: Premises,
    *arguments: str,
    log: IO[str] | None = None,
    python: str = sys.executable,
    **variables: str,
) -> Iterator[subprocess.Popen[str]]:
    """A command that runs; at the end it is told to go, and has gone.

    Args:
        premises: Where.
        arguments: What follows the program's name.
        log: Where its stderr goes; a pipe by default, which holds up whoever fills it.
        python: Whose station it is.
        variables: The user's further variables.
    """
    with subprocess.Popen(
        command(*arguments, python=python),
        env={**premises.environ, **variables},
        cwd=premises.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if log is None else log,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=_END_SECONDS)


def events_of(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """The events that a switch with `--json` prints, as they come."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


@dataclass(frozen=True)
class Served:
    """A station that serves.

    Args:
        process: Its process.
        address: Where.
    """

    process: subprocess.Popen[str]
    address: str

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Any:
        """The JSON that a path gives."""
        request = urllib.request.Request(self.address + path, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def post(self, path: str, body: object) -> Any:
        """The JSON that a path answers."""
        with urllib.request.urlopen(self._request(path, body), timeout=60) as response:
            return json.load(response)

    def post_text(self, path: str, body: object, *, timeout_seconds: float = 60) -> str:
        """What a path answers, as text."""
        with urllib.request.urlopen(self._request(path, body), timeout=timeout_seconds) as response:
            return str(response.read().decode())

    @contextmanager
    def streaming(self, path: str, body: object) -> Iterator[Iterator[bytes]]:
        """The lines that a path streams, until the block is left."""
        with urllib.request.urlopen(self._request(path, body), timeout=60) as response:
            yield iter(response)

    def _request(self, path: str, body: object) -> urllib.request.Request:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return urllib.request.Request(self.address + path, data=data, headers=headers)


@contextmanager
def serving(premises: Premises, *arguments: str, python: str = sys.executable) -> Iterator[Served]:
    """A station that serves on any free port."""
    with (
        TemporaryFile("w+", encoding="utf-8") as log,
        started(premises, "serve", "--port", "0", *arguments, log=log, python=python) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("Moondream Station is serving on http://127.0.0.1:"):
            process.wait(_END_SECONDS)
            log.seek(0)
            raise AssertionError(f"{line}{log.read()}")
        yield Served(process, line.split()[-1])


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so of which no line of a command tells."""
    deadline = time.monotonic() + _END_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "Waited in vain"
        time.sleep(0.05)


def exit_code_after(process: subprocess.Popen[str], number: signal.Signals) -> int:
    """Send a signal, read what is still said, and give the exit code."""
    os.kill(process.pid, number)
    process.communicate(timeout=_END_SECONDS)
    return process.returncode
