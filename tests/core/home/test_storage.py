"""Writing that survives."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from moondream_station.core.home.storage import read_json, remove_tree, sync_tree, write_atomically


def test_replaces_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The file has the new content and the mode asked for, and no temporary file stays."""
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    write_atomically(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    """Where the new file can't take the old one's place, nothing changes and nothing is left."""
    target = tmp_path / "folder"
    (target / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_atomically(target, "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_read_json_tells_absent_from_broken(tmp_path: Path) -> None:
    """No file is None; a broken one is an error that says where it breaks off."""
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"it is not JSON \(.*line 1"):
        read_json(tmp_path / "broken.json")


def test_a_number_beyond_pythons_bounds_is_called_that(tmp_path: Path) -> None:
    """Python's own words tell a programmer how to lift its bound on digits."""
    (tmp_path / "long.json").write_text(f'{{"size": {"1" * 5000}}}')
    with pytest.raises(ValueError, match=r"^it is not JSON \(a number in it has too many digits\)$"):
        read_json(tmp_path / "long.json")


def test_remove_tree_does_not_follow_links(tmp_path: Path) -> None:
    """A link is removed, inside or in the folder's place; what it points at stays. No folder is fine."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "gone")
    remove_tree(tmp_path / "gone")
    (tmp_path / "gone").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "gone")
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").read_text() == "x"


def test_sync_tree_takes_any_tree(tmp_path: Path) -> None:
    """Files, folders and dangling links are synced without an error."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    (tmp_path / "a" / "link").symlink_to("nowhere")
    sync_tree(tmp_path / "a")
