"""Facts on disk."""

from __future__ import annotations

import errno
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.bus.journal import (
    ACTIVATIONS_KEPT,
    STATION_LOG_BYTES,
    Journal,
    activations,
    latest_activation,
    read_activation,
    read_history,
)
from moondream_station.core.facts.events import (
    ActivationCancelled,
    CancelReason,
    DownloadProgressed,
    Event,
    Fact,
    Stage,
    StageProgressed,
    StageStarted,
    StopReason,
    WorkerStarted,
    WorkerStopped,
)
from moondream_station.core.home.layout import Home
from support.facts import events

ID = "20261123T100000Z-ab12cd"
STARTED = StageStarted(stage=Stage.LOCK)
CANCELLED = ActivationCancelled(model="m", stage=Stage.LOCK, reason=CancelReason.USER)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that does not exist yet."""
    return Home(root=tmp_path / "home")


def event(seq: int, fact: Fact, *, activation: str | None = ID) -> Event:
    """A fact, `seq` tenths of a second after some moment."""
    at = datetime(2026, 11, 23, 10, tzinfo=UTC) + timedelta(seconds=seq / 10)
    return Event(seq=seq, at=at, activation=activation, fact=fact)


def progress(seq: int, file: str = "a.whl") -> Event:
    """As many bytes as the seq says."""
    fact = DownloadProgressed(
        file=file,
        received_bytes=seq,
        total_bytes=None,
        transferred_bytes=seq,
        resumed_from=0,
        overall_received_bytes=seq,
        overall_total_bytes=None,
        overall_transferred_bytes=seq,
        bytes_per_second=None,
        eta_seconds=None,
    )
    return event(seq, fact)


def journal_file(home: Home) -> Path:
    """Where the activation's journal lies, as the contract says."""
    return home.root / "activations" / f"{ID}.jsonl"


def test_a_fact_is_one_line(home: Home) -> None:
    """It can be read with any tool, and has the shape of all events."""
    Journal(home).record(event(1, STARTED))
    line = journal_file(home).read_text(encoding="utf-8")
    assert line.endswith("\n")
    assert json.loads(line) == {
        "event": "StageStarted",
        "seq": 1,
        "at": "2026-11-23T10:00:00.100000Z",
        "activation": ID,
        "stage": "lock",
    }


@given(some=st.lists(events(), max_size=5, unique_by=lambda event: event.seq))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, some: list[Event]) -> None:
    """Every fact that is no progress comes back, by its seq, whatever is in it."""
    home = Home(root=tmp_path_factory.mktemp("home"))
    journal = Journal(home)
    for one in some:
        journal.record(one)
    kept = [one for one in read_history(home) if one.merge_key is None]
    assert kept == sorted((one for one in some if one.merge_key is None), key=lambda one: one.seq)


def test_the_stations_own_facts_are_apart(home: Home) -> None:
    """They are part of the history and of no activation."""
    journal = Journal(home)
    own = event(2, WorkerStarted(model="m", pid=1), activation=None)
    journal.record(event(1, STARTED))
    journal.record(own)
    assert read_activation(home, ID) == [event(1, STARTED)]
    assert read_history(home) == [event(1, STARTED), own]


def test_progress_is_thinned_and_its_last_one_is_kept(home: Home) -> None:
    """At most one a second a key, and before the next other fact the last of each."""
    journal = Journal(home)
    for seq in range(1, 16):
        journal.record(progress(seq))
        journal.record(progress(100 + seq, "b.whl"))
    journal.record(event(200, STARTED))
    assert [one.seq for one in read_activation(home, ID)] == [1, 11, 15, 101, 111, 115, 200]


def test_progress_that_is_held_back_is_no_other_activations(home: Home) -> None:
    """A fact of the station's own does not write it."""
    journal = Journal(home)
    journal.record(progress(1))
    journal.record(progress(2))
    journal.record(event(3, WorkerStopped(model="m", pid=1, reason=StopReason.REPLACED), activation=None))
    assert [one.seq for one in read_activation(home, ID)] == [1]


def test_a_clock_that_was_set_back_does_not_silence_progress(home: Home) -> None:
    """The next one is written at once."""
    journal = Journal(home)
    journal.record(progress(1000))
    journal.record(progress(5))
    assert [one.seq for one in read_activation(home, ID)] == [5, 1000]


def test_progress_of_the_station_itself_is_written(home: Home) -> None:
    """A worker that loads outside an activation shows in the history too."""
    loading = StageProgressed(stage=Stage.START, done=1, total=None, unit="bytes")
    Journal(home).record(event(1, loading, activation=None))
    assert read_history(home) == [event(1, loading, activation=None)]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_costs_itself_alone(home: Home, cut: int) -> None:
    """Neither the line before it nor the line after it is lost."""
    journal = Journal(home)
    for seq in (1, 2):
        journal.record(event(seq, STARTED))
    content = journal_file(home).read_bytes()
    journal_file(home).write_bytes(content[:-cut])
    Journal(home).record(event(3, STARTED))
    assert [one.seq for one in read_activation(home, ID)] == ([1, 2, 3] if cut == 1 else [1, 3])


