"""Homes in which something other than a file has a file's name, homes that lead nowhere, clocks set back."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from moondream_station.core.bus.journal import activations
from moondream_station.core.facts.errors import HomeUnusable, NoSpace, StationError
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import open_file, read_file, storage_failure, sync_file, work_folder
from moondream_station.core.resolve.uv_program import install_failure
from support.commands import command, run, run_json, switch
from support.posix import make_fifo, open_unix_socket
from support.stations import Premises, activate, open_premises

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="FIFOs, devices and links as POSIX has them")

_SECONDS = 60


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    """A home with the active model `colours`."""
    with open_premises(tmp_path_factory.mktemp("premises")) as premises:
        premises.add_model("colours")
        activate(premises, "colours")
        yield premises


@pytest.fixture
def premises(whole: Premises) -> Iterator[Premises]:
    """The same, whole again in the end."""
    kept = whole.folder / "kept"
    shutil.copytree(whole.home.root, kept, symlinks=True)
    yield whole
    shutil.rmtree(whole.home.root)
    kept.rename(whole.home.root)


def fifo(path: Path) -> None:
    """Put a FIFO there, that nobody writes to."""
    make_fifo(path)


def device(path: Path) -> None:
    """Put a device there that never ends."""
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [fifo, device])
@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("active.json", "status", "home-unusable"),
        ("config.json", "status", "settings-invalid"),
        ("capabilities.json", "switch colours", None),
        ("activation.lock", "prune", "home-unusable"),
        ("activation.json", "prune", None),
        ("station.json", "status", None),
        ("serve.lock", "serve --port 0", "home-unusable"),
        ("logs/station.jsonl", "switch colours", None),
        ("logs/colours.log", "logs", "home-unusable"),
    ],
)
def test_nothing_waits_for_what_is_no_file(
    premises: Premises, put: Callable[[Path], None], name: str, arguments: str, code: str | None
) -> None:
    """A command does without it, or ends at once with an error that names it."""
    path = premises.home.root / name
    path.unlink(missing_ok=True)
    put(path)
    done = subprocess.run(
        command(*arguments.split(), "--json"),
        env=premises.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    assert done.returncode == (0 if code is None else 1), done.stderr
    if code is not None:
        error = json.loads(done.stdout.splitlines()[-1])["error"]
        assert error["code"] == code
        assert f"{path}" in error["message"]
        assert "it is a FIFO" in error["message"] or "it is a device" in error["message"]


def test_a_socket_and_a_folder_are_no_files_either(tmp_path: Path) -> None:
    """The error is the same whether or not the system lets them be opened."""
    with closing(open_unix_socket()) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, kind in ((tmp_path / "socket", "a socket"), (tmp_path, "a folder")):
            for use in (read_file, sync_file, lambda path: open_file(path, "ab")):
                with pytest.raises(OSError, match=f"it is {kind}, not a file") as raised:
                    use(path)
                assert raised.value.filename == str(path)


@pytest.mark.parametrize("arguments", [("status",), ("switch", "colours")])
def test_a_home_that_leads_nowhere_is_told(whole: Premises, arguments: tuple[str, ...]) -> None:
    """A disk that is not mounted, say: the link is named, and where it leads."""
    link, loop = whole.folder / "link", whole.folder / "loop"
    link.symlink_to(whole.folder / "unmounted")
    loop.symlink_to(loop)
    try:
        missing = f"to {whole.folder / 'unmounted'}, which does not exist"
        for home, why in ((link / "home", missing), (loop, "that leads back to itself")):
            done = run(whole, *arguments, "--json", MOONDREAM_STATION_HOME=str(home))
            error = json.loads(done.stdout.splitlines()[-1])["error"]
            assert error["code"] == "home-unusable"
            assert f"is a link {why}." in error["message"]
    finally:
        link.unlink()
        loop.unlink()


@pytest.mark.parametrize(
    "arguments", [("cancel",), ("logs",), ("remove", "colours"), ("prune",), ("models",)]
)
def test_a_home_that_is_no_folder_is_told(whole: Premises, arguments: tuple[str, ...]) -> None:
    """A pipe, as an example: the same sentence from every command, not of a file that can't be in it."""
    home = whole.folder / "pipe"
    make_fifo(home)
    try:
        error = json.loads(run(whole, *arguments, "--json", MOONDREAM_STATION_HOME=str(home)).stdout)["error"]
    finally:
        home.unlink()
    assert (error["code"], error["message"]) == ("home-unusable", f"The home {home} is not a folder.")


