"""Catalogs of builds that are not the bundled one: its text with something in it changed."""

from __future__ import annotations

from importlib import resources

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.catalog_schema import checked


def changed_catalog(*changes: tuple[str, str]) -> Catalog:
    """The catalog that `catalog_text` is."""
    return Catalog(checked(catalog_text(*changes).encode()))


def catalog_text(*changes: tuple[str, str]) -> str:
    """The bundled catalog with each first text in the place of which the second one stands."""
    text = resources.files("moondream_station.core.builds").joinpath("catalog.toml").read_text("utf-8")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text
