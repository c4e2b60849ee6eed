"""Moondream Station: serves vision-language models on your own computer."""

__version__ = "0.2.0"
