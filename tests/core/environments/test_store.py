"""Finished environments: committed last, found again, passed over when broken; rubbish; `active.json`."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.environments.packages import check_records, own_files
from moondream_station.core.environments.store import (
    CommitRecord,
    Committed,
    Place,
    check_whole,
    commit,
    find_reusable,
    load_commit,
    new_place,
    place_of,
    request_key,
    sweep,
    sync_ahead,
)
from moondream_station.core.facts.errors import EnvironmentBroken, HomeUnusable
from moondream_station.core.facts.events import VerificationReport
from moondream_station.core.home.active_file import ActiveRecord, read_active, write_active
from moondream_station.core.home.layout import Home
from moondream_station.core.resolve.pylock import write_pylock
from support.environments import lock_of, locked_file, made_home
from support.posix import few_descriptors
from support.wheels import torch_wheel

pytestmark = pytest.mark.anyio

TORCH = torch_wheel("2.9.0", "cpu")
LOCK = lock_of([locked_file(TORCH, "https://h/torch.whl")])
KEY = "k" * 64
CODE = "b/1/0123"
ONE, TWO = "01234567-89ab", "76543210-ba98"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of the test's own."""
    return made_home(tmp_path)


def filled_place(home: Home) -> Place:
    """A place as building leaves it: lock, a Python of its own, and torch unpacked."""
    place = new_place(home, LOCK.digest)
    place.pylock.write_text(write_pylock(LOCK))
    site_packages = place.venv / "lib" / "python3.11" / "site-packages"
    zipfile.ZipFile(io.BytesIO(TORCH.data)).extractall(site_packages)
    place.python.parent.mkdir()
    base = base_of(home)
    base.write_text("#!/bin/sh\n")
    base.chmod(0o755)
    place.python.symlink_to(base)
    return place


def base_of(home: Home) -> Path:
    """The Python that places are made from here."""
    return home.root / "python3.11"


def record_of(home: Home, place: Place, **changes: object) -> CommitRecord:
    """The record of such a place."""
    record = CommitRecord(
        lock_digest=LOCK.digest,
        request_key=KEY,
        model="m",
        backend="b",
        backend_version="1",
        code=CODE,
        build="cpu",
        torch="2.9.0+cpu",
        index_url="https://h/whl/cpu",
        source="index",
        degraded=None,
        python=str(base_of(home)),
        python_version="3.11.7",
        packages=LOCK.packages,
        file_count=check_records(place.venv, LOCK.packages),
        verification=VerificationReport(torch="2.9.0+cpu", build="cpu", compute_ok=True, seconds=1.5),
        own_files=own_files(place.venv),
        created_at=datetime(2026, 11, 23, 10, 0, tzinfo=UTC),
    )
    return replace(record, **changes)  # type: ignore[arg-type]


async def committed_place(home: Home, **changes: object) -> Committed:
    """A committed environment."""
    place = filled_place(home)
    record = record_of(home, place, **changes)
    await commit(place, record)
    return Committed(place=place, record=record)


async def test_what_was_committed_is_read_back(home: Home) -> None:
    """The record comes back as it was, and the verification stands beside it."""
    committed = await committed_place(home)
    assert load_commit(committed.place) == committed.record
    verification = json.loads((committed.place.path / "verification.json").read_text())
    assert verification["compute_ok"] is True
    data = json.loads(committed.place.commit.read_text())
    assert data["format"] == "moondream-station/environment/1"


def test_a_place_is_never_used_twice(home: Home) -> None:
    """Two environments of one lock have names of their own, both beginning with the lock's digest."""
    names = {new_place(home, LOCK.digest).name for _ in range(20)}
    assert len(names) == 20
    assert {name[:9] for name in names} == {f"{LOCK.digest[:8]}-"}


async def test_the_newest_whole_environment_is_found(home: Home) -> None:
    """Of several that were made for the same the newest is taken."""
    await committed_place(home)
    newer = await committed_place(home, created_at=datetime(2026, 11, 24, tzinfo=UTC))
    assert await find_reusable(home, KEY, code=CODE) == newer


async def test_nothing_made_for_another_request_is_found(home: Home) -> None:
    """Another request key finds nothing, and neither does a place without a commit."""
    await committed_place(home)
    filled_place(home)
    assert await find_reusable(home, "o" * 64, code=CODE) is None


