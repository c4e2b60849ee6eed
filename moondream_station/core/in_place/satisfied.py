"""Which requirements are satisfied by what is installed, with all that those packages need in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from moondream_station.core.environments.packages import Package


class Satisfied:
    """Holds requirements against the packages of an interpreter.

    Args:
        packages: What is installed, by normalized name.
        markers: The interpreter's marker environment.
        may_stay: Whether a package of this version can be used at all: torch of another build can't.
    """

    def __init__(
        self,
        packages: Mapping[str, Package],
        *,
        markers: Mapping[str, str],
        may_stay: Callable[[Package], bool],
    ) -> None:
        self._packages = packages
        self._markers = markers
        self._may_stay = may_stay

    def missing(self, requirements: Iterable[Requirement]) -> tuple[int, ...]:
        """The places of those requirements that something has to be installed for."""
        return tuple(place for place, item in enumerate(requirements) if not self._holds(item, set()))

    def _holds(self, item: Requirement, seen: set[tuple[str, frozenset[str]]]) -> bool:
        """Whether it is satisfied. What was seen on the way here is not asked again: needs go in circles."""
        name = canonicalize_name(item.name)
        package = self._packages.get(name)
        if package is None or not item.specifier.contains(package.version, prereleases=True):
            return False
        key = (name, frozenset(item.extras))
        if key in seen:
            return True
        seen.add(key)
        return (
            self._may_stay(package)
            and not package.damage
            and all(self._holds(needed, seen) for needed in package.needs(self._markers, item.extras))
        )
