"""Moondream Station: serves vision-language models on your own computer."""

from moondream_station.core.facts.version import VERSION as __version__  # noqa: N811  the name that packages have

__all__ = ["__version__"]
