"""Which files an agent may name, and what it is told where it may not."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from moondream_station.agents.folders import Folders
from moondream_station.core.facts.errors import ArgumentInvalid, UsageError
from support.posix import make_fifo

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two folders that are allowed, `a` and `b`, beside one that is not; and links between them."""
    for name in ("a", "a/deep", "b", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{Path(name).name}.png").write_bytes(name.encode())
    (tmp_path / "a" / "out.png").symlink_to(tmp_path / "secret" / "secret.png")
    (tmp_path / "a" / "outside").symlink_to(tmp_path / "secret")
    (tmp_path / "a" / "other.png").symlink_to(tmp_path / "b" / "b.png")
    (tmp_path / "a" / "loop.png").symlink_to(tmp_path / "a" / "loop.png")
    (tmp_path / "a" / "empty.png").touch()
    make_fifo(tmp_path / "a" / "fifo.png")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    return tmp_path


@pytest.fixture
def folders(place: Path) -> Folders:
    """`a`, and `b` by a link to it."""
    return Folders.of([place / "a", str(place / "link"), place / "a"])


@pytest.mark.parametrize(
    ("named", "content"),
    [
        ("PLACE/a/a.png", "a"),
        ("PLACE/a/deep/../a.png", "a"),
        ("PLACE/link/b.png", "b"),
        ("file://PLACE/b/b.png", "b"),
        ("FILE:PLACE/b/b.png", "b"),
        ("a.png", "a"),
        ("deep/deep.png", "a/deep"),
        ("b.png", "b"),
        ("other.png", "b"),
    ],
)
async def test_files_within(place: Path, folders: Folders, named: str, content: str) -> None:
    """By absolute path, by URL, or as they lie in one of the folders; links are followed."""
    image = await folders.image(named.replace("PLACE", str(place)))
    assert image == f"data:image/png;base64,{base64.b64encode(content.encode()).decode()}"


@pytest.mark.parametrize(
    "named",
    [
        "PLACE/secret/secret.png",
        "PLACE/secret/no-such-file",
        "PLACE/a/../secret/secret.png",
        "PLACE/a/out.png",
        "PLACE/a/outside/secret.png",
        "../secret/secret.png",
        "file://PLACE/secret/secret.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "PLACE",
        "~/.ssh/id_rsa",
    ],
)
async def test_files_outside(place: Path, folders: Folders, named: str) -> None:
    """They are refused alike, whether they are there or not; the hint says what may be read."""
    with pytest.raises(ArgumentInvalid, match=r"is outside of .* and may not be read") as caught:
        await folders.image(named.replace("PLACE", str(place)))
    assert str(place / "b") in str(caught.value.hint)


@pytest.mark.parametrize(
    ("named", "text"),
    [
        ("nope.png", "There is no file 'nope.png'"),
        ("deep", "There is no file"),
        ("fifo.png", "There is no file"),
        ("empty.png", "is empty"),
        ("loop.png", "loop.png"),
        ("a\0b", "can't be found"),
        ("http://127.0.0.1/a.png", "nothing is fetched"),
        ("HTTPS://example.org/a.png", "nothing is fetched"),
        ("", "image is missing"),
        (5, "image is missing"),
        (None, "image is missing"),
    ],
)
async def test_what_is_no_image(folders: Folders, named: object, text: str) -> None:
    """Each with what is wrong."""
    with pytest.raises(ArgumentInvalid, match=text):
        await folders.image(named)


async def test_without_folders() -> None:
    """Data URLs alone are taken, as they are."""
    assert await Folders().image("data:image/png;base64,AAAA") == "data:image/png;base64,AAAA"
    for named in ("/etc/passwd", "photo.png"):
        with pytest.raises(ArgumentInvalid, match="is a file, and may not be read") as caught:
            await Folders().image(named)
        assert "data: URL" in str(caught.value.hint)


def test_a_folder_that_is_none(place: Path) -> None:
    """It is the command line that is wrong."""
    for name in ("nope", "a/a.png"):
        with pytest.raises(UsageError, match="is not a folder"):
            Folders.of([place / name])
