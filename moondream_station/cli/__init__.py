"""The command line: the only place that prints."""

from moondream_station.cli.app import run

__all__ = ["run"]
