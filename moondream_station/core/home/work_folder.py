"""Folders for the work of one run of a tool."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from moondream_station.core.home.layout import Home
from moondream_station.core.home.space import writing_to

_REMOVE_SECONDS = 1.0


@asynccontextmanager
async def work_folder(home: Home) -> AsyncIterator[Path]:
    """A folder in the home's cache for the time of this context; `sweep` removes one that a kill left."""
    with writing_to(home.cache):
        name = await anyio.to_thread.run_sync(lambda: tempfile.mkdtemp(prefix="lock-", dir=home.cache))
        try:
            yield Path(name)
        finally:
            with anyio.move_on_after(_REMOVE_SECONDS, shield=True):
                await anyio.to_thread.run_sync(shutil.rmtree, name)
