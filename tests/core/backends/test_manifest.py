"""Manifests in Moondream Station 0.1's format, and what is said of those that are none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.backends.manifest import Manifest, parse_manifest
from moondream_station.core.backends.manifest_loader import fetch_manifest, read_built_in, read_manifest
from moondream_station.core.facts.errors import ManifestInvalid, UnknownModel
from moondream_station.core.facts.version import VERSION
from moondream_station.core.home.layout import Home
from support.index_server import IndexServer
from support.index_traffic import Fault, Resource

OLD: dict[str, Any] = {
    "version": "1.0.6",
    "models": {
        "moondream-2": {
            "name": "Moondream 2",
            "description": "Vision-language model",
            "backend": "Moondream_Backend",
            "version": "1.0.0",
            "args": {"model_id": "vikhyatk/moondream2"},
            "is_default": True,
            "supported_os": ["linux", "windows"],
            "system_requirements": {"ram": "8GB"},
            "size_hint": "another key",
        },
        "mlx": {"name": "MLX", "description": "", "backend": "gone", "is_default": True},
    },
    "backends": {
        "Moondream_Backend": {
            "name": "Moondream",
            "download_url": "https://example.org/backend.tar.gz",
            "entry_module": "backend",
            "functions": ["caption", "query", "detect", "point", "init_backend", "_private"],
            "min_version": "0.1.5",
        }
    },
    "messages": {"welcome": "hello"},
    "moondream_station_info": {"latest_version": "0.1.9"},
    "version_messages": [{"version": "<0.1.2", "severity": "warning", "message": "old"}],
    "analytics": {"key": "phc"},
    "manual_url": "https://example.org/manual",
}


def parsed(data: Any) -> Manifest:
    """A manifest out of an object."""
    return parse_manifest(json.dumps(data), origin="test.json")


def changed(path: str, value: Any) -> dict[str, Any]:
    """The old manifest with one value changed, by a dotted path."""
    data: dict[str, Any] = json.loads(json.dumps(OLD))
    *above, last = path.split("/")
    inner = data
    for key in above:
        inner = inner[key]
    inner[last] = value
    return data


def test_a_manifest_of_0_1_is_read_as_it_is() -> None:
    """Every key of 0.1 is known or accepted; what was not there has 0.1's default."""
    manifest = parsed(OLD)
    model = manifest.model("moondream-2")
    backend = manifest.backends[model.backend]
    assert model.args == {"model_id": "vikhyatk/moondream2"}
    assert not model.requires_gpu
    assert backend.version == "1.0.0"
    assert backend.sha256 is None
    assert backend.served_functions == ("caption", "query", "detect", "point")
    assert manifest.messages == {"welcome": "hello"}


def test_support_is_decided_by_system_station_and_backend() -> None:
    """The reason names what is wanted and what is there."""
    manifest = parsed(OLD)
    assert manifest.unsupported_reason("moondream-2", system="Linux", station_version="0.2.0") is None
    assert (
        manifest.unsupported_reason("moondream-2", system="Darwin")
        == "it runs on linux, windows, not on darwin"
    )
    assert "needs Moondream Station 0.1.5 or newer, this is 0.1.4" in str(
        manifest.unsupported_reason("moondream-2", system="Windows", station_version="0.1.4")
    )
    assert manifest.unsupported_reason("mlx") == "the manifest has no backend 'gone'"


@pytest.mark.parametrize(
    ("machine", "is_supported"),
    [("x86_64", True), ("AMD64", True), ("arm64", False), ("aarch64", False), ("riscv64", False)],
)
def test_an_architecture_has_two_names(machine: str, is_supported: bool) -> None:  # noqa: FBT001  a table
    """What one system calls it, the manifest may call otherwise."""
    for named in ("x86_64", "amd64"):
        manifest = parsed(changed("models/moondream-2/supported_arch", [named]))
        reason = manifest.unsupported_reason("moondream-2", system="Linux", machine=machine)
        assert (reason is None) == is_supported
    apple = parsed(changed("models/moondream-2/supported_arch", ["arm64"]))
    assert apple.unsupported_reason("moondream-2", system="Linux", machine="aarch64") is None
    reason = apple.unsupported_reason("moondream-2", system="Linux", machine="x86_64")
    assert reason == "it runs on arm64, not on x86_64"


def test_messages_are_for_the_versions_that_they_name() -> None:
    """A specifier says which; what is none is left out, as 0.1 could not have read it either."""
    manifest = parsed(OLD)
    assert [message.message for message in manifest.messages_for("0.1.1")] == ["old"]
    assert list(manifest.messages_for("0.1.2")) == []
    damaged: Any
    for damaged in (None, {}, "text", [3], [{"version": "soon", "message": "m"}], [{"version": "<9"}]):
        assert list(parsed(changed("version_messages", damaged)).messages_for("0.1.1")) == []


