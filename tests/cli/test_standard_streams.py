"""Commands whose standard streams are closed, broken, full, or of another encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import command, run
from support.stations import Premises, open_premises

pytestmark = [
    pytest.mark.own_process,
    pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the streams"),
]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """Premises with the model `colours`, in which next to nothing happens."""
    with open_premises(tmp_path_factory.mktemp("quiet")) as premises:
        premises.add_model("colours", description="\u017dlu\u0165 \u2192 \u5c71")
        premises.home.create()
        yield premises


def _redirected(
    premises: Premises,
    line: str,
    *,
    redirection: str = "",
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """Run a command whose streams a shell has redirected."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *command(*line.split())],
        env=premises.environ,
        cwd=premises.folder,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("line", "code"), [("--version", 0), ("status", 0), ("nope", 2), ("", 2)])
def test_closed_ones(quiet: Premises, redirection: str, line: str, code: int) -> None:
    """What is closed goes nowhere; the exit code, and what the others say, are as ever."""
    done = _redirected(quiet, line, redirection=redirection)
    assert done.returncode == code, done
    assert bool(done.stdout) == (code == 0 and ">&-" not in redirection.split())
    assert bool(done.stderr) == (code != 0 and "2>&-" not in redirection)
    assert "a bug in Moondream Station" not in done.stderr


@pytest.mark.parametrize(
    ("line", "code"),
    [("--version", 1), ("--help", 1), ("status", 1), ("nope --json", 2), ("switch nope --json", 1)],
)
def test_stdout_that_nobody_reads(quiet: Premises, unread: int, line: str, code: int) -> None:
    """What can't be said makes a failure; one that is a failure already keeps its exit code."""
    done = _redirected(quiet, line, stdout=unread)
    assert (done.returncode, done.stderr) == (code, "")


def test_an_address_that_nobody_reads(quiet: Premises, unread: int) -> None:
    """A station that nobody can find ends, and says why."""
    done = _redirected(quiet, "serve --port 0", stdout=unread)
    assert done.returncode == 1
    assert "error: Can't print the station's address" in done.stderr


@pytest.mark.parametrize(("line", "code"), [("status", 0), ("nope", 2), ("switch nope", 1)])
def test_stderr_that_nobody_reads(quiet: Premises, unread: int, line: str, code: int) -> None:
    """The exit code tells it all the same."""
    assert _redirected(quiet, line, stderr=unread).returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_under_stdout(quiet: Premises) -> None:
    """A result that is lost makes a failure, which stderr explains; a switch goes on to its end."""
    for line in ("--version", "--version --json", "--help", "plan --help", "status", "status --json"):
        done = _redirected(quiet, line, redirection=">/dev/full")
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "error: The output can't be written: No space left on device.",
            "  hint: Check what the output is redirected to.",
        ]
    done = _redirected(quiet, "switch colours --json", redirection=">/dev/full")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_texts_that_the_encoding_lacks(quiet: Premises, encoding: str) -> None:
    """JSON says them all, in every encoding; for people they are escaped where they must be."""
    done = run(quiet, "models", "--json", PYTHONIOENCODING=encoding)
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["models"][0]["description"] == "\u017dlu\u0165 \u2192 \u5c71"
    assert run(quiet, "models", PYTHONIOENCODING=encoding).returncode == 0
