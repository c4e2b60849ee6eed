"""Where models are downloaded to, and whether that grows."""

from __future__ import annotations

from pathlib import Path

from moondream_station.core.worker.model_cache import disk_usage, model_cache


def test_the_folders_are_those_that_the_variables_name() -> None:
    """Each variable moves its own folder; without any they are below the user's home."""
    assert model_cache({"HOME": "/home/me"}) == (
        Path("/home/me/.cache/huggingface"),
        Path("/home/me/.cache/torch"),
    )
    moved = {
        "HOME": "/home/me",
        "HF_HOME": "/data/hf",
        "HF_HUB_CACHE": "/big/hub",
        "TORCH_HOME": "/data/torch",
    }
    assert model_cache(moved) == (Path("/data/hf"), Path("/big/hub"), Path("/data/torch"))
    assert model_cache({"HOME": "/home/me", "XDG_CACHE_HOME": "/x"})[0] == Path("/x/huggingface")


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