async def test_an_environment_is_used_again_with_the_code_that_its_commit_names(home: Home) -> None:
    """Its next worker runs that; the record of a station with one place for a version names that place."""
    named = await committed_place(home)
    assert await find_reusable(home, KEY, code="b/1/4567") is None
    assert await find_reusable(home, KEY, code=CODE) == named
    old = await committed_place(home, code=None)
    data = json.loads(old.place.commit.read_text())
    del data["code"]
    old.place.commit.write_text(json.dumps(data))
    assert await find_reusable(home, KEY, code="b/1") == old


def lose_a_file(home: Home, place: Place) -> None:
    """A file of a package is gone."""
    (place.venv / "lib/python3.11/site-packages/torch/cuda.py").unlink()


def lose_the_base(home: Home, place: Place) -> None:
    """The base interpreter was uninstalled."""
    base_of(home).unlink()


def lose_the_python(home: Home, place: Place) -> None:
    """The environment's own Python is gone."""
    place.python.unlink()


def lose_the_lock(home: Home, place: Place) -> None:
    """The lock is gone."""
    place.pylock.unlink()


def change_the_lock(home: Home, place: Place) -> None:
    """The lock names another wheel."""
    place.pylock.write_text(place.pylock.read_text().replace(TORCH.sha256, "0" * 64))


def add_a_package(home: Home, place: Place) -> None:
    """Somebody installed something into it."""
    (place.venv / "lib/python3.11/site-packages/other-1.0.dist-info").mkdir()


@pytest.mark.parametrize(
    "damage",
    [lose_a_file, lose_the_base, lose_the_python, lose_the_lock, change_the_lock, add_a_package],
)
async def test_a_damaged_environment_is_passed_over(
    home: Home, damage: Callable[[Home, Place], None]
) -> None:
    """An environment that is not whole is not used again, and the reason can be told."""
    committed = await committed_place(home)
    damage(home, committed.place)
    assert await find_reusable(home, KEY, code=CODE) is None
    with pytest.raises(EnvironmentBroken):
        await check_whole(committed)


@pytest.mark.parametrize("text", ["", "{}", "null", '{"format": "moondream-station/environment/2"}'])
async def test_a_commit_that_says_nothing_is_none(home: Home, text: str) -> None:
    """A record that can't be read makes its place rubbish for reuse, and no error."""
    place = filled_place(home)
    place.commit.write_text(text)
    assert load_commit(place) is None
    assert await find_reusable(home, KEY, code=CODE) is None


@pytest.mark.parametrize("look", [check_whole, lambda committed: load_commit(committed.place)])
async def test_a_shortage_of_descriptors_is_no_damage(home: Home, look: Callable[[Committed], Any]) -> None:
    """An environment that can't be looked at now is not made again for that."""
    committed = await committed_place(home)
    await check_whole(committed)
    with few_descriptors(0), pytest.raises(OSError, match="Too many open files"):
        await look(committed)


async def test_half_done_things_are_swept(home: Home) -> None:
    """Places without a commit, trash and temporary files go; the report names them."""
    kept = await committed_place(home)
    half = filled_place(home)
    for path in (home.environments / ".trash-12", home.backends / "b" / ".trash-34", home.cache / "lock-x"):
        path.mkdir(parents=True)
    (home.root / ".active.json.0123.tmp").write_text("{")
    part = home.downloads / "0123-torch.whl.partial"
    part.write_bytes(b"good")
    removed = await sweep(home)
    assert f"environments/{half.name}" in removed
    assert len(removed) == 5
    assert sorted(path.name for path in home.environments.iterdir()) == [kept.place.name]
    assert not (home.root / ".active.json.0123.tmp").exists()
    assert part.exists()
    assert await sweep(home) == ()


async def test_a_cancelled_sweep_waits_for_no_large_tree(home: Home) -> None:
    """What it began to remove goes on being removed, and the next sweep copes with that."""
    half = filled_place(home)
    for number in range(10_000):
        (half.path / f"file-{number}").touch()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sweep, home)
        with anyio.fail_after(30):
            while half.path.exists():  # noqa: ASYNC110  a file system tells nobody
                await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    assert list(home.environments.glob(".trash-*/file-*"))
    await sweep(home)
    assert not list(home.environments.iterdir())


async def test_what_active_json_names_is_never_swept(home: Home) -> None:
    """Even without its commit a place that a model has, or had before, stays."""
    first, second = filled_place(home), filled_place(home)
    record = ActiveRecord().with_active("m", environment=first.name, request_key=KEY)
    write_active(home, record.with_active("m", environment=second.name, request_key=KEY))
    assert await sweep(home) == ()
    assert first.path.exists()
    assert second.path.exists()


