"""What a build is chosen for, and the case that the selection makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from functools import cached_property
from itertools import chain

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from moondream_station.core.builds.catalog import Catalog, load_catalog
from moondream_station.core.builds.hardware import Hardware
from moondream_station.core.builds.naming import Build, Kind, parse_build
from moondream_station.core.builds.offers import Offer, Target, catalog_offers, target_of
from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.builds.trials import NO_TRIALS, Circumstances, Trials
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


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What a build is chosen for; the Python ("3.11.7", "3.11", "3.14t") need not be the machine's own."""

    capabilities: Capabilities
    requirements: Requirements
    python: str
    strategy: str = "auto"
    mixes_indexes: bool = False  # whether the user's pip looks in further places, where any version may be
    catalog: Catalog = field(default_factory=load_catalog, repr=False)
    trials: Trials = field(default=NO_TRIALS, repr=False)  # what verification has learned on this machine
    asks_amd: bool = True  # whether AMD's own indexes count as a source of torch
    today: date | None = None  # what the catalog's age is told by, where anybody is to be told

    @cached_property
    def circumstances(self) -> Circumstances:
        """What a build's failure on this machine goes with."""
        return Circumstances.of(self.capabilities, self.catalog)

    @cached_property
    def target(self) -> Target:
        """The platform and the Python."""
        return target_of(self.capabilities, self.python)

    def catalog_offers(self, *, index: str | None = None) -> tuple[Offer, ...]:
        """The wheels that the catalog knows of for this platform; `index` replaces the official base URL."""
        return catalog_offers(self.catalog, self.target, index=index, amds=self.asks_amd)


@dataclass(frozen=True, slots=True)
class TorchRequirement:
    """What is required of torch and its companions on one target.

    `text` is what was written of torch's version ("torch>=2.7.0"), with the constraint on it, or empty;
    `toolkits` the CUDAs that pinned packages of NVIDIA's belong to, by the pin.
    """

    versions: SpecifierSet
    text: str
    companions: Mapping[str, SpecifierSet]
    toolkits: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, requirements: Requirements, target: Target, catalog: Catalog) -> TorchRequirement:
        """What requirements say on a target, within the user's constraints."""
        applicable = requirements.applicable(target.markers)
        versions: dict[str, SpecifierSet] = {}
        texts: list[str] = []
        toolkits: dict[str, str] = {}
        for item, text in zip(applicable.items, applicable.texts, strict=True):
            name = canonicalize_name(item.name)
            if name == "torch" and item.specifier:
                texts.append(text.split(";")[0].strip())
            if name == "torch" or name in COMPANIONS:
                versions[name] = versions.get(name, SpecifierSet()) & item.specifier
            pins = [clause.version for clause in item.specifier if clause.operator in _EXACT]
            if pins and target.platform == "linux_x86_64" and (cuda := catalog.toolkit_of(name, pins[0])):
                toolkits[text.split(";")[0].strip()] = cuda
        for item in applicable.bounds:
            name = canonicalize_name(item.name)
            if name == "torch" and item.specifier:
                texts.append(f"the constraint torch{item.specifier}")
            if name == "torch" or name in versions:
                versions[name] = versions.get(name, SpecifierSet()) & item.specifier
        torch = versions.pop("torch", SpecifierSet())
        return cls(torch, " and ".join(texts), versions, toolkits)

    @property
    def is_exact(self) -> bool:
        """Whether one version is named, so that one taken back by its index is meant too."""
        return any(clause.operator in _EXACT for clause in self.versions)

    @property
    def exact_version(self) -> str | None:
        """The version, where nothing but one is required ("torch==2.6")."""
        only = next(iter(self.versions)) if len(self.versions) == 1 else None
        return only.version if only and only.operator in _EXACT else None

    @property
    def phrase(self) -> str:
        """The requirement for a sentence."""
        return self.text or "torch"

    @property
    def phrase_with_companions(self) -> str:
        """The requirement and those on companions' versions, for a sentence."""
        companions = (f"{name}{versions}" for name, versions in self.companions.items() if versions)
        return " and ".join((*([self.text] if self.text else []), *companions)) or "torch"

    @property
    def contradiction(self) -> str | None:
        """Which requirements on one package no version at all satisfies, as a sentence."""
        texts = {
            self.text: self.versions,
            **{f"{name}{them}": them for name, them in self.companions.items()},
        }
        text = next((text for text, versions in texts.items() if versions.is_unsatisfiable()), None)
        conflict = "contradict each other" if text and " and " in text else "contradicts itself"
        return text and f"Nothing satisfies {text}, which {conflict}. Change or remove what conflicts."


