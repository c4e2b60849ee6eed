"""What would change a choice that leaves a GPU idle: a newer driver, an older torch, another Python."""

from __future__ import annotations

from dataclasses import replace

from moondream_station.core.builds.hardware import Hardware
from moondream_station.core.builds.naming import Build, Kind, listed
from moondream_station.core.builds.pythons import in_words, pythons_of
from moondream_station.core.builds.visibility import describe, hiding_variable
from moondream_station.core.selection.request import Case, Obstacle
from moondream_station.core.selection.verdicts import Judgement, judge, why_not_system

_ANY_DRIVER = "99999.0"
_PREFERRED = (Kind.CUDA, Kind.ROCM, Kind.XPU, Kind.CPU)
_DRIVERLESS = "it has no NVIDIA driver that works"
_JETSON = "NVIDIA makes wheels of its own for Jetson, which the station does not install."


def idle_gpu_warnings(chosen: Judgement | None, case: Case) -> tuple[str, ...]:
    """Sentences about GPUs that would be preferred and can't be used, each with what would change it.

    Args:
        chosen: What was chosen, None where nothing could be.
        case: The case it answers.
    """
    kind = chosen.build.kind if chosen else Kind.CPU
    if kind not in _PREFERRED:
        return ()
    return tuple(
        f"{_names(idle, case)} will not be used: {_remedy(idle, case)}"
        for idle in _PREFERRED[: _PREFERRED.index(kind)]
        if _is_there(idle, kind, case)
    )


def other_gpu_warnings(chosen: Judgement, case: Case) -> tuple[str, ...]:
    """Sentences about discrete GPUs of another maker that a build chosen for a preferred one leaves out."""
    kind = chosen.build.kind
    if kind not in _PREFERRED:
        return ()
    return tuple(
        f"{_names(other, case)} is left out: {chosen.build.name} does not compute on it; the strategy "
        f"{best.build.name} would take it instead."
        for other in _PREFERRED[_PREFERRED.index(kind) + 1 :]
        if _is_there(other, kind, case) and (best := _best(other, case))
    )


def doubts(case: Case) -> tuple[str, ...]:
    """Sentences about GPUs of which could not be found out if there are any."""
    found = (case.hardware.of_kind(kind) for kind in _PREFERRED)
    return tuple(
        f"{in_use.absence[0].upper()}{in_use.absence[1:]}."
        for in_use in found
        if in_use.uncertain and in_use.absence
    )


def _is_there(kind: Kind, chosen: Kind, case: Case) -> bool:
    """Whether there is a GPU of a kind; beside another accelerator an integrated one does not count."""
    in_use = case.hardware.of_kind(kind)
    if chosen is Kind.CPU:
        return in_use.is_there
    return any(not gpu.integrated for gpu in in_use.gpus)


def _names(kind: Kind, case: Case) -> str:
    in_use = case.hardware.of_kind(kind)
    names = listed(describe(gpu) for gpu in in_use.gpus or in_use.hidden)
    return names or "The GPU"


def _remedy(kind: Kind, case: Case) -> str:
    in_use = case.hardware.of_kind(kind)
    is_driverless = kind is Kind.CUDA and in_use.driver is None
    if in_use.absence and not is_driverless:
        return f"{in_use.absence}."
    if best := _best(kind, case):
        return f"the strategy {best.build.name} would take it, with torch {best.best.torch}."
    tries = (
        _newer_driver(kind, case),
        _unverified_wheel(kind, case),
        _older_torch(kind, case),
        _without_companions(kind, case),
        _newer_system(kind, case),
        _other_python(kind, case),
        _hidden_gpus(kind, case),
    )
    found = [sentence for sentence in tries if sentence]
    if not found and (both := _newer_driver_and_older_torch(kind, case)):
        found.append(both)
    if is_driverless:
        found = [f"{_DRIVERLESS};", *found] if found else [f"{_DRIVERLESS}."]
    found = found or [_first_refusal(kind, case)]
    if case.request.capabilities.surroundings == "jetson":
        found.append(_JETSON)
    return " ".join(found)


def _first_refusal(kind: Kind, case: Case) -> str:
    """The most telling reason of a build of a kind: about the GPU itself rather than about the build."""
    builds = [build for build in reversed(case.builds) if build.kind is kind]
    judgements = [judge(one, case) for one in builds if not case.catalog.source_build(one.name)]
    refusals = [one.refusal for one in judgements if one.refusal]
    for obstacle in (Obstacle.ARCHITECTURE, Obstacle.HARDWARE, Obstacle.SYSTEM, Obstacle.PLATFORM):
        for refusal in refusals:
            if refusal.obstacle is obstacle:
                return refusal.reason
    return "PyTorch has no build for it on this platform."


