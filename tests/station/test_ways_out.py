"""What an activation, or a worker, leaves behind: it holds nothing up, and changes nothing that was told."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest

from moondream_station.core.activation import housekeeping
from moondream_station.core.activation.activation import cancel_request
from moondream_station.core.bus.bus import new_activation_id
from moondream_station.core.bus.journal import read_activation
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationSucceeded,
    EnvironmentBuilt,
    Stage,
    StageProgressed,
    StageStarted,
    WorkerStarted,
)
from support.machines import cpu_only, nvidia_linux
from support.posix import SIGKILL, few_descriptors
from support.stations import HERE, Premises, caption, course_of, switched
from support.wheels import TorchBehaviour

pytestmark = pytest.mark.anyio

CUDA = nvidia_linux(driver="560.35.03", cuda="12.6", platform=HERE)
CPU = cpu_only(HERE)
MANY = 3000


async def test_an_environment_that_can_not_be_removed_changes_no_outcome(
    premises: Premises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a fallback has left stays until the next sweep; success is told once, and nothing after it."""
    premises.index.add_torch("2.9.5", "cu128", behaviour=TorchBehaviour(cuda="12.8", arch_list=("sm_90",)))
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if Path(target).name.startswith(".trash-") and Path(target).parent == premises.home.environments:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(source))
        rename(source, target)

    async with premises.station(CUDA) as station:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", refuse)
            course = await switched(station, "colours")
            outcome = await station.wait(course.activation)
        assert isinstance(outcome.fact, ActivationSucceeded)
        told = read_activation(premises.home, course.activation)
        assert [event.name for event in told if event.is_terminal] == ["ActivationSucceeded"]
        first, second = course.every(EnvironmentBuilt)
        assert {path.name for path in premises.home.environments.iterdir()} == {
            first.environment,
            second.environment,
        }
        await switched(station, "colours")


def slowly(*args: object, _unlink: Callable[..., None] = os.unlink, **options: object) -> None:
    """Remove a file in a millisecond."""
    time.sleep(0.001)
    _unlink(*args, **options)


def fill(folder: Path) -> None:
    """Put many files into a new folder."""
    folder.mkdir()
    for number in range(MANY):
        (folder / str(number)).touch()


async def test_many_files_do_not_hold_a_cancellation_up(
    premises: Premises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that takes a millisecond a file; the next activation removes the rest."""
    premises.index.add_torch("2.9.5", "cpu", behaviour=TorchBehaviour(import_seconds=3600))
    async with premises.station(CPU) as station:
        async with course_of(station, "colours") as course:
            await course.until(StageStarted, stage=Stage.VERIFY)
            place = premises.home.environments / course.only(EnvironmentBuilt).environment
            await anyio.to_thread.run_sync(fill, place / "many")
            with monkeypatch.context() as patch:
                patch.setattr(os, "unlink", slowly)
                station.request_cancel()
                with anyio.fail_after(2):
                    await course.end(ActivationCancelled)
        assert not place.exists()
        (trash,) = premises.home.environments.iterdir()
        assert trash.name.startswith(".trash-")
        premises.index.add_torch("2.9.6", "cpu")
        await switched(station, "colours", upgrade=True)


async def test_a_sweep_does_not_hold_a_cancellation_up(
    premises: Premises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier activation left is removed before anything else, and told; the next goes on with it."""
    trash = premises.home.environments / ".trash-of-another"
    removing = threading.Event()

    def noticed(*args: Any, **options: Any) -> None:
        removing.set()
        slowly(*args, **options)

    async with premises.station(CPU) as station:
        await anyio.to_thread.run_sync(fill, trash)
        async with course_of(station, "colours") as course:
            with monkeypatch.context() as patch:
                patch.setattr(os, "unlink", noticed)
                patch.setattr(housekeeping, "_NOTICED_SECONDS", 0.01)
                await course.until(StageStarted, stage=Stage.PREPARE)
                assert await anyio.to_thread.run_sync(removing.wait, 10)
                await course.until(StageProgressed, stage=Stage.PREPARE, unit="leftover files removed")
                station.request_cancel()
                with anyio.fail_after(2):
                    await course.end(ActivationCancelled)
        assert len(list(premises.home.environments.iterdir())) == 1
        await switched(station, "colours")


@contextmanager
def without_folder(premises: Premises) -> Iterator[None]:
    """The code of every backend is elsewhere meanwhile."""
    elsewhere = premises.home.backends.with_name("elsewhere")
    premises.home.backends.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(premises.home.backends)


@contextmanager
def without_descriptors(_: Premises) -> Iterator[None]:
    """This process can open nothing meanwhile."""
    lowest = os.dup(0)
    os.close(lowest)
    with few_descriptors(lowest):
        yield


@pytest.mark.skipif(sys.platform == "win32", reason="nothing limits a process's descriptors")
@pytest.mark.parametrize("without", [without_folder, without_descriptors])
async def test_a_worker_that_the_system_refuses_fails_alone(premises: Premises, without: object) -> None:
    """The station goes on, tries again, and serves as soon as the system lets it."""
    assert callable(without)
    async with premises.station(CPU) as station:
        await switched(station, "colours")
    async with premises.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        await station.start_active()
        started = (await anext(events)).fact
        assert isinstance(started, WorkerStarted)
        with without(premises):
            os.kill(started.pid, SIGKILL)
            with anyio.fail_after(10):
                while "can't be started" not in str(station._pool._failure):  # noqa: ASYNC110  its own time
                    await anyio.sleep(0.01)
        assert await caption(station) == "a small caption"


async def test_a_request_to_cancel_that_nobody_took_is_swept(premises: Premises) -> None:
    """A `cancel` that was killed leaves it; a fresh one may still be for an activation that waits."""
    stale, fresh = (cancel_request(premises.home, new_activation_id()) for _ in range(2))
    async with premises.station(CPU) as station:
        for path in (stale, fresh):
            path.touch()
        os.utime(stale, (0, 0))
        await switched(station, "colours")
        assert (stale.exists(), fresh.exists()) == (False, True)


async def test_long_looks_stop_nothing_else(premises: Premises, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend's files are hashed, and the computer's processes gone through, beside the event loop."""
    threads: dict[str, set[threading.Thread]] = {}

    def notice(module: object, name: str) -> None:
        function = getattr(module, name)

        def noticed(*args: Any, **options: Any) -> Any:
            threads.setdefault(name, set()).add(threading.current_thread())
            return function(*args, **options)

        monkeypatch.setattr(module, name, noticed)

    notice(hashlib, "file_digest")
    notice(psutil.Process, "children")
    async with premises.station(CPU) as station:
        await switched(station, "colours")
    async with premises.station(CPU, serves=True) as station:
        await station.start_active()
        assert await caption(station) == "a small caption"
        await switched(station, "colours")  # which measures the memory of the worker that it replaces
    assert threads.keys() == {"file_digest", "children"}
    assert [name for name in threads if threading.main_thread() in threads[name]] == []
