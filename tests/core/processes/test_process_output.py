"""What children write, kept within bounds."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.processes.child_process import Lines, keep_beginning
from moondream_station.core.processes.worker_process import OutputLog


def split(chunks: list[bytes], limit_bytes: int = 8192) -> list[str]:
    """All lines of a stream that comes in these chunks."""
    texts: list[str] = []
    lines = Lines(texts.append, limit_bytes)
    for chunk in chunks:
        lines.feed(chunk)
    lines.finish()
    return texts


@given(st.lists(st.binary() | st.sampled_from([b"\n", b"\r\n", b"a\nb"])))
def test_lines_do_not_depend_on_how_the_stream_was_cut(chunks: list[bytes]) -> None:
    """A line may come in any number of pieces, and be cut in the middle of a character."""
    assert split(chunks) == split([b"".join(chunks)])


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"))))
def test_lines_of_text_come_back(texts: list[str]) -> None:
    """What was written as lines is read as the same lines, whichever end of line the system has."""
    assert split(["".join(text + "\n" for text in texts).encode()]) == texts
    assert split(["".join(text + "\r\n" for text in texts).encode()]) == texts


@given(st.lists(st.binary()), st.integers(1, 20))
def test_no_line_is_longer_than_the_limit(chunks: list[bytes], limit: int) -> None:
    """The rest of a long line is dropped; the next line is whole again."""
    assert all(len(line) <= limit for line in split(chunks, limit))
    assert split([*chunks, b"\nnext"], 4)[-1] == "next"


@given(st.lists(st.binary()), st.integers(0, 50))
def test_the_beginning_is_kept(chunks: list[bytes], limit: int) -> None:
    """What is within the limit is kept as it came; more is said to be missing."""
    kept = bytearray()
    for chunk in chunks:
        keep_beginning(kept, limit, chunk)
    whole = b"".join(chunks)
    assert kept[:limit] == whole[:limit]
    assert (len(kept) > limit) == (len(whole) > limit)
    assert len(kept) <= limit + 1


def test_a_log_appends_and_remembers(tmp_path: Path) -> None:
    """A second start continues the file; its own last lines are its own alone."""
    path = tmp_path / "logs" / "worker.log"
    for text in ("first", "second ü"):
        log = OutputLog(path)
        log.write(text)
        log.close()
        assert log.last_lines() == (text,)
    assert path.read_text(encoding="utf-8") == "first\nsecond ü\n"


def test_a_log_stays_within_its_bound(tmp_path: Path) -> None:
    """Two files of the bound at most, whatever is written, and the newest lines are in them."""
    path = tmp_path / "worker.log"
    log = OutputLog(path, limit_bytes=100)
    for number in range(1000):
        log.write(f"line {number}")
    log.close()
    kept = (tmp_path / "worker.log.1").read_text() + path.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["worker.log", "worker.log.1"]
    assert all(file.stat().st_size <= 100 for file in tmp_path.iterdir())
    assert kept.endswith("line 998\nline 999\n")
    assert len(log.last_lines()) == 200
    assert log.last_lines()[-1] == "line 999"


def test_a_log_that_cannot_be_written_says_so_and_goes_on(tmp_path: Path) -> None:
    """The child must not suffer from a full disk or a folder in the way."""
    log = OutputLog(tmp_path)
    log.write("still heard")
    log.close()
    reason, line = log.last_lines()
    assert reason == f"[{tmp_path} can't be written: it is a folder, not a file]"
    assert line == "still heard"


def test_a_log_that_cannot_be_rotated_says_so_and_goes_on(tmp_path: Path) -> None:
    """The same holds in the middle of the work."""
    path = tmp_path / "worker.log"
    (tmp_path / "worker.log.1").mkdir()
    log = OutputLog(path, limit_bytes=10)
    log.write("one two")
    log.write("three four")
    log.write("five")
    log.close()
    assert log.last_lines()[0] == "one two"
    assert "can't be written" in log.last_lines()[2]
    assert log.last_lines()[-1] == "five"
