"""What a model needs to be loaded: memory of the computer, the container and the GPU; its files on disk."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from moondream_station.core.worker import loading
from moondream_station.core.worker.loading import MemoryNeed, available_bytes, disk_usage

GIB = 1 << 30


@pytest.mark.parametrize(
    ("needed", "on_device", "available", "is_met"),
    [
        (4 * GIB, None, 9 * GIB, True),
        (4 * GIB, None, 9 * GIB - 1, False),
        (4 * GIB, 9 * GIB, 64 * GIB, True),
        (4 * GIB, 8 * GIB, 64 * GIB, False),
        (4 * GIB, 64 * GIB, 8 * GIB, False),
        (0, None, GIB, True),
    ],
)
def test_twice_the_weights_and_a_reserve_must_be_free(
    monkeypatch: pytest.MonkeyPatch,
    needed: int,
    on_device: int | None,
    available: int,
    is_met: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    """In the computer's memory, and in the GPU's where it has its own."""
    monkeypatch.setattr(loading, "available_bytes", lambda: available)
    assert MemoryNeed(needed_bytes=needed, free_on_device_bytes=on_device).is_met() is is_met


def test_what_is_available_is_at_most_what_the_computer_has() -> None:
    """As this computer says."""
    assert 0 < available_bytes() <= psutil.virtual_memory().total


def write_group(folder: Path, **files: object) -> None:
    """A control group's folder, with the files that the kernel would show."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_a_limit_of_any_group_around_counts(tmp_path: Path) -> None:
    """Version 2: one without a limit says "max", and the topmost has no such files."""
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    write_group(root / "a", memory__max=8 * GIB, memory__current=GIB)
    write_group(root / "a" / "b", memory__max="max", memory__current=GIB)
    membership.write_text("0::/a/b\n")
    assert list(loading.left_in_groups(root, membership)) == [7 * GIB]


def test_the_older_groups_count_likewise(tmp_path: Path) -> None:
    """Version 1 has a hierarchy for memory alone; in a container the path is the host's, and not there."""
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    write_group(root / "memory", memory__limit_in_bytes=4 * GIB, memory__usage_in_bytes=5 * GIB)
    membership.write_text("12:cpu,cpuacct:/docker/x\n11:memory:/docker/x\n0::/\n")
    assert list(loading.left_in_groups(root, membership)) == [0]


@pytest.mark.parametrize(
    ("group", "file", "membership"),
    [("a/b", "memory__events", "0::/a/b"), ("memory/a", "memory__oom_control", "4:memory:/a/b\n0::/")],
)
def test_who_was_killed_for_memory_is_counted(tmp_path: Path, group: str, file: str, membership: str) -> None:
    """By the innermost group that counts, in both versions; nobody knows where none does."""
    root, listed = tmp_path / "cgroup", tmp_path / "membership"
    listed.write_text(f"{membership}\n")
    assert loading.oom_kills(root, listed) is None
    write_group(root / group, **{file: "oom 9\noom_kill 3\noom_kill_disable 0"})
    assert loading.oom_kills(root, listed) == 3


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    """Other systems have no such file."""
    assert list(loading.left_in_groups(tmp_path, tmp_path / "nothing")) == []


def test_growth_shows_at_any_depth(tmp_path: Path) -> None:
    """A file that grows, deep inside; links to it count for nothing, and a folder that is missing neither."""
    blobs = tmp_path / "hub" / "models--me--tiny" / "blobs"
    blobs.mkdir(parents=True)
    folders = (tmp_path, tmp_path / "missing")
    before = disk_usage(folders)
    (blobs / "weights.incomplete").write_bytes(b"x" * 100_000)
    grown = disk_usage(folders)
    assert grown - before >= 100_000
    (tmp_path / "link").symlink_to(blobs)
    assert disk_usage(folders) - grown < 100_000


def test_a_hole_is_no_growth(tmp_path: Path) -> None:
    """A download that was given its full size at once has not arrived with that."""
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(50_000_000)
    assert disk_usage([tmp_path]) < 50_000_000
