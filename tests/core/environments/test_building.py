"""Building environments: filled offline from checked wheels, whole or not there at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from moondream_station.core.environments.building import open_building
from moondream_station.core.environments.packages import check_records
from moondream_station.core.environments.store import Place
from moondream_station.core.facts.errors import EnvironmentBroken, HashMismatch, NoSpace
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.home.layout import Home
from moondream_station.core.processes.child_process import child_environment, run
from moondream_station.core.resolve.interpreter import own_interpreter
from moondream_station.core.resolve.pylock import read_stored_pylock
from support.environments import lock_of, locked_file, made_home
from support.wheels import Wheel, module_wheel, torch_wheel

pytestmark = pytest.mark.anyio

TORCH = torch_wheel("2.9.0", "cpu")
MODULE = module_wheel("My.Module", "1.0", requires=["torch==2.9.0"])


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of the test's own."""
    return made_home(tmp_path)


def downloaded(home: Home, *wheels: Wheel) -> tuple[Lock, dict[str, Path]]:
    """A lock of wheels, and the wheels as downloading leaves them."""
    lock = lock_of(locked_file(wheel, f"https://h/{wheel.filename}") for wheel in wheels)
    paths = {}
    for wheel, file in ((wheel, locked_file(wheel, "https://h/")) for wheel in wheels):
        paths[wheel.filename] = home.downloads / file.stored_name
        paths[wheel.filename].write_bytes(wheel.data)
    return lock, paths


