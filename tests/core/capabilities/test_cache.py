"""A snapshot is kept for as long as it must still be true, and not a moment longer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moondream_station.core.capabilities.cache import (
    VALID_SECONDS,
    CapabilityCache,
    Detected,
    fingerprint,
    read_cached,
)
from moondream_station.core.home.layout import Home
from moondream_station.core.machine.machine import LocalMachine, Machine
from moondream_station.core.machine.record import RecordedMachine
from support.machines import cpu_only, nvidia_linux, with_toolkit

pytestmark = pytest.mark.anyio

GOOD = with_toolkit(cpu_only(), "12.8").commands[0].stdout


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """All there is on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def set_nvcc(bin_folder: Path) -> Callable[[str], None]:
    """Install an nvcc that prints a text."""

    def install(text: str) -> None:
        program = bin_folder / "nvcc"
        program.write_text(f"#!/bin/sh\n/bin/cat <<'E'\n{text}\nE\n")
        program.chmod(0o755)

    install(GOOD)
    return install


@pytest.fixture
def machine(bin_folder: Path, set_nvcc: Callable[[str], None]) -> LocalMachine:
    """This computer, with one probe program."""
    return LocalMachine({"PATH": str(bin_folder)})


async def ask(cache: CapabilityCache, *, refresh: bool = False) -> tuple[Detected, int]:
    """What the cache gives, and how many probes it asked."""
    told: list[str] = []
    detected = await cache.get(on_probe=lambda report: told.append(report.probe), refresh=refresh)
    return detected, len(told)


async def test_the_second_answer_comes_from_memory(home: Home, machine: LocalMachine, clock: Clock) -> None:
    """No probe is asked again, also when the file is gone."""
    cache = CapabilityCache(home, machine, clock=clock)
    first, asked = await ask(cache)
    home.capabilities.unlink()
    second, asked_again = await ask(cache)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert asked > 0
    assert asked_again == 0
    assert second.capabilities == first.capabilities
    assert second.capabilities.nvcc == "12.8"


async def test_the_next_process_has_it_from_disk(home: Home, machine: LocalMachine, clock: Clock) -> None:
    """Every field comes back as it was."""
    first, _ = await ask(CapabilityCache(home, machine, clock=clock))
    second, asked = await ask(CapabilityCache(home, machine, clock=clock))
    assert (second.from_cache, asked) == (True, 0)
    assert second.capabilities == first.capabilities
    assert read_cached(home) == first.capabilities


@pytest.mark.parametrize("passed", [VALID_SECONDS, VALID_SECONDS * 10, -1.0])
async def test_age_ends_it(home: Home, machine: LocalMachine, clock: Clock, passed: float) -> None:
    """After five minutes, or by a clock that was set back, the probes are asked again."""
    cache = CapabilityCache(home, machine, clock=clock)
    await ask(cache)
    clock.now += passed
    assert not (await ask(cache))[0].from_cache


async def test_until_then_it_holds(home: Home, machine: LocalMachine, clock: Clock) -> None:
    """Just before five minutes nothing has changed, in memory and on disk."""
    cache = CapabilityCache(home, machine, clock=clock)
    await ask(cache)
    clock.now += VALID_SECONDS - 1
    assert (await ask(cache))[0].from_cache
    assert (await ask(CapabilityCache(home, machine, clock=clock)))[0].from_cache


async def test_a_changed_machine_ends_it(
    home: Home, machine: LocalMachine, clock: Clock, set_nvcc: Callable[[str], None]
) -> None:
    """A probe's program that was replaced is noticed by its time."""
    cache = CapabilityCache(home, machine, clock=clock)
    await ask(cache)
    set_nvcc(GOOD.replace("12.8", "13.0"))
    detected, _ = await ask(cache)
    assert not detected.from_cache
    assert detected.capabilities.nvcc == "13.0"


