"""JSON and TOML files of a user's, as editors and shells write them."""

from __future__ import annotations

import codecs
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moondream_station.core.backends.manifest_loader import read_built_in, read_manifest
from moondream_station.core.facts.errors import ResolutionConflict, SettingsInvalid
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import load_settings
from moondream_station.core.machine.record import load_record
from moondream_station.core.packaging.packaging_config import load_packaging_config
from moondream_station.core.resolve.pylock import read_stored_pylock
from support.machines import cpu_only

pytestmark = pytest.mark.anyio

_INPUTS = Path(__file__).parent / "inputs"
_AS_WRITTEN: dict[str, Callable[[str], bytes]] = {
    "notepad": lambda text: codecs.BOM_UTF8 + text.encode(),
    "powershell": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
}


def test_settings_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As Notepad writes it: all settings count."""
    shutil.copy(_INPUTS / "config-with-mark.json", tmp_path / "config.json")
    settings = load_settings(Home(root=tmp_path), {})
    assert (settings.strategy, settings.service_port) == ("cpu", 2031)


@pytest.mark.parametrize("writer", _AS_WRITTEN)
async def test_json_is_read_in_every_encoding_that_it_may_have(tmp_path: Path, writer: str) -> None:
    """Settings, a manifest and a machine record: UTF-8 with a mark, and UTF-16 as PowerShell redirects it."""
    encode = _AS_WRITTEN[writer]
    (tmp_path / "config.json").write_bytes(encode('{"service_port": 2031}'))
    assert load_settings(Home(root=tmp_path), {}).service_port == 2031
    built_in = read_built_in()
    manifest = {"version": built_in.version, "models": {}, "backends": {}}
    (tmp_path / "manifest.json").write_bytes(encode(json.dumps(manifest)))
    assert (await read_manifest(tmp_path / "manifest.json")).version == built_in.version
    (tmp_path / "machine.json").write_bytes(encode(json.dumps(cpu_only().to_json())))
    assert load_record(tmp_path / "machine.json").platform == cpu_only().platform


async def test_uvs_settings_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Uv's TOML too."""
    file = tmp_path / "uv.toml"
    file.write_bytes(codecs.BOM_UTF8 + b'index-url = "http://127.0.0.1:9/simple"\n')
    config = await load_packaging_config({"UV_CONFIG_FILE": str(file)}, prefix=tmp_path, etc=tmp_path)
    assert config.index_url == "http://127.0.0.1:9/simple"


async def test_what_is_nested_without_end_is_a_fault_of_the_file(tmp_path: Path) -> None:
    """Python's parsers give it up with an error of their own; the message names the file all the same."""
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(SettingsInvalid, match=r"config\.json"):
        load_settings(Home(root=tmp_path), {})
    (tmp_path / "uv.toml").write_text("find-links = " + "[" * 100_000)
    with pytest.raises(SettingsInvalid, match=r"uv\.toml"):
        await load_packaging_config(
            {"UV_CONFIG_FILE": str(tmp_path / "uv.toml")}, prefix=tmp_path, etc=tmp_path
        )
    with pytest.raises(ResolutionConflict, match="lock"):
        read_stored_pylock("packages = " + "[" * 100_000)
