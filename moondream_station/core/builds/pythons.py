"""Which Pythons a wheel of torch is for."""

from __future__ import annotations

from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.target import Target


def fits_python(offer: Offer, target: Target) -> bool:
    """Whether an offer has a wheel for a target's Python; what the wheel needs of the system is not asked."""
    if not offer.is_real:
        return target.python_minor in offer.pythons
    if offer.requires_python and not _accepts(offer.requires_python, target.python_full):
        return False
    return any((tag.interpreter, tag.abi) in target.python_tags for tag in offer.tags)


@lru_cache(maxsize=1024)
def _accepts(requires_python: str, python: str) -> bool:
    try:
        return SpecifierSet(requires_python).contains(python, prereleases=True)
    except InvalidSpecifier:  # an index may hold anything; its file name still decides
        return True


def pythons_of(offers: tuple[Offer, ...]) -> tuple[str, ...]:
    """The Pythons that offers have wheels for, oldest first, free-threaded ones last."""
    found = {python for offer in offers for python in offer.pythons}
    for offer in offers:
        for tag in offer.tags:
            digits = tag.interpreter.removeprefix("cp")
            if tag.interpreter.startswith("cp") and len(digits) > 1:
                found.add(f"{digits[0]}.{digits[1:]}{'t' if tag.abi.endswith('t') else ''}")
    return tuple(sorted(found, key=lambda python: (python.endswith("t"), Version(python.rstrip("t")))))


def in_words(pythons: tuple[str, ...]) -> str:
    """Pythons for a sentence, runs of them shortened: "3.9 to 3.13, 3.13t"."""
    runs: list[list[str]] = []
    for python in pythons:
        if runs and _follows(runs[-1][-1], python):
            runs[-1].append(python)
        else:
            runs.append([python])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs) or "none"


def _follows(python: str, after: str) -> bool:
    """Whether one Python is the next minor version of another, of the same threading."""
    if python.endswith("t") != after.endswith("t"):
        return False
    (major, minor), (next_major, next_minor) = (
        map(int, version.rstrip("t").split(".")) for version in (python, after)
    )
    return (major, minor + 1) == (next_major, next_minor)
