"""Logging, configured here at the edge: to stderr, for people on a terminal, as JSON elsewhere."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.facts.printable import printable
from moondream_station.core.home.layout import Home, home_from
from moondream_station.core.home.log import set_up_logging
from moondream_station.core.home.settings import Settings, load_settings

LEVELS = ("debug", "info", "warning", "error", "critical")


def begin(*, log: str = "warning", **flags: Any) -> tuple[Home, Settings]:
    """What every command begins with: the user's home, and the settings; logging goes by them from here on.

    `log` is the level where the user has set none, and `flags` goes before what is set.
    """
    home = home_from(os.environ)
    settings = load_settings(home, os.environ, **flags)
    configure_logging(settings.log, default=log)
    return home, settings


def configure_logging(level: str | None, *, default: str = "warning") -> None:
    """Send structlog to stderr, at the user's level or the default one."""
    name = (level or default).lower()
    if name not in LEVELS:
        raise SettingsInvalid(
            f"MOONDREAM_STATION_LOG is {level!r}, which is not a log level.",
            hint=f"Use one of {', '.join(LEVELS)}.",
        )
    set_up_logging(getattr(logging, name.upper()), _configure_structlog)


def _printable(_logger: object, _name: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What tools and backends wrote, without what would control the terminal; JSON escapes it anyway."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in fields.items()}


def _print_traceback(file: TextIO, exception: Any) -> None:
    import structlog  # noqa: PLC0415  the reason stands in core/home/log.py

    text = io.StringIO()
    structlog.dev.plain_traceback(text, exception)
    file.write(printable(text.getvalue()))


def _configure_structlog() -> None:
    import structlog  # noqa: PLC0415  the reason stands in core/home/log.py

    renderers: list[structlog.typing.Processor] = (
        # Not rich's traceback, which is the default: it prints the values of variables, secrets too.
        [_printable, structlog.dev.ConsoleRenderer(exception_formatter=_print_traceback)]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        # What stderr is when something is logged: while a panel is there, lines go above it.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
