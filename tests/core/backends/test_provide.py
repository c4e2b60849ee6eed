"""Backends come into the home from folders, files and the network, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from moondream_station.core.backends.code_store import RECORD, BackendCode, read_backend, unnamed_code
from moondream_station.core.backends.manifest import BackendInfo, Manifest, parse_manifest
from moondream_station.core.backends.manifest_loader import read_built_in
from moondream_station.core.backends.provide import backend_requirements, locate, provide_backend
from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.environments.store import sweep
from moondream_station.core.facts.errors import ArchiveUnsafe, BackendUnavailable, HashMismatch, HomeUnusable
from moondream_station.core.home.layout import Home
from support.backends import unconnected
from support.index_server import IndexServer
from support.index_traffic import Fault, Resource

pytestmark = pytest.mark.anyio

FILES = {"backend.py": "def caption(**_):\n    return {}\n", "requirements.txt": "torch\n"}


def tar_gz(files: dict[str, str], *, top: str = "moondream-backend/") -> bytes:
    """An archive with one folder at its top, as releases have it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{top}{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    return buffer.getvalue()


def tree_of(folder: Path) -> dict[str, str]:
    """What is in every file of a folder."""
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


class Setting:
    """A home, a manifest with one backend, and a web server."""

    def __init__(self, tmp_path: Path, server: IndexServer, content: dict[str, bytes]) -> None:
        self.folder = tmp_path
        self.home = Home(tmp_path / "home")
        self.server = server
        self.content = content

    async def provide(self, download_url: str, *, url: str | None = None, **more: Any) -> BackendCode:
        """Provide the backend that a manifest names so."""
        manifest = self.manifest(download_url, url=url, **more)
        async with httpx2.AsyncClient() as client:

            async def connect() -> httpx2.AsyncClient:
                return client

            return await provide_backend(
                "test", manifest.backends["test"], manifest=manifest, home=self.home, connect=connect
            )

    def manifest(self, download_url: str, *, url: str | None = None, **more: Any) -> Manifest:
        """A manifest with that backend."""
        info = {
            "name": "Test",
            "download_url": download_url,
            "entry_module": "backend",
            "functions": ["caption", "_private", "init_backend"],
            **more,
        }
        text = json.dumps({"version": "1", "models": {}, "backends": {"test": info}})
        folder = self.folder if url is None else None
        return parse_manifest(text, origin="manifest.json", folder=folder, url=url)

    async def requirements(self, download_url: str, **more: Any) -> Requirements:
        """What the backend that a manifest names so requires."""
        manifest = self.manifest(download_url, **more)
        async with httpx2.AsyncClient() as client:
            return await backend_requirements(
                "test", manifest.backends["test"], manifest=manifest, home=self.home, client=client
            )

    def write(self, files: dict[str, str], name: str = "source") -> Path:
        """Write a backend's folder beside the manifest."""
        folder = self.folder / name
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content)
        return folder

    def left_over(self) -> set[str]:
        """What lies in the backend's place in the home."""
        place = self.home.backends / "test"
        return {path.name for path in place.iterdir()} if place.exists() else set()


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    """Everything a test needs, gone afterwards."""
    content: dict[str, bytes] = {}

    def resolve(path: str, _: str) -> Resource | int:
        return Resource(content=content[path], content_type="application/gzip") if path in content else 404

    server = IndexServer(resolve).start()
    yield Setting(tmp_path, server, content)
    server.stop()


async def test_the_built_in_self_test_is_copied_into_the_home(setting: Setting) -> None:
    """The package's own backend goes the way of every other; as it is here, no client is opened."""
    manifest, info = read_built_in(), read_built_in().backends["selftest"]
    code = await provide_backend("selftest", info, manifest=manifest, home=setting.home, connect=unconnected)
    assert code.folder.parent == setting.home.backends / "selftest" / "1.0.0"
    assert read_backend(setting.home, code.place) == code
    assert code.requirements_text.split() == ["torch", "Pillow", "numpy"]
    assert code.functions == ("caption", "query", "detect", "point")


