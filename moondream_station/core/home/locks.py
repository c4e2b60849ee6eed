"""Who may change a home, and who serves it. A lock that can't be taken is an error; it never fails open.

The lock itself is the operating system's: it is free the moment its holder dies, however it dies. Beside it
lies a record of who holds it, for people; a record is believed only while that very process lives.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moondream_station.core.facts.codec import time_to_text
from moondream_station.core.facts.errors import HomeLocked, NoSpace, StationRunning
from moondream_station.core.home.layout import ACTIVATION_ID, Home, home_unusable, in_the_way
from moondream_station.core.home.log import Log
from moondream_station.core.home.storage import not_a_file, read_json, write_record, writing_to

if TYPE_CHECKING:
    from filelock import FileLock

_log = Log()
_POLL_SECONDS = 0.1
_UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.ENOENT}
# A process's creation time is computed from the boot time, which moves when the clock is set: two readings of
# one process can differ. Another process with the same id is never created that soon after the first.
_SAME_PROCESS_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds the activation lock.

    Args:
        pid: The holder's process id.
        process_created_at: When that process began, seconds since the epoch; tells it from a later one.
        command: What it does, for people ("switch selftest").
        activation: Its activation's id.
        since: When it took the lock, UTC, as in events.
    """

    pid: int
    process_created_at: float
    command: str
    activation: str
    since: str

    def __post_init__(self) -> None:
        if not ACTIVATION_ID.fullmatch(self.activation):
            raise ValueError(f"{self.activation!r} is no activation's id")


@dataclass(frozen=True, slots=True, kw_only=True)
class StationRecord:
    """What `station.json` says of the serving station; readable by its user alone.

    Args:
        pid: The station's process id.
        process_created_at: When that process began, seconds since the epoch.
        address: Its base URL ("http://127.0.0.1:2020").
        token: What other addresses than loopback must show.
        instance: This run's own name.
        since: When it began to serve, UTC, as in events.
        version: The station's version.
    """

    pid: int
    process_created_at: float
    address: str
    token: str
    instance: str
    since: str
    version: str


_Record = TypeVar("_Record", Holder, StationRecord)


def process_created_at(pid: int) -> float | None:
    """When a process began, seconds since the epoch; None where there is none."""
    import psutil  # noqa: PLC0415  what a home that nobody uses does without

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def is_alive(pid: int, created_at: float) -> bool:
    """Whether that very process lives, not a later one of the same id."""
    actual = process_created_at(pid)
    return actual is not None and abs(actual - created_at) < _SAME_PROCESS_SECONDS


@asynccontextmanager
async def activation_lock(
    home: Home, *, activation: str, command: str, on_wait: Callable[[Holder | None], None]
) -> AsyncIterator[None]:
    """Hold the right to change the home; wait for it, visibly and cancellably.

    `on_wait` is called once for each holder that is waited for, with None where that is not known.
    """
    import anyio  # noqa: PLC0415  what only reads records does without
    from filelock import FileLock  # noqa: PLC0415  likewise

    lock = FileLock(home.activation_lock, fallback_to_soft=False, thread_local=False)
    reported: Holder | str | None = "nobody"
    while not _acquired(lock, home):
        holder = activation_holder(home)
        if holder != reported:
            reported = holder
            on_wait(holder)
        await anyio.sleep(_POLL_SECONDS)
    try:
        record = Holder(**_this_process(), command=command, activation=activation)
        with suppress(NoSpace):  # it is for people who wait; what frees space must not fail for it
            write_record(home, home.activation_holder, json.dumps(asdict(record)))
        try:
            yield
        finally:
            home.activation_holder.unlink(missing_ok=True)
    finally:
        lock.release()


def activation_holder(home: Home) -> Holder | None:
    """Who holds the activation lock, None where nobody that lives does."""
    return _living(home.activation_holder, Holder)


@contextmanager
def serve_lock(home: Home) -> Iterator[None]:
    """Hold the right to serve this home, and take down `station.json` at the end."""
    from filelock import FileLock  # noqa: PLC0415  likewise

    lock = FileLock(home.serve_lock, fallback_to_soft=False, thread_local=False)
    if not _acquired(lock, home):
        record = read_station(home)
        where = f" at {record.address} (pid {record.pid}, since {record.since})" if record else ""
        raise StationRunning(
            f"A station is already serving{where}.",
            hint="Use that station, or end it first; MOONDREAM_STATION_HOME sets another home.",
        )
    try:
        with writing_to(home.root):
            home.station.unlink(missing_ok=True)  # a killed station's record
        try:
            yield
        finally:
            home.station.unlink(missing_ok=True)
    finally:
        lock.release()


def announce_station(home: Home, *, address: str, instance: str, version: str) -> StationRecord:
    """Write `station.json`; the serve lock is held."""
    token = secrets.token_urlsafe(32)
    record = StationRecord(
        **_this_process(), address=address, token=token, instance=instance, version=version
    )
    try:
        write_record(home, home.station, json.dumps(asdict(record)), mode=0o600)
    except NoSpace as error:  # it serves all the same; other commands don't find it
        _log.warning("station_not_announced", reason=error.message)
    return record


def read_station(home: Home) -> StationRecord | None:
    """The station that serves this home, None where none that lives does."""
    return _living(home.station, StationRecord)


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    began = process_created_at(pid) or 0.0
    return {"pid": pid, "process_created_at": began, "since": time_to_text(datetime.now(UTC))}


def _living(path: Path, kind: type[_Record]) -> _Record | None:
    """The record in a file, where it can be read and its process lives."""
    with suppress(OSError, ValueError, TypeError, OverflowError):
        record = kind(**read_json(path))
        return record if is_alive(record.pid, record.process_created_at) else None
    return None


def _acquired(lock: FileLock, home: Home) -> bool:
    from filelock import Timeout  # noqa: PLC0415  likewise

    if wrong := not_a_file(lock.lock_file):
        raise in_the_way(wrong) or wrong
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            message = f"The lock {lock.lock_file} can't be written: {error.strerror or error}."
            raise home_unusable(message, Path(lock.lock_file)) from error
        raise HomeLocked(
            f"The file system of {home.root} can't lock files ({error}); two stations would collide.",
            hint="Set MOONDREAM_STATION_HOME to a folder on a local disk.",
        ) from error
    return True
