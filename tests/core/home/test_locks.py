"""Who may change a home, and who serves it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from moondream_station.core.facts.errors import HomeUnusable, StationError, StationRunning
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import (
    Holder,
    activation_holder,
    activation_lock,
    announce_station,
    process_created_at,
    read_station,
    serve_lock,
)

_HOLDING = """
import sys, anyio
from pathlib import Path
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import activation_lock
async def hold():
    async with activation_lock(Home(Path(sys.argv[1])), activation="A", command="switch a", on_wait=print):
        print("held", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
anyio.run(hold)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that exists."""
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
def other(home: Home) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the activation lock until it reads a line."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDING, str(home.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.anyio
async def test_waits_visibly_for_another_process(home: Home, other: subprocess.Popen[str]) -> None:
    """The second is told who holds the lock and since when, and goes on when it is free."""
    seen: list[Holder | None] = []

    def waiting(holder: Holder | None) -> None:
        seen.append(holder)
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()

    async with activation_lock(home, activation="B", command="switch b", on_wait=waiting):
        mine = activation_holder(home)
        assert mine is not None
        assert (mine.pid, mine.activation) == (os.getpid(), "B")
    assert [holder.command for holder in seen if holder] == ["switch a"]
    assert seen[0] is not None
    assert seen[0].pid == other.pid
    assert activation_holder(home) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("activation", "../elsewhere"), ("activation", 5), ("pid", 10**400), ("process_created_at", 10**400)],
)
def test_a_holder_that_no_process_wrote_is_not_believed(home: Home, field: str, value: object) -> None:
    """Its activation's id stands in a path, and its numbers are beyond what a process has."""
    pid = os.getpid()
    record = {"pid": pid, "process_created_at": process_created_at(pid), "command": "c", "activation": "A"}
    home.activation_holder.write_text(json.dumps({**record, "since": "s"}))
    assert activation_holder(home) is not None
    home.activation_holder.write_text(json.dumps({**record, "since": "s", field: value}))
    assert activation_holder(home) is None


@pytest.mark.anyio
async def test_a_killed_holder_frees_the_lock(home: Home, other: subprocess.Popen[str]) -> None:
    """SIGKILL leaves a record, which nobody believes, and a free lock."""
    other.kill()
    other.wait()
    assert home.activation_holder.exists()
    assert activation_holder(home) is None
    async with activation_lock(home, activation="B", command="switch b", on_wait=lambda _: None):
        pass


@pytest.mark.anyio
async def test_waiting_can_be_cancelled(home: Home, other: subprocess.Popen[str]) -> None:
    """A cancelled waiter leaves the holder's lock and record alone."""
    with anyio.CancelScope() as scope:
        async with activation_lock(home, activation="B", command="b", on_wait=lambda _: scope.cancel()):
            pytest.fail("the lock was held")
    holder = activation_holder(home)
    assert holder is not None
    assert holder.pid == other.pid


def test_a_second_station_is_told_where_the_first_serves(home: Home) -> None:
    """The address, the process and the time stand in the error; the record is private and goes away."""
    with serve_lock(home):
        record = announce_station(home, address="http://127.0.0.1:2020", instance="i", version="1")
        assert stat.S_IMODE(home.station.stat().st_mode) == 0o600
        assert read_station(home) == record
        with pytest.raises(StationRunning) as caught, serve_lock(home):
            pytest.fail("served twice")
        assert f"at http://127.0.0.1:2020 (pid {os.getpid()}, since {record.since})" in caught.value.message
    assert read_station(home) is None
    assert not home.station.exists()


def test_a_dead_stations_record_is_not_believed(home: Home) -> None:
    """A record whose process is gone, or is another one of the same id, names no station."""
    with serve_lock(home):
        announce_station(home, address="http://127.0.0.1:1", instance="i", version="1")
        data = json.loads(home.station.read_text())
        home.station.write_text(json.dumps({**data, "process_created_at": 1.0}))
        assert read_station(home) is None
        home.station.write_text("rubbish")
        assert read_station(home) is None


def test_a_folder_where_the_record_should_be_is_named(home: Home) -> None:
    """It may hold what somebody needs: it is not removed, and the home is free again."""
    home.station.mkdir()
    for _ in range(2):
        with pytest.raises(HomeUnusable, match=r"station\.json"), serve_lock(home):
            pytest.fail("served beside a folder")
    home.station.rmdir()
    with serve_lock(home):
        pass


def test_a_lock_that_can_not_be_written_is_an_error(home: Home) -> None:
    """A folder in the lock's place never lets anybody through."""
    home.serve_lock.mkdir()
    with pytest.raises(StationError), serve_lock(home):
        pytest.fail("the lock failed open")
