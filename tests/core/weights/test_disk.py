"""What is known of weights without a network: where they are, whether they are whole, what the hub said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moondream_station.core.home.layout import Home
from moondream_station.core.weights.contents import Weights, WeightsFile
from moondream_station.core.weights.disk import (
    WeightsSource,
    hub_cache,
    known,
    missing_bytes,
    model_cache,
    record_weights,
    recorded_weights,
    source_of,
    weights_on_disk,
)
from support.weights import Tensors, write_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TWO: dict[str, Tensors] = {"a.safetensors": {"x": ("BF16", (4,))}, "b.safetensors": {"y": ("F32", (4,))}}
SAID = Weights(
    files=(WeightsFile(name="model.safetensors", size_bytes=1000, digest="ab" * 32),),
    by_dtype={"bfloat16": 900},
    commit=COMMIT,
)


@pytest.mark.parametrize(
    ("args", "repository", "revision"),
    [
        ({"model_id": "me/tiny"}, "me/tiny", None),
        ({"model_id": "me/tiny", "revision": "v1.0"}, "me/tiny", "v1.0"),
        ({"model_id": "me/tiny", "revision_id": "main"}, "me/tiny", "main"),
        ({"model_id": "me/tiny", "revision": COMMIT, "revision_id": "main"}, "me/tiny", COMMIT),
    ],
)
def test_a_repository(args: dict[str, Any], repository: str, revision: str | None) -> None:
    """Its revision has two names: Moondream Station 0.1's backends call it `revision_id`."""
    source = source_of(args)
    assert source == WeightsSource(repository=repository, revision=revision)
    assert source.is_pinned == (revision == COMMIT)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"model_id": 7},
        {"model_id": ""},
        {"model_id": "m"},
        {"model_id": "me/tiny/more"},
        {"model_id": "me/.."},
        {"model_id": "../tiny"},
        {"model_id": "two words/tiny"},
        {"model_id": "me/tiny\0"},
        {"model_id": "me/tiny", "revision": "../../x"},
        {"model_id": "me/tiny", "revision": 7},
    ],
)
def test_what_names_no_repository_is_not_asked_about(args: dict[str, Any]) -> None:
    """A backend may mean anything by it."""
    assert source_of(args) is None


def test_a_folder(tmp_path: Path) -> None:
    """There or not, by its whole path; its weights are read, and what is not whole has none."""
    model = write_model(tmp_path / "model", TWO)
    source = source_of({"model_id": str(model), "revision": "of no meaning"})
    assert source == WeightsSource(folder=model)
    weights = weights_on_disk(source, {})
    assert weights is not None
    assert weights.by_dtype == {"bfloat16": 8, "float32": 16}
    assert missing_bytes(source, weights, {}) == 0
    (model / "b.safetensors").unlink()
    assert weights_on_disk(source, {}) is None
    assert source_of({"model_id": str(tmp_path / "nowhere")}) == WeightsSource(folder=tmp_path / "nowhere")


def test_weights_that_can_not_be_understood_have_a_size(tmp_path: Path) -> None:
    """What is wrong with them, the backend says."""
    model = write_model(tmp_path, {"model.safetensors": {"x": ("F32", (4,))}})
    (model / "model.safetensors").write_bytes(b"\xff" * 100)
    weights = weights_on_disk(WeightsSource(folder=model), {})
    assert weights is not None
    assert (weights.size_bytes, weights.dtype) == (100, None)


def test_a_snapshot_of_the_hubs_cache(tmp_path: Path) -> None:
    """By its commit, or by what a branch named last; only where all of it is there."""
    environ = {"HF_HOME": str(tmp_path)}
    cache = tmp_path / "hub" / "models--me--tiny"
    pinned, newest = (WeightsSource(repository="me/tiny", revision=name) for name in (COMMIT, None))
    assert weights_on_disk(pinned, environ) is None
    write_model(cache / "snapshots" / COMMIT, TWO)
    weights = weights_on_disk(pinned, environ)
    assert weights is not None
    assert (weights.commit, weights.dtype) == (COMMIT, "float32")
    assert weights_on_disk(newest, environ) is None
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    assert weights_on_disk(newest, environ) == weights
    (cache / "snapshots" / COMMIT / "a.safetensors").unlink()
    assert weights_on_disk(pinned, environ) is None


def test_what_is_there_of_a_download_is_not_missing(tmp_path: Path) -> None:
    """Whole or unfinished, under the digest of its content; another revision's files don't count."""
    environ, source = {"HF_HOME": str(tmp_path)}, WeightsSource(repository="me/tiny", revision=COMMIT)
    assert missing_bytes(source, SAID, environ) == 1000
    blobs = tmp_path / "hub" / "models--me--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / ("cd" * 32)).write_bytes(b"x" * 500)
    assert missing_bytes(source, SAID, environ) == 1000
    unfinished = blobs / f"{'ab' * 32}.incomplete"
    unfinished.write_bytes(b"x" * 300)
    assert missing_bytes(source, SAID, environ) == 700
    snapshot = blobs.parent / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"")
    assert missing_bytes(source, SAID, environ) == 0


def test_what_the_hub_said_is_kept(tmp_path: Path) -> None:
    """For the revision that was asked about, at the address that was asked; a damaged record is none."""
    home, environ = Home(root=tmp_path / "home"), {"HF_HOME": str(tmp_path)}
    source = WeightsSource(repository="me/tiny", revision="main")
    assert known(source, home, environ).weights is None
    record_weights(source, SAID, home, environ)
    assert recorded_weights(source, home, environ) == known(source, home, environ).weights == SAID
    other = WeightsSource(repository="me/tiny", revision="v2")
    assert recorded_weights(other, home, environ) is None
    assert recorded_weights(source, home, environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}) is None
    (path,) = (home.cache / "weights").iterdir()
    path.write_text("{")
    assert recorded_weights(source, home, environ) is None


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

    assert hub_cache(moved) == Path("/big/hub")
    assert hub_cache({"HF_HOME": "/data/hf"}) == Path("/data/hf/hub")
    assert hub_cache({"HUGGINGFACE_HUB_CACHE": "/older"}) == Path("/older")
