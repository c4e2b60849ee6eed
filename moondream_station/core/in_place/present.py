"""What is installed, held against a chosen build: what may stay, what is missing, what must not move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from moondream_station.core.builds.naming import parse_build
from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.requirements import FAMILY, Requirements, parse_requirement_args
from moondream_station.core.environments.packages import Package
from moondream_station.core.fetch.lock import Lock, LockedFile
from moondream_station.core.in_place.satisfied import Satisfied
from moondream_station.core.selection.request import COMPANIONS


class Present:
    """The packages of an interpreter, in the light of a chosen build.

    Args:
        packages: What is installed, by normalized name.
        offer: The chosen torch, None where no torch may come in.
        keeps_torch: Whether the torch that is installed is of the chosen build, and can be used.
        markers: The interpreter's marker environment.
    """

    def __init__(
        self,
        packages: Mapping[str, Package],
        *,
        offer: Offer | None,
        keeps_torch: bool,
        markers: Mapping[str, str],
    ) -> None:
        self.packages = packages
        self.offer = offer
        self._keeps_torch = keeps_torch
        self._markers = markers
        self._satisfied = Satisfied(packages, markers=markers, may_stay=self._may_stay)

    def missing(self, requirements: Requirements) -> Requirements:
        """Those requirements that something has to be installed for."""
        places = self._satisfied.missing(requirements.items)
        return replace(
            requirements,
            items=tuple(requirements.items[place] for place in places),
            texts=tuple(requirements.texts[place] for place in places),
            hashes=tuple(requirements.hashes[place] for place in places),
        )

    def staying(self) -> dict[str, str]:
        """The versions that a lock should leave as they are, by normalized name."""
        return {
            name: str(package.version)
            for name, package in self.packages.items()
            if self._may_be_bound(package) and not package.damage
        }

    def _may_be_bound(self, package: Package) -> bool:
        """The family's only where torch itself stays, since they are made for one torch."""
        if self.offer is None or package.name not in FAMILY:
            return True
        stays = self._keeps_torch and self.packages["torch"].version == self.offer.full_version
        return stays and self._may_stay(package)

    def left_behind(self, lock: Lock) -> Requirements:
        """Companions of torch that the lock does not name, though it changes the torch they belong to."""
        is_changed = any(file.name == "torch" and not self.has(file) for file in lock.files)
        names = [name for name in COMPANIONS if name in self.packages and name not in lock.packages]
        return parse_requirement_args(names if is_changed else [])

    def unfitting(self, installed: Mapping[str, str]) -> tuple[str, ...]:
        """A sentence for each package that stays and does not fit what is installed beside it."""
        found = []
        for package in self.packages.values():
            if package.name in installed:
                continue
            for item in package.needs(self._markers):
                version = installed.get(canonicalize_name(item.name))
                if version is not None and not item.specifier.contains(version, prereleases=True):
                    found.append(
                        f"{package.name} {package.version} needs {item.name}{item.specifier}, which "
                        f"{version} is not."
                    )
        return tuple(found)

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
            return self._keeps_torch
        local = package.version.local
        return local is None or parse_build(local) is None or local == (self.offer.local or self.offer.build)


def together_with(requirements: Requirements, others: Requirements) -> Requirements:
    """Both."""
    return replace(
        requirements,
        items=(*requirements.items, *others.items),
        texts=(*requirements.texts, *others.texts),
        hashes=(*requirements.hashes, *others.hashes),
    )


def as_bound(item: Requirement) -> str | None:
    """A requirement as a constraint, None for one that bounds nothing."""
    if not item.specifier:
        return None
    return f"{canonicalize_name(item.name)}{item.specifier}"
