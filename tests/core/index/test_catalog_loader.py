"""Which catalog of builds counts: one's own, checked; the bundled one on any doubt, which says why."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from moondream_station.core.builds.catalog import Catalog, load_catalog
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.index.catalog_loader import open_catalog
from support.catalogs import catalog_text
from support.index_server import IndexServer
from support.index_traffic import Resource

pytestmark = pytest.mark.anyio

NEWER = catalog_text(('reviewed = "2026-11-22"', 'reviewed = "2027-01-31"'))


@dataclass
class Desk:
    """A home, and a place for files."""

    folder: Path

    @property
    def home(self) -> Home:
        """The home."""
        return Home(root=self.folder / "home")

    def write(self, text: str | bytes, name: str = "catalog.toml") -> Path:
        """A file with a catalog."""
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    async def open(self, named: str | Path, *, is_offline: bool = False, keep: bool = True) -> Catalog:
        """The catalog that counts."""
        settings = Settings(catalog=str(named))
        environ = {"PATH": os.defpath, "HOME": str(self.folder), "PIP_CERT": str(self.folder / "ca.pem")}
        return await open_catalog(settings, home=self.home, environ=environ, is_offline=is_offline, keep=keep)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk."""
    return Desk(tmp_path)


def digest_of(text: str) -> str:
    """What a URL names a catalog by."""
    return hashlib.sha256(text.encode()).hexdigest()


async def test_a_file_replaces_the_bundled_catalog(desk: Desk) -> None:
    """By path, by `file:` URL, with a digest and without."""
    path = desk.write(NEWER)
    for named in (path, path.as_uri(), f"{path}#sha256={digest_of(NEWER).upper()}"):
        catalog = await desk.open(named)
        assert (str(catalog.reviewed), catalog.doubt) == ("2027-01-31", None)
    assert (await desk.open("")) is load_catalog()


DOUBTS = {
    "unknown table": (NEWER + "\n[more]\nx = 1\n", "more is unknown"),
    "unknown key": (
        catalog_text(("cuda_major = 11", "cuda_major = 11\nmore = 1")),
        "drivers.0.more is unknown",
    ),
    "no version": (catalog_text(('torch = "2.15.0"', 'torch = "two"')), "it is not a version"),
    "no build": (catalog_text(('build = "cu132"', 'build = "cu13x"')), "it is not a build's tag"),
    "no evidence": (catalog_text(('linux_x86_64 = "matrix"', 'linux_x86_64 = "sure"')), "'sure'"),
    "no gfx": (catalog_text(('"gfx908"', '"geforce"')), "'geforce'"),
    "no date": (catalog_text(("2026-11-22", "last week")), "reviewed is 'last week'"),
    "no tags": (
        catalog_text((', macos_arm64 = "macosx_14_0_arm64" }', " }")),
        "nothing for macos_arm64",
    ),
    "control characters": (
        catalog_text(('reason = "its wheel', 'reason = "\\u001b[2Jits wheel')),
        "it has control characters",
    ),
    "address with a password": (
        catalog_text(("https://download", "https://me:secret@download")),
        "index is 'https://me",
    ),
    "newer format": (catalog_text(("station/catalog/1", "station/catalog/2")), "its format is"),
    "no TOML": ("<html>", "it is not TOML"),
    "deep": ("x = " + "[" * 100_000, "it is not TOML"),
    "one key of many parts": ("x = 1\n" + "a." * 50_000 + "a = 1", "has more than 64 dots"),
    "many quoted parts": ('"\\"".' * 50_000 + "a = 1", "has more than 64 dots"),
    "no table": (catalog_text(("[gfx_overrides]", "[gfx]")), "gfx_overrides is missing"),
    "no text": (b"\xff\xfe\x00", "it is not TOML"),
    "nothing": ("", "it has no format"),
    "too large": (b"#" * (2 << 20), "it is larger than"),
}


@pytest.mark.parametrize(("content", "said"), DOUBTS.values(), ids=DOUBTS)
async def test_one_that_is_no_catalog_is_not_used(desk: Desk, content: str | bytes, said: str) -> None:
    """Whatever is wrong with it, the bundled one counts, and says what."""
    catalog = await desk.open(desk.write(content))
    assert catalog.rows == load_catalog().rows
    assert said in (catalog.doubt or "")
    assert "The bundled one is used instead." in (catalog.doubt or "")
    assert load_catalog().doubt is None


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("/nowhere/catalog.toml", "No such file"),
        ("/dev/null", "it is not a file"),
        ("/dev/null#sha256=00", "what follows #sha256= must be the 64"),
        ("file://elsewhere/catalog.toml", "it is on elsewhere"),
        ("http://127.0.0.1:9/c.toml#sha256=" + "0" * 64, "it must be a file or an https: URL"),
        ("ftp://127.0.0.1:9/c.toml#sha256=" + "0" * 64, "it must be a file or an https: URL"),
        ("https://127.0.0.1:9/c.toml", "must end in #sha256="),
        ("https://127.0.0.1:9/c.toml#sha256=" + "0" * 63, "must end in #sha256="),
        ("https://127.0.0.1:9/c.toml#sha256=" + "0" * 64, "it could not be fetched"),
    ],
)
async def test_one_that_is_not_there_is_not_used(desk: Desk, named: str, said: str) -> None:
    """Nor one whose address does not say what it must hold."""
    (desk.folder / "ca.pem").write_text(trustme.CA().cert_pem.bytes().decode())
    assert said in ((await desk.open(named)).doubt or "")


async def test_a_file_of_another_digest_is_not_used(desk: Desk) -> None:
    """A file that was changed since is another catalog."""
    catalog = await desk.open(f"{desk.write(NEWER)}#sha256={'0' * 64}")
    assert f"its SHA-256 is {digest_of(NEWER)}" in (catalog.doubt or "")


@pytest.fixture
def server(desk: Desk) -> Iterator[IndexServer]:
    """An https server whose every page is the newer catalog."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(desk.folder / "ca.pem"))
    page = Resource(content=NEWER.encode(), content_type="text/plain")
    serving = IndexServer(lambda path, _: page if path == "/c.toml" else 404, tls=context)
    serving.start()
    yield serving
    serving.stop()


async def test_one_from_the_network_is_fetched_once(desk: Desk, server: IndexServer) -> None:
    """Its digest says what it is, so the copy in the home is as good, also without a network."""
    named = f"{server.address}/c.toml#sha256={digest_of(NEWER)}"
    assert "no network is to be used" in ((await desk.open(named, is_offline=True)).doubt or "")
    assert str((await desk.open(named, keep=False)).reviewed) == "2027-01-31"
    assert not desk.home.root.exists()
    for is_offline in (False, False, True):
        assert str((await desk.open(named, is_offline=is_offline)).reviewed) == "2027-01-31"
    assert len(server.requests) == 2
    (copy,) = desk.home.cache.glob("catalogs/*")
    copy.write_text("damaged")
    assert str((await desk.open(named)).reviewed) == "2027-01-31"
    assert len(server.requests) == 3


async def test_one_from_the_network_must_be_what_was_asked_for(desk: Desk, server: IndexServer) -> None:
    """Another content is not used, and not kept."""
    catalog = await desk.open(f"{server.address}/c.toml#sha256={'0' * 64}")
    assert "not the one that was given" in (catalog.doubt or "")
    assert not desk.home.root.exists()
    missing = await desk.open(f"{server.address}/none.toml#sha256={'0' * 64}")
    assert "its server answered 404" in (missing.doubt or "")
