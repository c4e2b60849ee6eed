"""What a backend starts and sends out of its session: a daemon, a server of its own, a long download."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import Served, exit_code_after, run, serving
from support.processes import left_in_the_end, marked, nothing_left
from support.stations import Premises, activate, open_premises

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux lets a guard inherit what has left its session"
)

BACKEND = """
import os, subprocess, sys, time

STAY = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"

def init_backend(marker):
    subprocess.Popen([sys.executable, "-S", "-c", STAY, marker], start_new_session=True)
    subprocess.Popen([sys.executable, "-S", "-c", STAY, marker], process_group=0)
    begun, held_until_exec = os.pipe()
    parent = os.fork()
    if parent == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.execv(sys.executable, [sys.executable, "-S", "-c", STAY, marker])
    os.waitpid(parent, 0)
    os.close(held_until_exec)
    os.read(begun, 1)

def caption(**kwargs):
    return {"caption": "here"}
"""


def switch_away(station: Served, premises: Premises) -> None:
    """The worker is replaced by another model's."""
    assert station.process.poll() is None
    assert run(premises, "switch", "colours").returncode == 0


def terminate(station: Served, _: Premises) -> None:
    """The station is asked to end."""
    assert exit_code_after(station.process, signal.SIGTERM) == 0


def kill(station: Served, _: Premises) -> None:
    """The station gets no chance."""
    station.process.kill()
    station.process.wait()


@pytest.mark.parametrize("end", [switch_away, terminate, kill])
def test_they_end_with_its_worker(tmp_path: Path, end: Callable[[Served, Premises], None]) -> None:
    """However the worker's time is over, and wherever they have got to."""
    with nothing_left() as marker, open_premises(tmp_path) as premises:
        premises.add_model("colours")
        premises.add_model("daemons", source=BACKEND, requirements="", args={"marker": marker})
        activate(premises, "daemons")
        with serving(premises) as station:
            assert station.post("/v1/caption", {})["caption"] == "here"
            assert len(marked(marker)) == 3
            end(station, premises)
            assert left_in_the_end(marker) == []