def test_the_doctor_examines_the_rest_where_the_home_leads_nowhere(whole: Premises) -> None:
    """The home is a finding, not the end of the examination."""
    (home := whole.folder / "lost").symlink_to(whole.folder / "unmounted")
    try:
        done = run(whole, "doctor", "--offline", "--json", MOONDREAM_STATION_HOME=str(home))
    finally:
        home.unlink()
    findings = {finding["id"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert findings["disk.home"]["status"] == "error"
    assert "which does not exist" in findings["disk.home"]["summary"]
    assert findings["machine.platform"]["status"] == "ok"


def test_a_folder_in_whose_place_a_file_lies_is_named(tmp_path: Path) -> None:
    """Not just "File exists"."""
    home = Home(tmp_path)
    home.downloads.write_text("")
    with pytest.raises(HomeUnusable, match=r"downloads is not a folder"):
        home.create()


def test_what_is_used_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Space, inodes and a quota are not freed in the same way."""
    for number, inodes, words in (
        (errno.ENOSPC, 5000, "is full"),
        (errno.ENOSPC, 0, "has no inodes left"),
        (errno.EDQUOT, 5000, "Your quota"),
    ):
        disk = SimpleNamespace(f_files=9000, f_favail=inodes, f_bavail=1 << 20, f_frsize=4096)
        monkeypatch.setattr(os, "statvfs", lambda _, disk=disk: disk)
        error = storage_failure(OSError(number, os.strerror(number)), tmp_path)
        said = f"error: Failed to install: x.whl\n  Caused by: {os.strerror(number)} (os error {number})"
        for told in (error, install_failure(said, log="", folder=tmp_path)):
            assert isinstance(told, NoSpace)
            assert words in told.message


@pytest.mark.parametrize(
    ("error", "is_its_own"),
    [
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EACCES, "denied", "HOME/cache/x"), True),
        (OSError(errno.EACCES, "denied", "/elsewhere"), False),
        (OSError(errno.EMFILE, "too many open files"), False),
        (ConnectionResetError(errno.ECONNRESET, "reset"), False),
    ],
)
@pytest.mark.anyio
async def test_what_fails_elsewhere_is_not_blamed_on_the_home(
    tmp_path: Path,
    error: OSError,
    is_its_own: bool,  # noqa: FBT001  a parameter
) -> None:
    """Only what names something in a folder, or says that its disk fails, is that folder's failure."""
    error = type(error)(error.errno, error.strerror, error.filename)  # the parameter is every backend's
    if error.filename == "HOME/cache/x":
        error.filename = str(tmp_path / "cache" / "x")
    home = Home(tmp_path)
    home.create()
    with pytest.raises(StationError if is_its_own else OSError) as raised:
        async with work_folder(home):
            raise error
    assert is_its_own or raised.value is error


def test_logs_shows_what_came_last_after_a_clock_that_was_ahead(premises: Premises) -> None:
    """Also `prune` and the bounds on journals go by what began last, not by what the clock said then."""
    (last,) = activations(premises.home)
    journal = premises.home.activations / f"{last}.jsonl"
    ahead = "21261123T100000123456Z-ab12cd"
    text = journal.read_text().replace(last, ahead).replace('"at":"20', '"at":"21')
    lines = [json.loads(line) for line in text.splitlines()]
    for number, line in enumerate(lines):
        if "seq" in line:
            line["seq"] = 4951706400123456 + number
    journal.unlink()
    (premises.home.activations / f"{ahead}.jsonl").write_text(
        "".join(f"{json.dumps(line)}\n" for line in lines)
    )
    assert switch(premises, "colours")[-1]["event"] == "ActivationSucceeded"
    shown = run_json(premises, "logs")
    assert shown["activation"] != ahead
    assert shown["activation"] > ahead
    assert shown["events"][0]["seq"] > lines[-1].get("seq", 0)