async def test_a_folder_is_taken_relative_to_the_manifest_and_anew_when_it_changed(setting: Setting) -> None:
    """Unchanged it stays as it is; what was compiled meanwhile does not count."""
    source = setting.write(FILES)
    first = await setting.provide("source")
    assert first.requirements_text == "torch\n"
    assert first.functions == ("caption",)
    compiled = first.folder / "__pycache__"
    compiled.mkdir()
    assert await setting.provide("source") == first
    assert compiled.exists()
    (source / "backend.py").write_text("changed = True\n")
    (source / "requirements.txt").unlink()
    before = tree_of(first.folder)
    second = await setting.provide(str(source))
    assert second.digest != first.digest
    assert (second.folder / "backend.py").read_text() == "changed = True\n"
    assert second.requirements_text == ""
    assert setting.left_over() == {"1.0.0"}
    assert tree_of(first.folder) == before
    assert read_backend(setting.home, first.place) == first


async def test_other_functions_are_other_code(setting: Setting) -> None:
    """A switch that fails must not change what the active model's next worker serves, from the same files."""
    setting.write(FILES)
    first = await setting.provide("source")
    second = await setting.provide("source", functions=["caption", "query"])
    assert (first.functions, second.functions) == (("caption",), ("caption", "query"))
    assert read_backend(setting.home, first.place) == first
    assert await setting.provide("source") == first


async def test_one_code_can_have_several_lists_of_requirements(setting: Setting) -> None:
    """Each is code of its own, found again as it is; a list that is not there is named."""
    setting.write({**FILES, "new.txt": "torch>=2.10\n"})
    old = await setting.provide("source")
    new = await setting.provide("source", requirements="new.txt")
    assert (old.requirements_text, new.requirements_text) == ("torch\n", "torch>=2.10\n")
    assert old.place != new.place
    assert read_backend(setting.home, new.place) == new
    assert read_backend(setting.home, old.place) == old
    assert await setting.provide("source", requirements="new.txt") == new
    assert "requirements" not in json.loads((old.folder / RECORD).read_text())
    asked = await setting.requirements("source", requirements="new.txt")
    assert asked.texts == ("torch>=2.10",)
    with pytest.raises(BackendUnavailable, match=r"has no other\.txt"):
        await setting.provide("source", requirements="other.txt")


async def test_the_same_code_from_elsewhere_keeps_its_place(setting: Setting) -> None:
    """Nothing is moved where it is whole: a worker may run there."""
    setting.write(FILES)
    first = await setting.provide("source")
    inode = first.folder.stat().st_ino
    data = setting.content["/backend.tar.gz"] = tar_gz(FILES)
    url = f"{setting.server.address}/backend.tar.gz"
    assert await setting.provide(url) == first
    assert first.folder.stat().st_ino == inode
    assert await setting.provide(url, size=len(data)) == first
    assert len(setting.server.requests) == 1


@pytest.mark.parametrize("form", ["relative", "absolute", "url"])
async def test_an_archive_on_disk_is_unpacked_without_its_top_folder(setting: Setting, form: str) -> None:
    """By path or `file:` URL; a changed one is taken anew."""
    path = setting.folder / "archive.bin"
    path.write_bytes(tar_gz(FILES))
    named = {"relative": "archive.bin", "absolute": str(path), "url": path.as_uri()}[form]
    code = await setting.provide(named)
    assert sorted(item.name for item in code.folder.iterdir()) == sorted([*FILES, RECORD])
    path.write_bytes(tar_gz({**FILES, "more.py": ""}))
    assert (await setting.provide(named)).folder.joinpath("more.py").exists()