async def built(
    home: Home,
    lock: Lock,
    wheels: Mapping[str, Path],
    told: list[tuple[int, int, str]] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Place:
    """Build an environment of a lock."""
    told = [] if told is None else told
    async with open_building(
        lock,
        home=home,
        interpreter=own_interpreter(),
        environ=environ,
        progress=lambda done, total, unit: told.append((done, total, unit)),
    ) as building:
        await building.finish(wheels)
    return building.place


async def said_by(place: Place, program: str) -> str:
    """What a program says inside an environment."""
    completed = await run([str(place.python), "-c", program], env=child_environment(os.environ))
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.decode().strip()


async def test_an_environment_holds_what_its_lock_names(home: Home) -> None:
    """Torch can be imported in it, its lock stands beside it, its base is the interpreter's."""
    lock, wheels = downloaded(home, TORCH, MODULE)
    place = await built(home, lock, wheels)
    assert place.path.parent == home.environments
    assert place.name.startswith(f"{lock.digest[:8]}-")
    assert await said_by(place, "import torch; print(torch.__version__)") == "2.9.0+cpu"
    base = await said_by(place, "import sys; print(sys._base_executable)")
    assert await anyio.Path(base).resolve() == own_interpreter().path
    assert read_stored_pylock(place.pylock.read_text()).digest == lock.digest
    assert check_records(place.venv, lock.packages) > 0


async def test_nothing_but_lock_and_environment_is_left(home: Home) -> None:
    """Uv's cache and the rewritten lock are gone; no file of the environment is linked from elsewhere."""
    place = await built(home, *downloaded(home, TORCH))
    assert sorted(path.name for path in place.path.iterdir()) == ["pylock.toml", "venv"]
    files = [path for path in place.venv.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {path.stat().st_nlink for path in files} == {1}


async def test_progress_is_told_from_nothing_to_all(home: Home) -> None:
    """Packages from none to all, then the files that were checked."""
    told: list[tuple[int, int, str]] = []
    place = await built(home, *downloaded(home, TORCH, MODULE), told)
    packages = [done for done, _, unit in told if unit == "packages"]
    assert packages == sorted(packages)
    assert (packages[0], packages[-1]) == (0, 2)
    count = check_records(place.venv, {"torch": "2.9.0+cpu", "my-module": "1.0"})
    assert told[-1] == (count, count, "files")


async def test_one_lock_makes_environments_of_their_own(home: Home) -> None:
    """Two environments of one lock share neither place nor files: damage to one leaves the other whole."""
    lock, wheels = downloaded(home, TORCH)
    one, other = await built(home, lock, wheels), await built(home, lock, wheels)
    assert one != other
    next(one.venv.glob("lib/python*/site-packages/torch/__init__.py")).write_text("")
    assert check_records(other.venv, lock.packages) > 0


async def test_the_user_s_uv_and_python_settings_change_nothing(home: Home) -> None:
    """Variables that make uv or Python do something else are not seen by them."""
    environ = {
        **os.environ,
        "UV_CONSTRAINT": "/nowhere",
        "UV_LINK_MODE": "nonsense",
        "UV_COMPILE_BYTECODE": "1",
        "UV_WORKING_DIR": "/nowhere",
        "VIRTUAL_ENV": "/nowhere",
        "PYTHONHOME": "/nowhere",
    }
    lock, wheels = downloaded(home, TORCH)
    place = await built(home, lock, wheels, environ=environ)
    assert not list(place.venv.rglob("torch/__pycache__"))


@pytest.mark.parametrize("where", [0.5, 0.9999], ids=["content", "table of contents"])
async def test_a_damaged_wheel_is_refused_and_removed(home: Home, where: float) -> None:
    """Uv checks each wheel's hash again; one that is wrong is removed, so that it is fetched anew."""
    lock, wheels = downloaded(home, TORCH, MODULE)
    data = bytearray(TORCH.data)
    data[int(len(data) * where)] ^= 0xFF
    wheels[TORCH.filename].write_bytes(data)
    with pytest.raises(HashMismatch, match="torch"):
        await built(home, lock, wheels)
    assert not wheels[TORCH.filename].exists()
    assert wheels[MODULE.filename].exists()
    assert list(home.environments.iterdir()) == []


async def test_a_missing_wheel_leaves_nothing(home: Home) -> None:
    """A wheel that went away is named as one that is not what it was."""
    lock, wheels = downloaded(home, TORCH, MODULE)
    wheels[MODULE.filename].unlink()
    with pytest.raises(HashMismatch, match="my_module"):
        await built(home, lock, wheels)
    assert list(home.environments.iterdir()) == []


async def test_packages_that_don_t_fit_each_other_are_refused(home: Home) -> None:
    """What wheels require of each other is checked in the environment itself."""
    with pytest.raises(EnvironmentBroken, match="torch"):
        await built(home, *downloaded(home, torch_wheel("2.8.0", "cpu"), MODULE))
    assert list(home.environments.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["data/pyvenv.cfg", "data/bin/python", "data/bin/activate", "scripts/python", "scripts/activate"]
)
async def test_a_wheel_does_not_overwrite_the_environment_itself(home: Home, path: str) -> None:
    """Its Python, its settings and its scripts are no package's."""
    wheel = Wheel(name="evil", version="1.0", files={f"evil-1.0.data/{path}": b"#!python\nhome = /nowhere\n"})
    with pytest.raises(EnvironmentBroken, match=r"evil 1\.0 overwrites|reserved name"):  # or uv refuses it
        await built(home, *downloaded(home, wheel))
    assert list(home.environments.iterdir()) == []


async def test_a_wheel_that_can_t_fit_is_not_unpacked(home: Home) -> None:
    """The space that wheels unpack to is known before they are, and looked for."""
    lock, wheels = downloaded(home, TORCH)
    with zipfile.ZipFile(wheels[TORCH.filename], "a") as archive:
        archive.writestr("torch/large.bin", b"x")
        archive.infolist()[-1].file_size = 1 << 60
    with pytest.raises(NoSpace, match="Not enough space"):
        await built(home, lock, wheels)
    assert list(home.environments.iterdir()) == []


async def test_a_cancelled_build_leaves_nothing(home: Home, tmp_path: Path) -> None:
    """Cancelled at any moment, the place is gone and nothing of uv runs on."""
    lock, wheels = downloaded(home, torch_wheel("2.9.0", "cpu", filler_bytes=30_000_000), MODULE)
    begun = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def build() -> None:
            async with open_building(
                lock,
                home=home,
                interpreter=own_interpreter(),
                environ=os.environ,
                progress=lambda *_: begun.set(),
            ) as building:
                await building.finish(wheels)

        tasks.start_soon(build)
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert list(home.environments.iterdir()) == []


async def test_a_damaged_lock_is_not_installed(home: Home) -> None:
    """A lock that names another size than the wheel has is refused before anything is unpacked."""
    lock, wheels = downloaded(home, TORCH)
    wrong = replace(lock, files=(replace(lock.files[0], size_bytes=len(TORCH.data) + 1),))
    with pytest.raises((EnvironmentBroken, HashMismatch)):
        await built(home, wrong, wheels)
    assert list(home.environments.iterdir()) == []