@pytest.mark.parametrize(
    ("info", "latest"),
    [
        ({"latest_version": "99.0"}, "99.0"),
        ({"latest_version": "0.1.0"}, None),
        ({"latest_version": VERSION}, None),
        ({"latest_version": "soon"}, None),
        ({"latest_version": 3}, None),
        ({}, None),
        ("text", None),
    ],
)
def test_a_newer_station_is_named(info: Any, latest: str | None) -> None:
    """Only where it is newer than this one."""
    assert parsed(changed("moondream_station_info", info)).latest_version == latest


def test_the_default_is_the_first_that_is_supported() -> None:
    """As 0.1 chose it."""
    assert parsed(OLD).default_model in {"moondream-2", None}
    assert parsed(changed("models/moondream-2/supported_os", None)).default_model == "moondream-2"
    assert parsed(changed("models/moondream-2/supported_os", ["plan9"])).default_model is None


def test_an_unknown_model_is_named_with_those_that_are_known() -> None:
    """The hint lists the models."""
    with pytest.raises(UnknownModel) as caught:
        parsed(OLD).model("moondream-9")
    assert caught.value.hint == "Available models: moondream-2, mlx."


def test_a_model_without_its_backend_is_not_supported() -> None:
    """The reason names the backend that the manifest does not have."""
    reason = parsed(OLD).unsupported_reason("mlx", system="darwin")
    assert reason == "the manifest has no backend 'gone'"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("models/moondream-2/name", None, "models.moondream-2.name"),
        ("models/moondream-2/args", [], "models.moondream-2.args"),
        ("backends/Moondream_Backend/functions", ["a-b"], "backends.Moondream_Backend.functions.0"),
        ("backends/Moondream_Backend/entry_module", "../evil", "entry_module"),
        ("backends/Moondream_Backend/version", "../../..", "version"),
        ("backends/Moondream_Backend/min_version", "soon", "not a version of Moondream Station"),
        ("backends/Moondream_Backend/sha256", "abc", "sha256"),
        ("backends/moondream_backend", OLD["backends"]["Moondream_Backend"], "upper and lower case"),
        ("models/..", OLD["models"]["mlx"], "letters, digits"),
        ("models/con", OLD["models"]["mlx"], "reserved name"),
        ("models/a b", OLD["models"]["mlx"], "letters, digits"),
        ("models", [], "models"),
        ("models/mlx/supported_arch", "arm64", "models.mlx.supported_arch"),
        ("models/mlx/needs", {"weights_bytes": -1}, "models.mlx.needs.weights_bytes"),
        ("models/mlx/needs", {"memory_bytes": {"float32": "8 GB"}}, "models.mlx.needs.memory_bytes.float32"),
        ("models/mlx/needs", {"compute_capability": "sm_80"}, "models.mlx.needs.compute_capability"),
        ("models/mlx/keep_alive", -2, "models.mlx.keep_alive"),
        ("backends/Moondream_Backend/parallel", "both", "'threads' or 'processes'"),
        ("models/mlx/needs", {"glibc": "glibc 2.28"}, "models.mlx.needs.glibc"),
        ("models/mlx/notice", {"text": ""}, "models.mlx.notice.text"),
        ("models/mlx/notice", "text", "models.mlx.notice"),
        ("version", 3, "version"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(path: str, value: Any, words: str) -> None:
    """The message says where in which manifest what is wrong."""
    with pytest.raises(ManifestInvalid) as caught:
        parsed(changed(path, value))
    assert caught.value.message.startswith("test.json is not a valid manifest: ")
    assert words in caught.value.message


@given(st.binary(max_size=300) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
def test_whatever_is_no_manifest_says_so(content: bytes | str) -> None:
    """No other exception comes out of foreign bytes."""
    with pytest.raises(ManifestInvalid):
        parse_manifest(content, origin="test")


def test_the_built_in_manifest_names_its_models() -> None:
    """All are supported, the self-test is the default; a repository whose code runs is pinned."""
    manifest = read_built_in()
    assert list(manifest.models) == ["selftest", "moondream-2", "moondream-3-preview"]
    assert manifest.default_model == "selftest"
    assert manifest.unsupported_reason("selftest") is None
    for model in ("moondream-2", "moondream-3-preview"):
        assert manifest.unsupported_reason(model) is None
        assert re.fullmatch("[0-9a-f]{40}", manifest.model(model).args["revision"])
    assert all("://" not in backend.download_url for backend in manifest.backends.values())


def test_moondream_2_and_3_have_requirements_of_their_own() -> None:
    """Their code is written for different versions of transformers."""
    manifest = read_built_in()
    wanted = {}
    for model in ("moondream-2", "moondream-3-preview"):
        info = manifest.backends[manifest.model(model).backend]
        path = Path(str(manifest.provenance.folder)) / info.download_url / info.requirements
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        wanted[model] = next(line for line in lines if line.startswith("transformers"))
    assert wanted == {
        "moondream-2": "transformers>=4.56.1,<5",
        "moondream-3-preview": "transformers~=5.13.0",
    }
    large = manifest.model("moondream-3-preview")
    assert (large.requires_gpu, large.args["revision"][:8]) == (True, "5112966d")


def test_a_backend_may_be_allowed_more_by_name() -> None:
    """Packages are known by their normalized names; nothing is allowed where nothing is said."""
    manifest = parsed(
        changed("backends/Moondream_Backend/allow", {"builds": ["Old_Package"], "files": ["more.txt"]})
    )
    allow = manifest.backends["Moondream_Backend"].allow
    assert (allow.builds, allow.urls, allow.files) == (("old-package",), (), ("more.txt",))
    assert parsed(OLD).backends["Moondream_Backend"].allow.builds == ()


@pytest.mark.parametrize(
    "allow", [{"builds": ["a b"]}, {"urls": [""]}, {"files": ["../more.txt"]}, {"files": ["a/b.txt"]}, []]
)
def test_what_is_allowed_must_be_names(allow: object) -> None:
    """A package's name, or a file's without a folder."""
    with pytest.raises(ManifestInvalid, match="allow"):
        parsed(changed("backends/Moondream_Backend/allow", allow))


def test_the_documented_example_is_a_manifest() -> None:
    """What docs/reference/manifest.md shows can be used."""
    text = Path(__file__).parents[3].joinpath("docs/reference/manifest.md").read_text()
    example = text.partition("```json\n")[2].partition("```")[0]
    assert parse_manifest(example, origin="manifest.md").default_model in {"my-model", None}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that is nobody's."""
    return Home(tmp_path / "home")


@pytest.fixture
def server() -> Iterator[tuple[IndexServer, dict[str, bytes]]]:
    """A web server, and what it serves."""
    content: dict[str, bytes] = {"/manifest.json": json.dumps(OLD).encode()}

    def resolve(path: str, _: str) -> Resource | int:
        return Resource(content=content[path], content_type="application/json") if path in content else 404

    running = IndexServer(resolve).start()
    yield running, content
    running.stop()


@pytest.mark.anyio
async def test_a_file_is_read_by_path_and_by_url(tmp_path: Path) -> None:
    """Relative locations are relative to its folder; a byte order mark is no part of it."""
    path = tmp_path / "manifest.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(OLD).encode())
    for source in (path, str(path), path.as_uri()):
        manifest = await read_manifest(source)
        assert manifest.provenance.folder == tmp_path
        assert manifest.provenance.origin == str(path)
        assert manifest.provenance.url is None


@pytest.mark.anyio
async def test_a_file_that_is_not_there_or_too_large_says_so(tmp_path: Path) -> None:
    """Neither is read on."""
    large = tmp_path / "large.json"
    large.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(ManifestInvalid, match=r"absent\.json can't be read: No such file"):
        await read_manifest(tmp_path / "absent.json")
    with pytest.raises(ManifestInvalid, match="larger than 1048576 bytes"):
        await read_manifest(large)
    with pytest.raises(ManifestInvalid, match=r"on example\.org, not on this computer"):
        await read_manifest("file://example.org/manifest.json")


@pytest.mark.anyio
async def test_one_from_the_network_is_kept_for_when_that_fails(
    home: Home, server: tuple[IndexServer, dict[str, bytes]]
) -> None:
    """The last good copy serves with a warning, whether nothing comes or something else."""
    running, content = server
    url = f"{running.address}/manifest.json"
    async with httpx2.AsyncClient() as client:
        first = await fetch_manifest(url, home=home, client=client)
        assert first.provenance.warning is None
        assert first.provenance.url == url
        content["/manifest.json"] = b"<html>please log in</html>"
        second = await fetch_manifest(url, home=home, client=client)
        assert second.models == first.models
        assert "is not a valid manifest" in str(second.provenance.warning)
        running.faults.append(Fault(match="*", status=503))
        third = await fetch_manifest(url, home=home, client=client)
        assert "answered 503" in str(third.provenance.warning)
        for copy in home.cache.glob("manifests/*"):
            copy.write_bytes(b"{torn")
        with pytest.raises(ManifestInvalid, match="answered 503"):  # and not of the copy, which nobody set
            await fetch_manifest(url, home=home, client=client)


@pytest.mark.anyio
async def test_one_from_the_network_that_was_never_good_is_an_error(
    home: Home, server: tuple[IndexServer, dict[str, bytes]]
) -> None:
    """There is nothing to fall back on; credentials in the URL are not shown."""
    running, content = server
    content["/endless.json"] = b" " * ((1 << 20) + 1)
    secret = running.address.replace("http://", "http://user:secret@")
    async with httpx2.AsyncClient() as client:
        for path, words in (("absent.json", "answered 404"), ("endless.json", "larger than")):
            with pytest.raises(ManifestInvalid, match=words) as caught:
                await fetch_manifest(f"{secret}/{path}?token=secret", home=home, client=client)
            assert "secret" not in caught.value.message
