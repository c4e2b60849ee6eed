"""One question to the selection: the machine, what is wanted, and what can be had, brought into one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.hardware import Hardware
from moondream_station.core.builds.naming import Build, Kind, parse_build
from moondream_station.core.builds.offers import Offer, catalog_offers
from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.builds.target import Target, target_of
from moondream_station.core.facts.capabilities import Capabilities

COMPANIONS = ("torchvision", "torchaudio")
_EXACT = ("==", "===")


class Obstacle(StrEnum):
    """Why a build is rejected."""

    PLATFORM = "platform"
    SOURCE_BUILD = "source-build"
    HARDWARE = "hardware"
    REQUIREMENT = "requirement"
    SYSTEM = "system"
    ARCHITECTURE = "architecture"
    PYTHON = "python"
    COMPANION = "companion"
    UNVERIFIED = "unverified"
    ABSENT = "absent"


OVERRIDABLE = frozenset({Obstacle.HARDWARE, Obstacle.ARCHITECTURE})
"""What a strategy that names a build overrides: driver and architecture, never the rest."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of torch and its companions on one target.

    Args:
        torch: The versions of torch that are allowed; all of them where torch is not named directly.
        text: The requirement on torch's version as it was written ("torch>=2.7.0"), and the constraint on
            it, as one phrase; empty where there is neither.
        companions: The versions allowed of each companion that is asked for.
    """

    torch: SpecifierSet
    text: str
    companions: Mapping[str, SpecifierSet]

    @property
    def is_exact(self) -> bool:
        """Whether one version is named, so that one taken back by its index is meant too."""
        return any(clause.operator in _EXACT for clause in self.torch)

    @property
    def phrase(self) -> str:
        """The requirement for a sentence."""
        return self.text or "torch"


def wanted_of(requirements: Requirements, target: Target) -> Wanted:
    """What requirements ask of torch and its companions on a target, within the user's constraints."""
    applicable = requirements.applicable(target.markers)
    specifiers: dict[str, SpecifierSet] = {}
    texts: list[str] = []
    for item, text in zip(applicable.items, applicable.texts, strict=True):
        name = canonicalize_name(item.name)
        if name == "torch" and item.specifier:
            texts.append(text.split(";")[0].strip())
        if name == "torch" or name in COMPANIONS:
            specifiers[name] = specifiers.get(name, SpecifierSet()) & item.specifier
    for item in requirements.bounds:
        name = canonicalize_name(item.name)
        if item.marker is not None and not item.marker.evaluate({**target.markers, "extra": ""}):
            continue
        if name == "torch" and item.specifier:
            texts.append(f"the constraint torch{item.specifier}")
        if name == "torch" or name in specifiers:
            specifiers[name] = specifiers.get(name, SpecifierSet()) & item.specifier
    torch = specifiers.pop("torch", SpecifierSet())
    return Wanted(torch, " and ".join(texts), specifiers)


@dataclass(frozen=True)
class Question:
    """Everything that verdicts are made from.

    Args:
        capabilities: The machine.
        target: Its platform and the Python.
        catalog: The catalog.
        hardware: Its GPUs and driver.
        wanted: What is asked for.
        offers: What can be had for this platform, by build.
        known: What the catalog knows of for this platform, by build: it gives reasons where nothing can be
            had.
        ignoring: Obstacles that do not count.
    """

    capabilities: Capabilities
    target: Target
    catalog: Catalog
    hardware: Hardware
    wanted: Wanted
    offers: Mapping[str, tuple[Offer, ...]]
    known: Mapping[str, tuple[Offer, ...]]
    ignoring: frozenset[Obstacle] = frozenset()

    @classmethod
    def of(
        cls,
        capabilities: Capabilities,
        requirements: Requirements,
        offers: Iterable[Offer],
        catalog: Catalog,
        python: str,
    ) -> Question:
        """The question that the arguments of `select` make."""
        target = target_of(capabilities, python)
        wanted = wanted_of(requirements, target)
        return cls(
            capabilities=capabilities,
            target=target,
            catalog=catalog,
            hardware=Hardware.of(capabilities, target, catalog),
            wanted=wanted,
            offers=_by_build(offers, target, with_yanked=wanted.is_exact),
            known=_by_build(catalog_offers(catalog, target), target, with_yanked=True),
        )

    @property
    def builds(self) -> tuple[Build, ...]:
        """Every build that is known or can be had."""
        parsed = map(parse_build, {*self.catalog.builds, *self.offers})
        return tuple(sorted(build for build in parsed if build is not None))

    def ignoring_also(self, *obstacles: Obstacle) -> Question:
        """The same question, where these obstacles do not count."""
        return replace(self, ignoring=self.ignoring | set(obstacles))

    def with_hardware(self, hardware: Hardware) -> Question:
        """The same question of other hardware."""
        return replace(self, hardware=hardware)


def _by_build(offers: Iterable[Offer], target: Target, *, with_yanked: bool) -> dict[str, tuple[Offer, ...]]:
    grouped: dict[str, list[Offer]] = {}
    for offer in offers:
        if offer.platform == target.platform and target.platform and (with_yanked or not offer.yanked):
            grouped.setdefault(offer.build, []).append(offer)
    if mps := grouped.get(Kind.MPS):
        # The same wheel computes on the processor too: the build that somebody names, or falls back to.
        grouped[Kind.CPU] = [replace(offer, build=Kind.CPU.value) for offer in mps]
    return {build: tuple(ones) for build, ones in grouped.items()}
