"""`switch` as a user runs it: in a process of its own, killed, interrupted, twice at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass, field

import pytest

from moondream_station.cli.activate import activate_there
from moondream_station.console.presenting import Presenter
from moondream_station.core.facts.errors import UnknownModel
from moondream_station.core.facts.events import ActivationFailed, BackendActivationRequested, Event
from moondream_station.core.home.locks import read_station
from moondream_station.http.client import StationClient
from support.commands import (
    command,
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
from support.posix import signals, small_pipe
from support.stations import Premises, processes_naming

_WHEEL_BYTES = 3_000_000


def test_an_interrupted_download_is_gone_on_from(premises: Premises) -> None:
    """Ctrl-C: exit code 130, the terminal fact last; the next run takes the bytes here and says so."""
    premises.index.add_torch("2.9.9", "cpu", filler_bytes=_WHEEL_BYTES)
    slow = Fault(match="/whl/cpu/torch-2.9.9*.whl", bytes_per_second=600_000)
    premises.index.faults.append(slow)
    last = None
    with started(premises, "switch", "colours", "--json") as process:
        for event in events_of(process):
            if event["event"] == "DownloadProgressed" and event["overall_received_bytes"] > _WHEEL_BYTES // 4:
                os.kill(process.pid, signal.SIGINT)
                break
        assert process.stdout is not None
        *_, last = process.stdout.read().splitlines()
        assert process.wait() == 130
    assert json.loads(last)["event"] == "ActivationCancelled"
    assert json.loads(last)["reason"] == "user"
    assert processes_naming(premises.folder) == []
    premises.index.faults.remove(slow)
    again = run(premises, "switch", "colours")
    assert again.returncode == 0
    assert "resumes at" in again.stderr
    assert again.stdout.startswith("colours is active on the cpu build")


def test_a_second_run_reuses_the_environment(lasting: Premises) -> None:
    """It resolves nothing and fetches nothing, and the result stands alone on stdout."""
    lasting.index.clear_requests()
    done = run(lasting, "switch", "colours")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert "reused" in done.stderr
    assert lasting.index.requests == ()


def test_two_at_once_wait_for_each_other(premises: Premises) -> None:
    """The second says for whom it waits and since when, and goes on when that is done."""
    premises.index.add_torch("2.9.9", "cpu", filler_bytes=_WHEEL_BYTES)
    slow = Fault(match="/whl/cpu/torch-2.9.9*.whl", bytes_per_second=1_000_000)
    premises.index.faults.append(slow)
    with started(premises, "switch", "colours", "--json") as first:
        for event in events_of(first):
            if event["event"] == "DownloadProgressed":
                break
        second = switch(premises, "colours")
        assert first.wait(timeout=60) == 0
    waiting = next(event for event in second if event["event"] == "ActivationWaiting")
    assert (waiting["holder_pid"], waiting["holder_command"]) == (first.pid, "switch colours")
    assert second[-1]["event"] == "ActivationSucceeded"


@pytest.mark.parametrize("number", signals("SIGTERM", "SIGHUP"))
def test_other_signals_cancel_too(premises: Premises, number: signal.Signals) -> None:
    """A closed terminal and a polite kill mean 130, and leave nothing."""
    premises.index.faults.append(Fault(match="/whl/cpu/torch-*.whl", hang_after_bytes=100))
    with started(premises, "switch", "colours", "--json") as process:
        for event in events_of(process):
            if event["event"] == "StageStarted" and event["stage"] == "download":
                break
        assert exit_code_after(process, number) == 130


def test_an_unknown_model_fails_and_is_told(lasting: Premises) -> None:
    """Both facts of the attempt are published, and the exit code is 1."""
    requested, failed = switch(lasting, "nope")
    assert requested["event"] == "BackendActivationRequested"
    assert (failed["event"], failed["stage"], failed["error"]["code"]) == (
        "ActivationFailed",
        "prepare",
        "unknown-model",
    )
    assert run(lasting, "switch", "nope").returncode == 1


@pytest.mark.parametrize(
    "arguments", [(), ("no-such-command",), ("switch", "colours", "--strategy", "fastest")]
)
def test_a_wrong_command_line_changes_nothing(lasting: Premises, arguments: tuple[str, ...]) -> None:
    """Exit code 2, a hint, and nothing published; with --json one line says it."""
    journals = set(lasting.home.activations.iterdir())
    done = run(lasting, *arguments)
    assert done.returncode == 2, done.stderr
    assert "hint: " in done.stderr
    error = run_json(lasting, *arguments)["error"]
    assert error["hint"]
    assert set(lasting.home.activations.iterdir()) == journals


def test_a_reader_that_has_gone_harms_nothing(lasting: Premises) -> None:
    """`switch --json | head -1` ends the pipe: the switch goes on to its end, without a traceback."""
    with started(lasting, "switch", "colours", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        process.wait(timeout=30)
    assert (said, process.returncode) == ("", 0)
    assert processes_naming(lasting.folder) == []


def _with_small_pipe(premises: Premises, *arguments: str) -> subprocess.Popen[bytes]:
    """A switch into a pipe that is full after a few facts, with nobody who reads it yet."""
    read, write = small_pipe()
    process = subprocess.Popen(
        command("switch", "colours", "--json", *arguments),
        env=premises.environ,
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    process.stdout = os.fdopen(read, "rb")
    return process


def test_a_reader_that_comes_late_holds_up_nothing(premises: Premises) -> None:
    """The switch goes on while nobody reads, and then every fact is there."""
    with _with_small_pipe(premises) as process:
        wait_until(premises.home.active.exists)
        assert process.stdout is not None
        *_, last = (json.loads(line) for line in process.stdout)
        assert process.wait(timeout=20) == 0
    assert last["event"] == "ActivationSucceeded"


def test_a_reader_that_never_comes_does_not_hold_up_the_end(premises: Premises) -> None:
    """A signal cancels the switch, and ends the command although nobody has read what it said."""
    premises.index.faults.append(Fault(match="/whl/cpu/torch-*.whl", hang_after_bytes=100))
    with _with_small_pipe(premises) as process:
        wait_until(lambda: any(premises.home.downloads.glob("*")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 130
    (journal,) = premises.home.activations.glob("*.jsonl")
    assert json.loads(journal.read_text().splitlines()[-1])["event"] == "ActivationCancelled"
    assert processes_naming(premises.folder) == []


@dataclass
class _Shown(Presenter):
    """A presenter that keeps what it is to show."""

    events: list[Event] = field(default_factory=list)

    async def show(self, event: Event) -> None:
        """Keep the fact."""
        self.events.append(event)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # as the command line runs it
async def test_a_refused_switch_is_told_from_another_one_before_it(installed: Premises) -> None:
    """Somebody else's switch that the station takes on in between is not taken for the command's own."""
    installed.add_model("shapes")
    shown = _Shown()

    async def ask(client: StationClient) -> None:
        await client.switch("shapes")
        with pytest.raises(UnknownModel):
            await client.switch("nope")

    with serving(installed):
        record = read_station(installed.home)
        assert record is not None
        assert await activate_there(installed.home, record, "nope", ask, shown) == 1
    requested, ended = shown.events
    assert isinstance(requested.fact, BackendActivationRequested)
    assert isinstance(ended.fact, ActivationFailed)
    assert (requested.fact.model, ended.fact.error.code) == ("nope", "unknown-model")
