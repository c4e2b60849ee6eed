"""What is installed, compared with a chosen build: what is missing, what may stay, what must not move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from moondream_station.core.builds.naming import parse_build
from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.requirements import FAMILY, Requirements, parse_requirement_args
from moondream_station.core.environments.packages import Package
from moondream_station.core.fetch.lock import Lock, LockedFile
from moondream_station.core.selection.request import COMPANIONS


@dataclass(frozen=True, kw_only=True)
class Installed:
    """The packages of an interpreter, by normalized name, in the light of a chosen build."""

    packages: Mapping[str, Package]
    offer: Offer | None
    """The chosen torch, None where no torch may come in."""
    keeps_torch: bool
    """Whether the installed torch is of the chosen build, and works here."""
    markers: Mapping[str, str]

    def missing(self, requirements: Requirements) -> Requirements:
        """Those requirements that something has to be installed for."""
        return unmet(requirements, self.packages, markers=self.markers, may_stay=self._may_stay)

    def pins(self) -> dict[str, str]:
        """The versions that a lock should leave as they are, by normalized name."""
        return {
            name: str(package.version)
            for name, package in self.packages.items()
            if self._may_be_pinned(package) and not package.damage
        }

    def _may_be_pinned(self, package: Package) -> bool:
        """The family's only where torch itself stays, since each is made for one torch."""
        if self.offer is None or package.name not in FAMILY:
            return True
        stays = self.keeps_torch and self.packages["torch"].version == self.offer.full_version
        return stays and self._may_stay(package)

    def orphans(self, lock: Lock) -> Requirements:
        """Companions of torch that the lock does not name, though it changes the torch they belong to."""
        is_changed = any(file.name == "torch" and not self.has(file) for file in lock.files)
        names = [name for name in COMPANIONS if name in self.packages and name not in lock.packages]
        return parse_requirement_args(names if is_changed else [])

    def has(self, file: LockedFile) -> bool:
        """Whether a locked package is installed already, whole and of that very version."""
        package = self.packages.get(file.name)
        return (
            package is not None
            and package.version == Version(file.version)
            and self._may_stay(package)
            and not package.damage
        )

    def _may_stay(self, package: Package) -> bool:
        """Torch and its companions only where they are of the chosen build."""
        if self.offer is None or package.name not in FAMILY:
            return True
        if package.name == "torch":
            return self.keeps_torch
        local = package.version.local
        return local is None or parse_build(local) is None or local == (self.offer.local or self.offer.build)


def unmet(
    requirements: Requirements,
    packages: Mapping[str, Package],
    *,
    markers: Mapping[str, str],
    may_stay: Callable[[Package], bool],
) -> Requirements:
    """Those requirements that packages do not satisfy with all that they need in turn.

    `may_stay` says whether a package can be used at all: torch of another build can't.
    """

    def is_met(item: Requirement, seen: set[tuple[str, frozenset[str]]]) -> bool:
        name = canonicalize_name(item.name)
        package = packages.get(name)
        if package is None or not item.specifier.contains(package.version, prereleases=True):
            return False
        key = (name, frozenset(item.extras))
        if key in seen:  # packages need each other in circles
            return True
        seen.add(key)
        return (
            may_stay(package)
            and not package.damage
            and all(is_met(needed, seen) for needed in package.needs(markers, item.extras))
        )

    return requirements.where(lambda item: not is_met(item, set()))
