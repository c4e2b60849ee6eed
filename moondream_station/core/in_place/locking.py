"""Locks what is missing in an interpreter around what is there."""

from __future__ import annotations

import re
from collections.abc import Callable

from packaging.utils import canonicalize_name

from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.facts.errors import ResolutionConflict
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.in_place.present import Present, as_bound, together_with
from moondream_station.core.in_place.surroundings import Surroundings
from moondream_station.core.resolve.resolve import resolve_lock

_NAME = re.compile(r"[A-Za-z0-9]+(?:[-_.]+[A-Za-z0-9]+)*")


async def lock_missing(
    on: Surroundings, wanted: Requirements, present: Present, *, note: Callable[[str], object]
) -> Lock:
    """The wheels for those requirements that something is missing of; none where nothing is.

    Args:
        on: What the installation works with.
        wanted: All that is asked for.
        present: What is there.
        note: Told what a user should know.

    Raises:
        StationError: As `resolve_lock`.
    """
    missing = present.missing(wanted)
    if not missing.items:
        return Lock(files=(), requires_python="")
    lock = await _resolve(on, wanted, present, missing)
    left = present.left_behind(lock)
    if not left.items:
        return lock
    try:
        return await _resolve(on, wanted, present, together_with(missing, left))
    except ResolutionConflict:
        note(f"{' and '.join(left.texts)} stays as it is: no version of it fits torch {lock.torch}.")
        return lock


async def _resolve(on: Surroundings, wanted: Requirements, present: Present, missing: Requirements) -> Lock:
    """Lock, with every version that is there as a bound. What a conflict speaks of is let go of, no more."""
    staying = present.staying()
    asked = [bound for item in wanted.items if (bound := as_bound(item)) is not None]
    while True:
        try:
            return await resolve_lock(
                requirements=missing,
                offer=present.offer,
                interpreter=on.interpreter,
                config=on.config,
                torch_index=on.torch_index,
                home=on.home,
                client=on.client,
                environ=on.environ,
                bounds=[*asked, *(f"{name}=={version}" for name, version in staying.items())],
            )
        except ResolutionConflict as error:
            words = _NAME.findall(f"{error.message}\n{error.log}")
            spoken_of = staying.keys() & set(map(canonicalize_name, words))
            if not spoken_of:
                raise
            for name in spoken_of:
                del staying[name]