@dataclass(frozen=True)
class Case:
    """A request and, by build, the offers it is held against; those `known` to the catalog give reasons."""

    request: BuildRequest
    torch: TorchRequirement
    hardware: Hardware
    offers: Mapping[str, tuple[Offer, ...]]
    known: Mapping[str, tuple[Offer, ...]]
    ignoring: frozenset[Obstacle] = frozenset()

    @classmethod
    def of(cls, request: BuildRequest, offers: Iterable[Offer]) -> Case:
        """The case that a request and the available wheels make."""
        target = request.target
        torch = TorchRequirement.of(request.requirements, target, request.catalog)
        hardware = Hardware.of(
            request.capabilities, target, request.catalog, request.trials, asks_amd=request.asks_amd
        )
        return cls(
            request=request,
            torch=torch,
            hardware=hardware,
            offers=_with_extras(_by_build(offers, target, with_yanked=torch.is_exact), hardware),
            known=_by_build(request.catalog_offers(), target, with_yanked=True),
        )

    @property
    def target(self) -> Target:
        """The platform and the Python."""
        return self.request.target

    @property
    def catalog(self) -> Catalog:
        """What is known about builds."""
        return self.request.catalog

    @cached_property
    def builds(self) -> tuple[Build, ...]:
        """Every build that is known or available."""
        parsed = map(parse_build, {*self.catalog.builds, *self.offers})
        asks_amd = self.request.asks_amd
        return tuple(sorted(build for build in parsed if build and (asks_amd or not build.is_amds)))

    def with_pypi_on_cpu(self) -> Case:
        """The same case, where PyPI's own wheels, whatever they were built for, count for the CPU too."""
        every = chain(*self.offers.values())
        own = _for_cpu(offer for offer in every if offer.source == "default" and offer.local is None)
        return replace(self, offers={**self.offers, "cpu": (*self.offers.get("cpu", ()), *own)})

    def ignoring_also(self, *obstacles: Obstacle) -> Case:
        """The same case, where these obstacles do not count."""
        return replace(self, ignoring=self.ignoring | set(obstacles))


def _for_cpu(offers: Iterable[Offer]) -> list[Offer]:
    return [replace(offer, build=Kind.CPU.value) for offer in offers]


def _with_extras(
    offers: Mapping[str, tuple[Offer, ...]], hardware: Hardware
) -> Mapping[str, tuple[Offer, ...]]:
    """The same, where each wheel of AMD's names the extras with the code for this machine's GPUs."""
    with_extras = dict(offers)
    for name, same in offers.items():
        build = parse_build(name)
        if build and build.is_amds:
            extras = hardware.extras(build)
            with_extras[name] = tuple(replace(offer, extras=extras) for offer in same)
    return with_extras


def _by_build(offers: Iterable[Offer], target: Target, *, with_yanked: bool) -> dict[str, tuple[Offer, ...]]:
    grouped: dict[str, list[Offer]] = {}
    for offer in offers:
        if offer.platform == target.platform and target.platform and (with_yanked or not offer.yanked):
            grouped.setdefault(offer.build, []).append(offer)
    if mps := grouped.get(Kind.MPS):
        # The same wheel computes on the CPU too: the build that somebody names, or falls back to.
        grouped[Kind.CPU] = _for_cpu(mps)
    return {build: tuple(same) for build, same in grouped.items()}