async def test_a_refresh_asks_whatever_is_known(home: Home, machine: LocalMachine, clock: Clock) -> None:
    """A doctor, and a failed verification, look for themselves; what they see is kept."""
    cache = CapabilityCache(home, machine, clock=clock)
    await ask(cache)
    assert not (await ask(cache, refresh=True))[0].from_cache
    assert (await ask(cache))[0].from_cache


async def test_what_could_not_be_found_out_is_not_kept(
    home: Home, machine: LocalMachine, clock: Clock, set_nvcc: Callable[[str], None]
) -> None:
    """A failed probe makes the next caller ask again, and a snapshot from before does not stand in."""
    cache = CapabilityCache(home, machine, clock=clock)
    await ask(cache)
    set_nvcc("no release at all")
    assert not (await ask(cache))[0].from_cache
    assert not (await ask(cache))[0].from_cache
    assert read_cached(home) is None


async def test_a_recorded_machine_is_never_kept(home: Home, clock: Clock) -> None:
    """Another computer's answers have no place in this one's home."""
    machine: Machine = RecordedMachine(nvidia_linux())
    cache = CapabilityCache(home, machine, clock=clock)
    assert (await ask(cache))[0].capabilities.nvidia_driver == "550.54.14"
    assert not (await ask(cache))[0].from_cache
    assert not home.capabilities.exists()


def damages(data: dict[str, Any]) -> Iterator[str]:
    """What can become of the file."""
    text = json.dumps(data)
    yield ""
    yield text[: len(text) // 2]
    yield "[" * 100_000
    yield "null"
    yield "[]"
    yield json.dumps({**data, "format": "moondream-station/capabilities/0"})
    yield json.dumps({**data, "capabilities": {**data["capabilities"], "nvcc": "1.0"}})
    yield json.dumps({**data, "stored_at": "now"})
    yield json.dumps({key: value for key, value in data.items() if key != "fingerprint"})


async def test_a_damaged_file_is_no_obstacle(home: Home, machine: LocalMachine, clock: Clock) -> None:
    """Whatever became of it, the probes are asked and a good one is written."""
    await ask(CapabilityCache(home, machine, clock=clock))
    good = json.loads(home.capabilities.read_text())
    for damage in damages(good):
        home.capabilities.write_text(damage)
        detected, _ = await ask(CapabilityCache(home, machine, clock=clock))
        assert not detected.from_cache
        assert json.loads(home.capabilities.read_text())["digest"]
    home.capabilities.unlink()
    home.capabilities.mkdir()
    assert not (await ask(CapabilityCache(home, machine, clock=clock)))[0].from_cache


async def test_a_home_that_is_gone_is_no_obstacle(
    tmp_path: Path, machine: LocalMachine, clock: Clock
) -> None:
    """Where nothing can be kept on disk, memory does."""
    cache = CapabilityCache(Home(tmp_path / "none"), machine, clock=clock)
    assert not (await ask(cache))[0].from_cache
    assert (await ask(cache))[0].from_cache


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_content_breaks_the_reader(home: Home, content: bytes) -> None:
    """Any bytes are no snapshot."""
    home.capabilities.write_bytes(content)
    assert read_cached(home) is None


def test_the_fingerprint_tells_machines_apart(
    bin_folder: Path, machine: LocalMachine, set_nvcc: Callable[[str], None]
) -> None:
    """Variables, Python and programs change it; asking twice does not."""
    path = {"PATH": str(bin_folder)}
    seen = {
        fingerprint(machine),
        fingerprint(LocalMachine({**path, "CUDA_VISIBLE_DEVICES": "0"})),
        fingerprint(LocalMachine(path, python="3.99.0")),
    }
    (bin_folder / "nvidia-smi").write_text("#!/bin/sh\n")
    (bin_folder / "nvidia-smi").chmod(0o755)
    seen.add(fingerprint(machine))
    assert len(seen) == 4
    assert fingerprint(machine) == fingerprint(LocalMachine({**path, "UNRELATED": "x"}))