@given(st.binary(max_size=60))
def test_reading_rubbish_gives_no_facts(tmp_path_factory: pytest.TempPathFactory, rubbish: bytes) -> None:
    """Whatever a disk gives back, reading does not fail."""
    home = Home(root=tmp_path_factory.mktemp("home"))
    home.create()
    journal_file(home).write_bytes(b"[" * 5000 + b"\n" + rubbish)
    assert read_activation(home, ID) == []


def test_notes_are_written_and_skipped(home: Home) -> None:
    """A tool's whole output stays beside the facts, and is none."""
    journal = Journal(home)
    journal.record(event(1, STARTED))
    journal.note(ID, "first\nsecond \udcff", label="uv")
    assert read_activation(home, ID) == [event(1, STARTED)]
    note = json.loads(journal_file(home).read_text(encoding="utf-8").splitlines()[1])
    assert note == {"note": "uv", "text": "first\nsecond \udcff"}


def test_the_latest_journals_are_kept(home: Home) -> None:
    """A new activation removes the oldest beyond the bound, and nothing else."""
    journal = Journal(home)
    names = [f"20261123T{number:06d}Z-ab12cd" for number in range(ACTIVATIONS_KEPT + 3)]
    home.create()
    (home.activations / "20261123T000000Z-ab12cd.cancel").touch()
    for seq, name in enumerate(names):
        journal.record(event(seq, STARTED, activation=name))
    assert activations(home) == names[-ACTIVATIONS_KEPT:]
    assert latest_activation(home) == names[-1]
    assert len(list(home.activations.iterdir())) == ACTIVATIONS_KEPT + 1
    assert [one.activation for one in read_history(home, last=2)] == names[-2:]


def test_the_stations_own_log_is_bounded(home: Home) -> None:
    """It is rotated once, and what was lost is known."""
    journal = Journal(home)
    assert journal.past(activations=20)[1] == 0
    seq = 0
    while sum(path.stat().st_size for path in home.logs.glob("*")) < STATION_LOG_BYTES * 3 // 2:
        seq += 1
        fact = WorkerStarted(model="m" * 100_000, pid=1)
        journal.record(event(seq, fact, activation=None))
    for seq_after in range(seq + 1, seq + 16):
        journal.record(event(seq_after, WorkerStarted(model="m" * 100_000, pid=1), activation=None))
    assert all(path.stat().st_size <= STATION_LOG_BYTES for path in home.logs.glob("*"))
    past, complete_after = journal.past(activations=20)
    assert past[0].seq > 1
    assert complete_after == past[0].seq - 1
    assert [one.seq for one in past] == list(range(past[0].seq, seq + 16))


def test_a_home_without_journals_has_no_history(home: Home) -> None:
    """That is no error."""
    assert read_history(home) == []
    assert read_activation(home, ID) == []
    assert latest_activation(home) is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "", ".hidden", "a/b", "a\\b", "NUL:"])
def test_an_id_never_leaves_the_folder(home: Home, name: str) -> None:
    """Reading finds nothing there, writing is a programming error."""
    assert read_activation(home, name) == []
    with pytest.raises(ValueError, match="id"):
        Journal(home).record(event(1, STARTED, activation=name))


def test_a_journal_that_cannot_be_written_is_told_of_once(home: Home) -> None:
    """Publishing goes on; when the disk is there again, so is the journal."""
    home.root.parent.mkdir(exist_ok=True)
    home.root.write_text("a file where a folder should be", encoding="utf-8")
    journal = Journal(home)
    with structlog.testing.capture_logs() as logs:
        journal.record(event(1, STARTED))
        journal.record(event(2, CANCELLED))
        journal.note(ID, "text")
    assert [log["event"] for log in logs] == ["journal.unwritable"]
    home.root.unlink()
    journal.record(event(3, STARTED))
    assert read_activation(home, ID) == [event(3, STARTED)]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit and its error are POSIX's")
def test_a_full_disk_breaks_nothing(home: Home) -> None:
    """A write that fails for want of space is told of, not raised."""
    resource = pytest.importorskip("resource")
    home.create()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with structlog.testing.capture_logs() as logs:
            Journal(home).record(event(1, STARTED))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [log["event"] for log in logs] == ["journal.unwritable"]
    assert os.strerror(errno.EFBIG) in logs[0]["error"]


def test_a_journal_that_cannot_be_read_gives_no_past(home: Home) -> None:
    """The station starts all the same, and says so."""
    home.create()
    journal_file(home).mkdir()
    with structlog.testing.capture_logs() as logs:
        past = Journal(home).past(activations=20)
    assert past == ([], None)
    assert [log["event"] for log in logs] == ["journal.unreadable"]