async def test_an_archive_from_the_network_is_fetched_once_a_version(setting: Setting) -> None:
    """Its digest is held against the manifest's; another version or digest is fetched again."""
    data = setting.content["/backend.tar.gz"] = tar_gz(FILES)
    digest = hashlib.sha256(data).hexdigest()
    url = f"{setting.server.address}/backend.tar.gz"
    first = await setting.provide(url, sha256=digest.upper(), size=len(data))
    assert await setting.provide(url, sha256=digest.upper(), size=len(data)) == first
    assert len(setting.server.requests) == 1
    setting.server.clear_requests()
    await setting.provide(url, version="2.0")
    assert len(setting.server.requests) == 1
    assert setting.left_over() == {"1.0.0", "2.0"}


async def test_a_location_is_relative_to_a_manifest_from_the_network(setting: Setting) -> None:
    """As links on a page are."""
    setting.content["/files/backend.tar.gz"] = tar_gz(FILES, top="")
    code = await setting.provide("../files/backend.tar.gz", url=f"{setting.server.address}/a/manifest.json")
    assert code.digest


@pytest.mark.parametrize("named", ["file:///etc", "ftp://example.org/x.tar.gz"])
async def test_a_manifest_from_the_network_names_nothing_on_this_computer(
    setting: Setting, named: str
) -> None:
    """It may name code, not read files."""
    with pytest.raises(BackendUnavailable, match="is not available"):
        await setting.provide(named, url="https://example.org/manifest.json")


async def test_what_is_not_the_manifests_archive_is_refused(setting: Setting) -> None:
    """Another digest, too little, too much, or an error page; the backend that was there stays."""
    setting.content["/backend.tar.gz"] = tar_gz(FILES)
    url = f"{setting.server.address}/backend.tar.gz"
    kept = await setting.provide(url)
    with pytest.raises(HashMismatch, match="the manifest says 0000"):
        await setting.provide(url, sha256="0" * 64)
    with pytest.raises(BackendUnavailable, match="the manifest says 100000"):
        await setting.provide(url, size=100_000, sha256="0" * 64)
    with pytest.raises(BackendUnavailable, match="more than 10 bytes"):
        await setting.provide(url, size=10, sha256="0" * 64)
    setting.server.faults.append(Fault(match="*", status=404, times=1))
    with pytest.raises(BackendUnavailable, match="answered 404"):
        await setting.provide(url, sha256="0" * 64)
    assert setting.left_over() == {"1.0.0"}
    assert read_backend(setting.home, kept.place) == kept


async def test_a_broken_download_leaves_nothing(setting: Setting) -> None:
    """The next run begins anew, and says what broke."""
    setting.content["/backend.tar.gz"] = tar_gz(FILES)
    setting.server.faults.append(Fault(match="*", close_after_bytes=20))
    with pytest.raises(BackendUnavailable, match="could not be fetched"):
        await setting.provide(f"{setting.server.address}/backend.tar.gz")
    assert setting.left_over() == set()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"other.py": ""}, r"has no backend\.py at its top"),
        ({"backend.py": "", "requirements.txt": ""}, ""),
    ],
)
async def test_a_folder_must_hold_the_entry_module(
    setting: Setting, files: dict[str, str], words: str
) -> None:
    """What the manifest names has to be there; an empty requirements.txt is fine."""
    setting.write(files)
    if not words:
        assert (await setting.provide("source")).requirements_text == ""
        return
    with pytest.raises(BackendUnavailable, match=words):
        await setting.provide("source")
    assert setting.left_over() == set()


async def test_what_is_unsafe_or_not_there_leaves_nothing(setting: Setting) -> None:
    """Neither a half copy nor a temporary folder."""
    source = setting.write(FILES)
    (source / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveUnsafe):
        await setting.provide("source")
    with pytest.raises(BackendUnavailable, match="absent does not exist"):
        await setting.provide("absent")
    (source / "link").unlink()
    (source / "requirements.txt").write_bytes(b"torch\xff")
    with pytest.raises(BackendUnavailable, match="is not UTF-8"):
        await setting.provide("source")
    assert setting.left_over() == set()


