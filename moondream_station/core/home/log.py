"""What the station logs, through structlog, which is imported when the first line is due.

Most commands log nothing, and structlog is a tenth of what they take to start.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

_threshold = logging.NOTSET
_prepare: Callable[[], None] | None = None


class Log:
    """A logger: an event's name and its data as keys, one method a level."""

    def debug(self, event: str, **fields: object) -> None:
        """What helps to find a fault."""
        _log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """What happens."""
        _log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """What somebody should know."""
        _log(logging.WARNING, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """A fault of ours, with the traceback of the exception that is handled."""
        _log(logging.ERROR, event, {**fields, "exc_info": True})


def set_up_logging(threshold: int, prepare: Callable[[], None]) -> None:
    """Log what is at least so severe."""
    global _threshold, _prepare
    _threshold, _prepare = threshold, prepare


def is_logged(level: int) -> bool:
    """Whether a line of that level would come out: what is costly to put together can be left out."""
    return level >= _threshold


def _log(level: int, event: str, fields: dict[str, object]) -> None:
    if not is_logged(level):
        return
    if not {"rich", "structlog"} & sys.modules.keys():
        # structlog would load rich, for tracebacks that we do not print with it: 5 MiB of a serving station.
        sys.modules["rich"] = None  # type: ignore[assignment]
        import structlog  # noqa: PLC0415  see above

        del sys.modules["rich"]
    import structlog  # noqa: PLC0415

    global _prepare
    if _prepare is not None:
        prepare, _prepare = _prepare, None
        prepare()
    structlog.get_logger().log(level, event, **fields)
