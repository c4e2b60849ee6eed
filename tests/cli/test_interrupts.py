"""Signals that end a command: exit code 130, nothing on stdout, and nothing left of what it started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from support.commands import command, events_of, exit_code_after, started, wait_until
from support.fake_driver import install_program
from support.posix import make_fifo, signals
from support.stations import Premises

_SIGNALS = signals("SIGINT", "SIGTERM", "SIGHUP")

_IN_AN_IMPORT = """
import signal, sys
from moondream_station.__main__ import main

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            try:
                signal.raise_signal({number})
            except BaseException:
                pass  # what a destructor raises is swallowed, too

sys.meta_path.insert(0, Interrupting())
sys.argv = ["moondream-station", "logs"]
sys.exit(main())
"""

_UNDER_A_SHIELD = """
import anyio
from moondream_station.console.interrupts import run_loop
from moondream_station.console.interrupts import heed_signals

async def work():
    with anyio.CancelScope(shield=True):
        print("begun", flush=True)
        await anyio.sleep_forever()

heed_signals()
run_loop(work)
"""

_BESIDE_A_THREAD = """
import signal, sys, threading
import anyio
from moondream_station.console.interrupts import run_loop
from moondream_station.console.interrupts import heed_signals

async def work():
    print("begun", flush=True)
    await anyio.sleep_forever()

heed_signals()
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # in this thread: the other one gets it
try:
    run_loop(work)
except KeyboardInterrupt:
    sys.exit(130)
"""


@contextmanager
def _begun(program: str, environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has said that it has begun, and waits."""
    with subprocess.Popen([sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING)
            yield process
        finally:
            process.kill()


def _ignore_interrupts() -> None:
    """What a shell does to a program that it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _ended_by(
    premises: Premises,
    arguments: list[str],
    number: signal.Signals,
    *,
    prepare: Callable[[], None] | None = None,
) -> tuple[int, str, int]:
    """Send a signal while a probe's program hangs; gives exit code, stdout and that program's pid."""
    pipe = premises.folder / "started"
    make_fifo(pipe)
    install_program(premises.folder / "bin", "nvcc", f"echo $$ > {pipe}; exec /bin/sleep 600")
    environ = {**premises.environ, "PATH": f"{premises.folder / 'bin'}:/usr/bin:/bin"}
    with subprocess.Popen(
        command(*arguments),
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,  # noqa: PLW1509  the test has no threads
    ) as process:
        pid = int(Path(pipe).read_text())
        process.send_signal(number)
        stdout, _ = process.communicate(timeout=20)
        return process.returncode, stdout, pid


@pytest.mark.parametrize("number", _SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("line", ["plan --offline", "doctor --offline --json"])
def test_a_command_is_ended(premises: Premises, line: str, number: signal.Signals) -> None:
    """Whichever of them it is, and whatever the command does."""
    premises.home.create()
    code, stdout, pid = _ended_by(premises, line.split(), number)
    assert (code, stdout) == (130, "")
    assert not psutil.pid_exists(pid)


def test_a_command_in_the_background_is_ended_too(premises: Premises) -> None:
    """There SIGINT is ignored, and SIGTERM is not."""
    premises.home.create()
    code, stdout, pid = _ended_by(premises, ["plan", "--offline"], signal.SIGTERM, prepare=_ignore_interrupts)
    assert (code, stdout) == (130, "")
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("number", _SIGNALS, ids=lambda number: number.name)
def test_none_is_lost_while_modules_are_imported(premises: Premises, number: signal.Signals) -> None:
    """Where an exception would be swallowed."""
    premises.home.create()
    done = subprocess.run(
        [sys.executable, "-c", _IN_AN_IMPORT.format(number=int(number))],
        env=premises.environ,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("number", _SIGNALS, ids=lambda number: number.name)
def test_serve_is_ended_in_order_at_any_moment(lasting: Premises, number: signal.Signals) -> None:
    """A signal is how it ends: exit code 0 also while it imports, reads its settings, or begins to listen."""
    arguments = 'sys.argv = ["moondream-station", "serve", "--port", "0"]'
    early = _IN_AN_IMPORT.format(number=int(number)).replace(
        'sys.argv = ["moondream-station", "logs"]', arguments
    )
    for module in ("typer", "anyio", "uvicorn", "moondream_station.core.machine.machine"):
        done = subprocess.run(
            [sys.executable, "-c", early.replace('"typer"', f'"{module}"')],
            env=lasting.environ,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, (module, done)


def test_the_second_one_waits_for_nothing(premises: Premises) -> None:
    """Whatever it is that does not let itself be cancelled."""
    premises.home.create()
    with _begun(_UNDER_A_SHIELD, premises.environ) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 130


def test_one_that_another_thread_gets_wakes_the_loop(premises: Premises) -> None:
    """So does one that comes in the instant before the loop waits."""
    premises.home.create()
    with _begun(_BESIDE_A_THREAD, premises.environ) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130


@pytest.mark.parametrize("number", _SIGNALS, ids=lambda number: number.name)
def test_what_comes_after_the_end_changes_nothing(lasting: Premises, number: signal.Signals) -> None:
    """A signal that comes when success was told, or while the interpreter ends, leaves exit code 0."""
    for pause in (0.0, 0.05, 0.1):
        with started(lasting, "switch", "colours", "--json") as process:
            for event in events_of(process):
                if event["event"] == "ActivationSucceeded":
                    break
            time.sleep(pause)
            assert exit_code_after(process, number) == 0, pause