async def test_links_among_the_environments_are_not_followed(home: Home, tmp_path: Path) -> None:
    """A link that somebody put there is neither a place nor emptied."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (home.environments / "link").symlink_to(outside)
    await sweep(home)
    assert (outside / "file").exists()


async def test_without_knowing_what_is_in_use_nothing_is_swept(home: Home) -> None:
    """An `active.json` that can't be read is an error with a remedy, and no reason to remove anything."""
    half = filled_place(home)
    home.active.write_text("{")
    with pytest.raises(HomeUnusable) as caught:
        await sweep(home)
    assert caught.value.hint is not None
    assert half.path.exists()


def test_nothing_is_active_in_a_new_home(home: Home) -> None:
    """No file is an empty record."""
    assert read_active(home) == ActiveRecord()


def test_active_json_has_the_contract_s_shape(home: Home) -> None:
    """The file holds format, model, and each model's environment, previous one and request key."""
    record = ActiveRecord().with_active("m", environment=ONE, request_key="k1")
    write_active(home, record.with_active("m", environment=TWO, request_key="k2"))
    assert json.loads(home.active.read_text()) == {
        "format": "moondream-station/active/1",
        "model": "m",
        "models": {"m": {"environment": TWO, "previous": ONE, "request_key": "k2"}},
    }
    assert read_active(home).environments == {ONE, TWO}


def test_activating_the_same_environment_keeps_the_previous_one(home: Home) -> None:
    """A second activation of what is there already must not make rollback lead nowhere."""
    record = ActiveRecord().with_active("m", environment=ONE, request_key="k")
    record = record.with_active("m", environment=TWO, request_key="k")
    assert record.with_active("m", environment=TWO, request_key="k").models["m"].previous == ONE


def test_rolling_back_twice_leads_back(home: Home) -> None:
    """Rollback exchanges the two environments."""
    record = ActiveRecord().with_active("m", environment=ONE, request_key="k1")
    record = record.with_active("m", environment=TWO, request_key="k2")
    back = record.rolled_back("m", request_key="k1")
    assert (back.models["m"].environment, back.models["m"].previous) == (ONE, TWO)
    assert back.rolled_back("m", request_key="k2") == record


def test_there_is_nothing_to_roll_back_to_at_first() -> None:
    """Without a previous environment there is none to go back to."""
    record = ActiveRecord().with_active("m", environment=ONE, request_key="k")
    with pytest.raises(KeyError):
        record.rolled_back("m", request_key="k")
    with pytest.raises(KeyError):
        record.rolled_back("other", request_key="k")


def test_a_forgotten_model_is_not_active(home: Home) -> None:
    """Removing the active model leaves none active; removing another one changes nothing else."""
    record = ActiveRecord().with_active("m", environment=ONE, request_key="k")
    record = record.with_active("n", environment=TWO, request_key="k")
    assert record.without("n") == ActiveRecord(model=None, models={"m": record.models["m"]})
    assert record.without("m").model == "n"


def key_of(**changes: object) -> str:
    """A request key."""
    parts: dict[str, object] = {
        "backend": "b",
        "backend_version": "1",
        "code_digest": "d",
        "requirements": ("torch", "numpy"),
        "strategy": "auto",
        "python": "3.11",
        "platform": "linux-x86_64",
    }
    return request_key(**{**parts, **changes})  # type: ignore[arg-type]


@given(
    st.sampled_from(["backend", "backend_version", "code_digest", "strategy", "python", "platform"]),
    st.text(),
    st.text(),
)
def test_every_part_of_a_request_counts(part: str, one: str, other: str) -> None:
    """Requests that differ in one part have different keys, equal ones the same."""
    assert (key_of(**{part: one}) == key_of(**{part: other})) == (one == other)


def test_the_order_of_requirements_does_not_count() -> None:
    """The same requirements in another order are the same request; others are another one."""
    assert key_of(requirements=("numpy", "torch")) == key_of()
    assert key_of(requirements=("numpy",)) != key_of()


def test_a_place_s_name_leads_to_it(home: Home) -> None:
    """A place is found by its name, whether it exists or not."""
    assert place_of(home, "x").path == home.environments / "x"


async def test_syncing_ahead_disturbs_nothing(home: Home, tmp_path: Path) -> None:
    """What goes on meanwhile ends as it would have, well or not, also where there is nothing to sync."""
    async with sync_ahead(None):
        pass
    async with sync_ahead(Place(tmp_path / "gone")):
        await anyio.lowlevel.checkpoint()
    with pytest.raises(EnvironmentBroken):
        async with sync_ahead(Place(tmp_path)):
            raise EnvironmentBroken("while something else is done")
