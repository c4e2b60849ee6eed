"""Logging, configured here at the edge: to stderr, for people on a terminal, as JSON elsewhere."""

from __future__ import annotations

import logging
import sys

from moondream_station.core.facts.errors import SettingsInvalid
from moondream_station.core.home.log import set_up_logging

_LEVELS = ("debug", "info", "warning", "error", "critical")


def configure_logging(level: str | None, *, default: str = "warning") -> None:
    """Send structlog to stderr, at the user's level or the default one.

    Raises:
        SettingsInvalid: There is no such level.
    """
    name = (level or default).lower()
    if name not in _LEVELS:
        raise SettingsInvalid(
            f"MOONDREAM_STATION_LOG is {level!r}, which is not a log level.",
            hint=f"Use one of {', '.join(_LEVELS)}.",
        )
    set_up_logging(getattr(logging, name.upper()), _configure_structlog)


def _configure_structlog() -> None:
    import structlog  # noqa: PLC0415  the reason stands in core/home/log.py

    renderers: list[structlog.typing.Processor] = (
        # Not rich's traceback, which is the default: it prints the values of variables, secrets too.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
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
