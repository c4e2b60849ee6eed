"""The user's constraints: bounds on versions, from pip's `constraint`, that ask for nothing by themselves.

Those on torch's family bound the choice of the build, and no more: uv is not told of them, because the wheels
of the chosen build are all that it is given of the family.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import anyio.to_thread
from packaging.utils import canonicalize_name

from moondream_station.core.builds.requirements import FAMILY, Requirements, parse_requirements
from moondream_station.core.facts.errors import RequirementsUnsafe, SettingsInvalid
from moondream_station.core.packaging.packaging_config import PackagingConfig


async def within_constraints(requirements: Requirements, config: PackagingConfig) -> Requirements:
    """Requirements with the user's bounds on torch's family.

    Raises:
        SettingsInvalid: A constraint file can't be used.
    """
    files = await anyio.to_thread.run_sync(_read, config.constraints)
    bounds = tuple(item for file in files for item in file.of_family().items)
    return replace(requirements, bounds=bounds)


async def ordinary_constraints(config: PackagingConfig) -> tuple[str, ...]:
    """The user's constraints on everything but torch's family.

    Raises:
        SettingsInvalid: A constraint file can't be used.
    """
    files = await anyio.to_thread.run_sync(_read, config.constraints)
    return tuple(
        text
        for file in files
        for item, text in zip(file.items, file.texts, strict=True)
        if canonicalize_name(item.name) not in FAMILY
    )


def _read(paths: Iterable[Path]) -> tuple[Requirements, ...]:
    read: list[Requirements] = []
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                read.append(parse_requirements(file, origin=str(path)))
        except RequirementsUnsafe as error:
            raise SettingsInvalid(
                error.message, hint="A constraint file may hold names, versions, markers and hashes here."
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsInvalid(
                f"The constraint file {path} can't be read: {error}",
                hint="pip's `constraint` names it: PIP_CONSTRAINT, or what `pip config list` shows.",
            ) from error
    return tuple(read)
