"""How a command ended, for whoever started it."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
"""The command line itself is wrong; nothing was done."""
CANCELLED: Final = 130
"""By a signal, by `cancel`, or because another switch took its place."""
