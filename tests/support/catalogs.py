"""Catalogs of builds that are not the bundled one: its text with something in it changed."""

from __future__ import annotations

from importlib import resources


def catalog_text(*changes: tuple[str, str]) -> str:
    """The bundled catalog with each first text in the place of which the second one stands."""
    text = resources.files("moondream_station.core.builds").joinpath("catalog.toml").read_text("utf-8")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text