async def test_what_was_changed_in_the_home_is_not_taken_for_the_backend(setting: Setting) -> None:
    """Damage is noticed, and providing it again repairs it."""
    setting.write(FILES)
    code = await setting.provide("source")
    assert read_backend(setting.home, code.place) == code
    (code.folder / "backend.py").write_text("damaged")
    assert read_backend(setting.home, code.place) is None
    assert await setting.provide("source") == code
    (code.folder / RECORD).write_text("{")
    assert read_backend(setting.home, code.place) is None


async def test_a_file_that_can_not_be_read_is_damage(setting: Setting) -> None:
    """It is repaired as any other, and no bare OSError comes out."""
    setting.content["/backend.tar.gz"] = tar_gz(FILES)
    url = f"{setting.server.address}/backend.tar.gz"
    code = await setting.provide(url)
    (code.folder / "gone.py").symlink_to("nowhere")
    assert read_backend(setting.home, code.place) is None
    assert await setting.provide(url) == code


@pytest.mark.parametrize("named", ["source", "/backend.tar.gz"])
async def test_a_home_that_can_not_take_code_is_named(setting: Setting, named: str) -> None:
    """A file where the backend's folder should be: an error of the station's own says so."""
    setting.write(FILES)
    setting.content["/backend.tar.gz"] = tar_gz(FILES)
    setting.home.backends.mkdir(parents=True)
    (setting.home.backends / "test").write_text("")
    with pytest.raises(HomeUnusable, match="backends/test"):
        await setting.provide(named if named == "source" else setting.server.address + named)


async def test_a_taking_that_was_interrupted_keeps_the_old_one(setting: Setting) -> None:
    """Other content is taken beside it: it is found meanwhile, and sweeping leaves it."""
    setting.write(FILES)
    code = await setting.provide("source")
    (setting.home.backends / "test" / ".new-12345678" / "copied").mkdir(parents=True)
    (setting.home.backends / "test" / "1.0.0" / ".trash-12345678").mkdir()
    assert read_backend(setting.home, code.place) == code
    await sweep(setting.home)
    assert setting.left_over() == {"1.0.0"}
    assert [path.name for path in code.folder.parent.iterdir()] == [code.folder.name]
    assert read_backend(setting.home, code.place) == code


async def test_code_of_an_older_station_stays_whole_beside_newer_code(setting: Setting) -> None:
    """It lies in the version's folder itself, is used as long as it is the same, and not replaced."""
    source = setting.write(FILES)
    new = await setting.provide("source")
    version = new.folder.parent
    for path in list(new.folder.iterdir()):
        path.rename(version / path.name)
    new.folder.rmdir()
    old = await setting.provide("source")
    assert (old.folder, old.place) == (version, "test/1.0.0")
    (source / "backend.py").write_text("changed = True\n")
    changed = await setting.provide("source")
    assert changed.folder.parent == version
    assert read_backend(setting.home, old.place) == old
    assert list(unnamed_code(setting.home, {old.place})) == [changed.folder]
    assert set(unnamed_code(setting.home, {changed.place})) == {version / name for name in [*FILES, RECORD]}
    assert list(unnamed_code(setting.home, {old.place, changed.place})) == []
    assert list(unnamed_code(setting.home, set())) == [version]


async def test_requirements_are_read_without_changing_the_home(setting: Setting) -> None:
    """From a folder, an archive on disk, and one on the network: also where nothing of it is in the home."""
    setting.write(FILES)
    (setting.folder / "archive.bin").write_bytes(tar_gz(FILES))
    setting.content["/backend.tar.gz"] = tar_gz(FILES)
    for named in ("source", "archive.bin", f"{setting.server.address}/backend.tar.gz"):
        assert (await setting.requirements(named)).texts == ("torch",)
    assert not setting.home.root.exists()


def test_a_location_is_shown_without_its_secrets() -> None:
    """Messages name the place, not the password."""
    info = BackendInfo(
        name="", download_url="https://user:pass@example.org/b.zip?key=1", entry_module="b", functions=()
    )
    manifest = Manifest(version="1", models={}, backends={"b": info})
    assert locate("b", info, manifest).shown == "https://example.org/b.zip"
