"""uv.toml as people have it, from the reports of other projects."""

from __future__ import annotations

from pathlib import Path

import pytest

from moondream_station.core.packaging.packaging_config import PackagingConfig, load_packaging_config

pytestmark = pytest.mark.anyio

PIP, TOP = "http://127.0.0.1:8080/simple", "http://127.0.0.1:8081/simple"


async def _configured(folder: Path, text: str) -> PackagingConfig:
    file = folder / "uv.toml"
    file.write_text(text)
    environ = {"HOME": str(folder), "USERPROFILE": str(folder), "UV_CONFIG_FILE": str(file)}
    return await load_packaging_config(environ, prefix=folder, cwd=folder, etc=folder)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        (f'[pip]\nindex-url = "{PIP}"', PIP),
        (f'index-url = "{TOP}"\n[pip]\nindex-url = "{PIP}"', PIP),
        (f'[[index]]\nurl = "{TOP}"\ndefault = true\n[pip]\nindex-url = "{PIP}"', TOP),
        (f'index-url = "{TOP}"\n[pip]\nno-index = false', TOP),
    ],
)
async def test_the_pip_table_of_uv_names_the_index(tmp_path: Path, text: str, index: str) -> None:
    """As the `uv pip` of uv 0.13.9 reads it: before the top level's `index-url`, after a default index."""
    assert (await _configured(tmp_path, text)).index_url == index


async def test_lists_of_the_pip_table_are_joined_with_those_of_the_top_level(tmp_path: Path) -> None:
    """Its own first, also as uv reads them; what decides alone is the table's."""
    text = (
        f'extra-index-url = ["{TOP}"]\nfind-links = ["{TOP}/links"]\nindex-strategy = "first-index"\n'
        f'[pip]\nextra-index-url = ["{PIP}"]\nfind-links = ["{PIP}/links"]\n'
        'index-strategy = "unsafe-best-match"\nno-index = false\n'
    )
    config = await _configured(tmp_path, text)
    assert config.extra_index_urls == (PIP, TOP)
    assert config.find_links == (f"{PIP}/links", f"{TOP}/links")
    assert config.index_strategy == "unsafe-best-match"
