"""Sizes, durations and counts, as people read them."""

from __future__ import annotations

_KILO = 1000
_MINUTE = 60
_HOUR = 3600
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


# Not rich.filesize: plain lines use this too, and a command that draws nothing loads no rich.
def size_text(count: float | None) -> str:
    """A number of bytes for people, in decimal units: "191.8 MB"; "?" where unknown."""
    if count is None:
        return "?"
    value, unit = float(count), 0
    while value >= _KILO and unit < len(_UNITS) - 1:
        value, unit = value / _KILO, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def duration_text(seconds: float) -> str:
    """A duration for people: "0.4 s", "1:05 min"."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    return f"{minutes}:{rest:02} min"


def clock_text(seconds: float) -> str:
    """A running time in whole seconds, which does not flicker: "0:07", "1:05", "2:03:04"."""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, _HOUR)
    minutes, last = divmod(rest, _MINUTE)
    return f"{hours}:{minutes:02}:{last:02}" if hours else f"{minutes}:{last:02}"


def some_text(count: int, unit: str) -> str:
    """So many of something: "1 package", "12,253 files"."""
    return f"{count:,} {unit.removesuffix('s') if count == 1 else unit}"


def count_text(done: int, total: int | None, unit: str) -> str:
    """How far something has come: "12,253 of 13,000 files", "1.2 GB of 3.6 GB"."""
    if unit == "bytes":
        return size_text(done) if total is None else f"{size_text(done)} of {size_text(total)}"
    return some_text(done, unit) if total is None else f"{done:,} of {some_text(total, unit)}"