def _newer_driver(kind: Kind, case: Case) -> str | None:
    """The lowest driver that makes a build possible, and the one of the best build where that is higher."""
    if kind is not Kind.CUDA or (needed := _lowest_driver(case)) is None:
        return None
    driver, build, torch = needed
    sentence = f"driver {driver} or newer makes {build.name} with torch {torch} possible"
    other = _with_any_driver(case)
    best = _best(kind, other)
    top = best and case.hardware.needed_driver(best.build, other.hardware.of_kind(kind).gpus)
    if best is None or top is None or best.build == build:
        return f"{sentence}."
    return f"{sentence}, driver {top} or newer {best.build.name} with torch {best.best.torch}."


def _lowest_driver(case: Case) -> tuple[str, Build, str] | None:
    """The lowest driver with which some CUDA build is possible, with that build and its torch."""
    other = _with_any_driver(case)
    found: list[tuple[tuple[int, ...], str, Judgement]] = []
    for build in case.builds:
        if build.kind is not Kind.CUDA:
            continue
        judgement = judge(build, other)
        driver = case.hardware.needed_driver(build, other.hardware.of_kind(Kind.CUDA).gpus)
        if judgement.offers and driver:
            found.append((tuple(map(int, driver.split("."))), driver, judgement))
    if not found:
        return None
    lowest = min(number for number, _, _ in found)
    _, driver, judgement = max(
        (one for one in found if one[0] == lowest), key=lambda one: (one[2].best.version, one[2].build)
    )
    return driver, judgement.build, judgement.best.torch


def _older_torch(kind: Kind, case: Case) -> str | None:
    best = _best(kind, case.ignoring_also(Obstacle.REQUIREMENT, Obstacle.COMPANION))
    if best is None or case.torch.versions.contains(best.best.full_version, prereleases=True):
        return None
    return (
        f"{best.build.name} with torch {best.best.torch} would run on it, which {case.torch.phrase} "
        "does not allow."
    )


def _without_companions(kind: Kind, case: Case) -> str | None:
    best = _best(kind, case.ignoring_also(Obstacle.COMPANION))
    if best is None:
        return None
    companions = " and ".join(case.torch.companions)
    return f"{best.build.name} with torch {best.best.torch} would run on it, without {companions}."


def _unverified_wheel(kind: Kind, case: Case) -> str | None:
    best = _best(kind, case.ignoring_also(Obstacle.UNVERIFIED))
    if best is None:
        return None
    return (
        f"{best.build.name} with torch {best.best.torch} would run on it, if there is such a wheel: nobody "
        "has verified that."
    )


def _newer_system(kind: Kind, case: Case) -> str | None:
    """The C library that the best build's wheel needs, where nothing else is in its way."""
    best = _best(kind, case.ignoring_also(Obstacle.SYSTEM))
    return why_not_system(best.build, best.best, case) if best else None


def _other_python(kind: Kind, case: Case) -> str | None:
    best = _best(kind, case.ignoring_also(Obstacle.PYTHON))
    if best is None:
        return None
    pythons = in_words(pythons_of((best.best,)))
    return f"{best.build.name} with torch {best.best.torch} has wheels for Python {pythons}."


def _hidden_gpus(kind: Kind, case: Case) -> str | None:
    """Of several GPUs, what would run on some if the others were hidden."""
    gpus = case.hardware.of_kind(kind).gpus
    judgements = (
        judge(build, case.ignoring_also(Obstacle.ARCHITECTURE)) for build in case.builds if build.kind is kind
    )
    some = [
        (offer.version, one.build, served)
        for one in judgements
        for offer in one.offers
        if (served := case.hardware.served(one.build, offer.version))
    ]
    if len(gpus) == 1 or not some:
        return None
    torch, build, served = max(some, key=lambda found: found[:2])
    names = listed(describe(gpus[place]) for place in sorted(served))
    variable = hiding_variable(kind)
    return f"{build.name} with torch {torch} would run on {names} alone, once {variable} hides the others."


def _newer_driver_and_older_torch(kind: Kind, case: Case) -> str | None:
    if kind is not Kind.CUDA:
        return None
    relaxed = case.ignoring_also(Obstacle.REQUIREMENT, Obstacle.COMPANION)
    needed = _lowest_driver(relaxed)
    if needed is None:
        return None
    driver, build, torch = needed
    return (
        f"driver {driver} or newer and a requirement that allows torch {torch} would make {build.name} "
        "possible."
    )


def _with_any_driver(case: Case) -> Case:
    """The same machine with the newest driver that there could be."""
    capabilities = replace(case.request.capabilities, nvidia_driver=_ANY_DRIVER)
    hardware = Hardware.of(capabilities, case.target, case.catalog)
    return case.with_hardware(hardware)


def _best(kind: Kind, case: Case) -> Judgement | None:
    """The best possible build of a kind."""
    judgements = [judge(build, case) for build in case.builds if build.kind is kind]
    possible = [judgement for judgement in judgements if judgement.offers]
    return max(possible, key=lambda one: (one.best.version, one.build), default=None)
