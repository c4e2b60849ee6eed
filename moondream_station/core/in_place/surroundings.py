"""What an installation in place works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.home.layout import Home
from moondream_station.core.in_place.running_python import RunningPython
from moondream_station.core.packaging.packaging_config import PackagingConfig
from moondream_station.core.resolve.interpreter import Interpreter

if TYPE_CHECKING:
    import httpx2


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What an installation in place works with.

    Args:
        python: The running interpreter.
        interpreter: What it accepts.
        capabilities: The machine.
        strategy: `guide`, or a build that the user named.
        torch_index: Base URL of the PyTorch index or its mirror; it may hold credentials.
        catalog: What is known about builds.
        config: The user's packaging set-up.
        client: For `http` and `https`.
        home: Where downloads and caches live.
        environ: The user's variables.
    """

    python: RunningPython
    interpreter: Interpreter
    capabilities: Capabilities
    strategy: str
    torch_index: str
    catalog: Catalog
    config: PackagingConfig
    client: httpx2.AsyncClient
    home: Home
    environ: Mapping[str, str]
