"""One build's verdict: which of its wheels are possible here, or the first reason why none is.

The checks stand in the order in which a person wants to hear about them; each takes the offers that those
before it left and answers with the ones that pass, or a refusal. One whose obstacle is ignored is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from moondream_station.core.builds.naming import GPU_KINDS, Build, Kind, listed
from moondream_station.core.builds.offers import Offer, in_words, platform_name, pythons_of
from moondream_station.core.builds.trials import Trial
from moondream_station.core.selection.request import Case, Obstacle

_LEGACY_GLIBC = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}  # PEP 600
_SOURCE_RANK = {"index": 3, "vendor": 2, "find-links": 1, "default": 0}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a build is rejected."""

    obstacle: Obstacle
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a build: its possible wheels, best first, or why it is refused."""

    build: Build
    offers: tuple[Offer, ...]
    refusal: Refusal | None = None

    @property
    def named(self) -> str:
        """The build and its best torch, for a sentence; only where the build is possible."""
        return f"{self.build.name} with torch {self.best.torch}"

    @property
    def best(self) -> Offer:
        """The wheel to take; only where the build is possible."""
        return self.offers[0]


def judge(build: Build, case: Case) -> Judgement:
    """The verdict on one build."""
    seen = case.offers.get(build.name, ())
    offers = seen or case.known.get(build.name, ())
    for obstacle, check in _CHECKS:
        if obstacle in case.ignoring:
            continue
        outcome = check(build, offers, case)
        if isinstance(outcome, str):
            return Judgement(build, (), Refusal(obstacle, outcome))
        offers = outcome
    if not seen:
        absent = f"{build.name} has no wheel for {case.target.place} in any index or find-links."
        return Judgement(build, (), Refusal(Obstacle.ABSENT, absent))
    ranked = sorted(offers, key=lambda it: (it.version, it.verified, _SOURCE_RANK[it.source]), reverse=True)
    return Judgement(build, tuple(ranked))


def failure_of(judgement: Judgement, case: Case) -> Trial | None:
    """How a possible build failed on this machine, where nothing has changed since."""
    request = case.request
    if judgement.build.kind is Kind.CPU:
        return None
    return request.trials.failure(judgement.build.name, judgement.best.torch, request.circumstances)


def best_build(case: Case, kind: Kind | None = None) -> Judgement | None:
    """The best possible build, of a kind or of all, a GPU's before the CPU's; None where there is none."""
    builds = (build for build in case.builds if kind in {None, build.kind})
    possible = [judgement for build in builds if (judgement := judge(build, case)).offers]
    return max(
        possible,
        key=lambda known: (known.build.kind in GPU_KINDS, known.best.version, known.build),
        default=None,
    )


Judgements: TypeAlias = tuple[Judgement, ...]
Outcome: TypeAlias = tuple[Offer, ...] | str


def _check_platform(build: Build, offers: tuple[Offer, ...], case: Case) -> Outcome:
    target = case.target
    torches = {offer.torch for offer in offers}
    newer = [row.torch for row in case.catalog.rows_of("macos_arm64") if row.torch not in torches]
    if target.rosetta and (not offers or any(case.torch.versions.filter(newer))):
        why = "this Python is an x86-64 build that runs under Rosetta, for which there is no usable wheel"
        return f"{build.name} can't be used: {why}."
    if offers:
        return offers
    if build.is_amds and not case.request.asks_amd:
        return f"{build.name} is on AMD's own index, which is not to be asked (`vendor_indexes` is 0)."
    platforms = case.catalog.platforms_of(build.name)
    if not platforms:
        return f"{build.name} is not a known build, and no source has a wheel of it for {target.place}."
    places = listed(map(platform_name, platforms))
    return f"{build.name} has wheels for {places} only; this is {target.place}."


def _check_wheels_only(build: Build, offers: tuple[Offer, ...], case: Case) -> Outcome:
    why = case.catalog.source_builds.get(build.name)
    return f"{build.name} can't be installed from wheels alone: {why}." if why else offers


def _check_hardware(build: Build, offers: tuple[Offer, ...], case: Case) -> Outcome:
    return case.hardware.why_not_build(build) or offers


def _check_requirement(build: Build, offers: tuple[Offer, ...], case: Case) -> Outcome:
    required = case.torch
    for pin, cuda in required.toolkits.items():
        if build.kind is Kind.CUDA and build.toolkit != cuda:
            return f"{build.name} carries CUDA {build.toolkit}, but {pin} belongs to CUDA {cuda}."
    allowed = tuple(required.versions.filter(offers, key=lambda offer: offer.full_version))
    if allowed:
        return allowed
    newest = max(offer.version for offer in offers)
    if required.exact_version:
        return f"{build.name} has torch {newest}, not {required.exact_version}."
    oldest = min(offer.version for offer in offers)
    if oldest == newest:
        return f"{build.name} has torch {newest}, which {required.phrase} does not allow."
    return f"{build.name} has torch {oldest} to {newest}, none of which {required.phrase} allows."


def _check_system(build: Build, offers: tuple[Offer, ...], case: Case) -> Outcome:
    fitting = tuple(offer for offer in offers if offer.fits_system(case.target))
    return fitting or why_not_system(build, min(offers, key=lambda offer: offer.version), case)


def why_not_system(build: Build, offer: Offer, case: Case) -> str:
    """Why an offer's wheel is not for the target's C library or macOS, as a sentence."""
    target, libc = case.target, case.request.capabilities.libc
    wheel = f"torch {offer.torch} on {build.name}"
    platforms = sorted(tag.platform for tag in offer.tags) if offer.is_real else offer.platform_tags
    if target.system == "Darwin":
        need = _number_in(platforms[0], "macosx_")
        have = ".".join(map(str, target.macos)) if target.macos else "an unknown version"
        return f"{wheel} needs macOS {need} or newer; this Mac has {have}."
    if target.glibc is None:
        have = f"{libc[0]} {libc[1]}".strip() or "another C library"
        return f"{wheel} needs glibc; this system has {have}."
    need = _number_in(platforms[0], "manylinux_") or _LEGACY_GLIBC[platforms[0].partition("_")[0]]
    return f"{wheel} needs glibc {need} or newer; this system has {target.glibc[0]}.{target.glibc[1]}."


def _number_in(platform: str, prefix: str) -> str:
    """The version that a platform tag names: "2.28" of "manylinux_2_28_x86_64"."""
    parts = platform.removeprefix(prefix).split("_")
    return ".".join(parts[:2]) if platform.startswith(prefix) else ""


def _check_architecture(build: Build, offers: tuple[Offer, ...], case: Case) -> Outcome:
    hardware = case.hardware
    fitting = {torch for torch in {offer.version for offer in offers} if hardware.serves(build, torch)}
    if fitting:
        return tuple(offer for offer in offers if offer.version in fitting)
    return hardware.why_not_torch(build, max(offer.version for offer in offers))


def _check_python(build: Build, offers: tuple[Offer, ...], case: Case) -> Outcome:
    target = case.target
    fitting = tuple(offer for offer in offers if offer.fits_python(target))
    if fitting:
        return fitting
    wheel = f"wheel of {case.torch.text}" if case.torch.text else "wheel"
    pythons = f"its wheels are for Python {in_words(pythons_of(offers))}"
    return f"{build.name} has no {wheel} for Python {target.python_minor}; {pythons}."


def _check_companions(build: Build, offers: tuple[Offer, ...], case: Case) -> Outcome:
    for name in case.torch.companions:
        fitting = tuple(offer for offer in offers if _has_companion(name, build, offer, case))
        if not fitting:
            newest = max(offers, key=lambda offer: offer.version).torch
            oldest = min(offers, key=lambda offer: offer.version).torch
            python = case.target.python_full
            accepted = [case.catalog.companion_python(name, offer.torch) for offer in offers]
            if not any(pythons.contains(python, prereleases=True) for pythons in accepted):
                return f"{build.name}: {name} for torch {newest} accepts Python {accepted[0]}, not {python}."
            torches = f"torch {newest}" if oldest == newest else f"any torch from {oldest} to {newest}"
            specified = f"{name}{case.torch.companions[name]}"
            return f"{build.name} has no {specified} for {torches} on {case.target.place}."
        offers = fitting
    return offers


def _has_companion(name: str, build: Build, offer: Offer, case: Case) -> bool:
    catalog = case.catalog
    row = catalog.row(build.name, offer.torch, case.target.platform or "")
    if row is not None and name in row.without and not (row.pypi or offer.source == "default"):
        return False
    if not catalog.companion_python(name, offer.torch).contains(case.target.python_full, prereleases=True):
        return False
    releases = catalog.companions(name, offer.torch)
    if releases is None:
        # A newer torch is not rejected because the catalog is older: torchvision says itself which torch it
        # needs, and torchaudio does since 2.11.1. The resolver reads that.
        return True
    specifier = case.torch.companions[name]
    versions = {release if offer.local is None else f"{release}+{offer.local}" for release in releases}
    return any(specifier.contains(version, prereleases=True) for version in versions)


def _check_verified(build: Build, offers: tuple[Offer, ...], case: Case) -> Outcome:
    relied = tuple(offer for offer in offers if offer.is_real or offer.verified)
    if relied:
        return relied
    doubt = f"it is not confirmed that torch {max(offer.version for offer in offers)} exists"
    remedy = "Run the plan on that machine without --offline, which asks the index"
    force = "" if case.request.strategy == build.name else f", or use --strategy {build.name}"
    return f"{build.name}: {doubt} for {case.target.place}. {remedy}{force}."


_CHECKS: tuple[tuple[Obstacle, Callable[[Build, tuple[Offer, ...], Case], Outcome]], ...] = (
    (Obstacle.PLATFORM, _check_platform),
    (Obstacle.SOURCE_BUILD, _check_wheels_only),
    (Obstacle.HARDWARE, _check_hardware),
    (Obstacle.REQUIREMENT, _check_requirement),
    (Obstacle.SYSTEM, _check_system),
    (Obstacle.ARCHITECTURE, _check_architecture),
    (Obstacle.PYTHON, _check_python),
    (Obstacle.COMPANION, _check_companions),
    (Obstacle.UNVERIFIED, _check_verified),
)
