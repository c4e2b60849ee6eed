"""The pip command that installs what was chosen, for people who want to run it themselves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.selection.request import COMPANIONS, Case

_PIP = ("python", "-m", "pip", "install")
_UNPINNED_COMPANION = "torchaudio"  # 2.11.0 names no torch, so pip would pair it with any


def install_command(offer: Offer, requirements: Requirements, case: Case) -> tuple[str, ...]:
    """The command as an argument list: the requirements as they were written, from the chosen index.

    Of an index of PyTorch's those that it serves, because it has no other packages, or stale ones. Where pip
    by itself would take another torch, the chosen one is pinned; a wheel from find-links always is, and so is
    everything where the user's extra indexes count as much for pip as the chosen one.
    """
    is_of_pytorch = offer.source in {"index", "vendor"} and offer.build != "mps"
    if is_of_pytorch:
        requirements = requirements.of_family()
    texts = requirements.texts or ("torch",)
    if offer.source == "find-links":
        place = offer.find_links or (offer.url or "").rpartition("/")[0]
        return (*_PIP, *_pinned(requirements, offer, case), "--find-links", place)
    if case.request.mixes_indexes or _would_differ(offer, case):
        texts = _pinned(requirements, offer, case)
    index = ("--index-url", offer.index_url) if is_of_pytorch and offer.index_url else ()
    return (*_PIP, *(_with_extras(text, offer) for text in texts), *index)


def _with_extras(text: str, offer: Offer) -> str:
    """A requirement with the extras that bring the code for this machine's GPUs: AMD's torch and vision."""
    item = Requirement(text)
    if not offer.extras or canonicalize_name(item.name) not in {"torch", "torchvision"}:
        return text
    item.extras |= set(offer.extras)
    return str(item)


def _would_differ(offer: Offer, case: Case) -> bool:
    """Whether pip would take a newer torch from the same place: it knows neither driver nor GPU."""
    newer = [
        other
        for other in chain(*case.offers.values())
        if (other.source, other.index_url) == (offer.source, offer.index_url)
        and other.version > offer.version
        and (other.is_real or other.verified)
        and other.fits_system(case.target)
        and other.fits_python(case.target)
    ]
    allowed = case.torch.versions.filter(newer, key=lambda other: other.full_version)
    # Without a final release among them the filter would let pre-releases through, which pip does not.
    return any(not other.version.is_prerelease or case.torch.versions.prereleases for other in allowed)


def _pinned(requirements: Requirements, offer: Offer, case: Case) -> tuple[str, ...]:
    """The requirements with torch at the chosen version, and torchaudio at the one that fits it."""
    is_exact = case.request.mixes_indexes or offer.source == "find-links"
    pins: dict[str, Sequence[str]] = {"torch": (str(offer.full_version) if is_exact else offer.torch,)}
    for name in COMPANIONS if case.request.mixes_indexes else (_UNPINNED_COMPANION,):
        pins[name] = case.catalog.companions(name, offer.torch) or ()
    applicable = requirements.applicable(case.target.markers)
    chosen: list[str] = []
    for item, text in zip(applicable.items, applicable.texts, strict=True):
        name = canonicalize_name(item.name)
        fitting = item.specifier.filter(pins.get(name, ()), prereleases=True)
        pin = next(iter(fitting), None)
        extras = f"[{','.join(sorted(item.extras))}]" if item.extras else ""
        chosen.append(text if pin is None else f"{name}{extras}=={pin}")
    if not any(canonicalize_name(item.name) == "torch" for item in applicable.items):
        chosen.insert(0, f"torch=={pins['torch'][0]}")
    return tuple(dict.fromkeys(chosen))
