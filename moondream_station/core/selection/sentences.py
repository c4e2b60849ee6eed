"""What is said of a choice, one sentence each: why it was made, and what would put an idle GPU to use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from moondream_station.core.builds.hardware import Hardware
from moondream_station.core.builds.naming import GPU_KINDS, Build, Kind, last_driver, listed, numbers
from moondream_station.core.builds.offers import PLATFORMS, Offer, in_words, platform_name, pythons_of
from moondream_station.core.builds.trials import Trial
from moondream_station.core.builds.visibility import describe, hiding_all_but
from moondream_station.core.facts.capabilities import Gpu
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.selection.request import Case, Obstacle
from moondream_station.core.selection.verdicts import (
    Judgement,
    Refusal,
    best_build,
    failure_of,
    judge,
    why_not_system,
)

ANY_DRIVER = "99999.0"
_PREFERRED = (*GPU_KINDS, Kind.CPU)
_DRIVERLESS = "it has no working NVIDIA driver"
_JETSON = (
    "On a Jetson the driver comes with JetPack (580 with JetPack 7, which is for Orin and Thor alone); "
    "NVIDIA publishes its own wheels for it, which the station does not install."
)


def why_chosen(chosen: Judgement, case: Case) -> str:
    """Why `auto` takes a build."""
    torch, build = chosen.best.torch, chosen.build
    allowed = f"that {case.torch.text} allows" if case.torch.text else "available"
    newest = f"torch {torch} is the newest {allowed}"
    and_ = "and" if case.torch.text else "that"
    match build.kind:
        case Kind.CPU if any(case.hardware.of_kind(kind).is_there for kind in GPU_KINDS):
            return f"No GPU build can be used here, so the CPU build is used; {newest}."
        case Kind.CPU if any(case.hardware.of_kind(kind).uncertain for kind in GPU_KINDS):
            return f"Whether there is a GPU could not be detected, so the CPU build is used; {newest}."
        case Kind.CPU:
            return f"No GPU that PyTorch supports was found, so the CPU build is used; {newest}."
        case Kind.MPS:
            return f"{newest}, and its ordinary wheel runs on Apple silicon."
        case Kind.CUDA | Kind.ROCM | Kind.XPU:
            return f"{newest} {and_} {_on(chosen, case)} can run, on {build.name}."


def _on(chosen: Judgement, case: Case) -> str:
    gpus = case.hardware.required_gpus(chosen.build.kind)
    names = listed(map(_with_architecture, gpus)) or "this machine's GPU"
    driver = case.hardware.of_kind(chosen.build.kind).driver
    return f"{names} with driver {driver}" if driver else names


def _with_architecture(gpu: Gpu) -> str:
    if gpu.architecture is None:
        return describe(gpu)
    word = "compute capability " if gpu.vendor == "nvidia" else ""
    return f"{describe(gpu)} ({word}{gpu.architecture})"


def why_guided(chosen: Judgement, recommended: str, refusal: Refusal | None) -> str:
    """Why `guide` takes a build; names both where it is not the recommended one."""
    torch = chosen.best.torch
    if chosen.build.name == recommended:
        return f"The guide's table recommends {recommended} for this machine, with torch {torch}."
    why = f" ({refusal.reason.rstrip('.')})" if refusal else ""
    instead = f"{chosen.build.name} with torch {torch} is used instead"
    return f"The guide's table recommends {recommended}, which is not possible here{why}; {instead}."


def origin_of(offer: Offer) -> str:
    """Where torch comes from, as a further sentence, if that is AMD's or the user's own index."""
    if offer.source == "vendor":
        return " It comes from AMD's own index, and `rocm`, which it needs, is built here."
    is_own = offer.is_from_users_index or offer.source == "default"
    return f" It comes from your index {redact_url(offer.index_url)}." if is_own and offer.index_url else ""


def why_failed(judgement: Judgement, trial: Trial) -> str:
    """That a build failed on this machine, and what would make it be tried again."""
    failed = f"{judgement.named} failed on this machine on {trial.day}"
    why = (trial.failure or "").rstrip(".")
    again = "once a driver, a GPU, the kernel, torch or the catalog changes"
    return f"{failed}: {why}. It is tried again {again}, or with --strategy {judgement.build.name}."


def why_instead(chosen: Judgement, failed: Judgement, trial: Trial) -> str:
    """Why a build is chosen and not a better one, which failed on this machine."""
    return f"{chosen.named} is used, because {why_failed(failed, trial)}"


def why_possible(judgement: Judgement, chosen: Judgement | None, case: Case) -> str:
    """Why a build that could be used was not chosen."""
    if trial := failure_of(judgement, case):
        return why_failed(judgement, trial)
    name, torch = judgement.build.name, judgement.best.torch
    if judgement.build.kind is Kind.CPU:
        return f"cpu is also possible, with torch {torch}, without a GPU."
    if chosen is None:
        return f"{name} is possible, with torch {torch}."
    if judgement.best.version == chosen.best.version:
        return f"{name} is also possible, with the same torch {torch} as {chosen.build.name}."
    word = "older" if judgement.best.version < chosen.best.version else "newer"
    other = f"{chosen.build.name}'s {chosen.best.torch}"
    return f"{name} is also possible, with torch {torch}, {word} than {other}."


def why_none(judgements: tuple[Judgement, ...], case: Case) -> str:
    """Why nothing can be installed here, and what would change it."""
    target = case.target
    if target.rosetta:
        return (
            "This Python is an x86-64 build that runs under Rosetta, for which PyTorch has no usable wheel: "
            "install an arm64 Python and run the station with it."
        )
    if target.platform is None:
        remedy = f"only for {listed(map(platform_name, PLATFORMS))}. Use one of these"
        if target.is_32_bit:
            remedy = "which is a 32-bit Python's: run the station with a 64-bit one, on a 64-bit system"
        return f"PyTorch has no wheels for {target.place}, {remedy}."
    if target.system == "Linux" and target.glibc is None:
        libc = " ".join(case.request.capabilities.libc).strip() or "another C library (musl, as on Alpine?)"
        remedy = "use a distribution with glibc 2.28 or newer"
        return f"PyTorch's wheels need glibc, but this system has {libc}: {remedy}."
    is_windows_arm = target.platform == "windows_arm64"
    other_python = " An x86-64 Python, which Windows runs there too, has more." if is_windows_arm else ""
    obstacles = {judgement.refusal.obstacle for judgement in judgements if judgement.refusal}
    other = case.ignoring_also(Obstacle.PYTHON)
    offers = (offer for build in case.builds for offer in judge(build, other).offers)
    if Obstacle.PYTHON in obstacles and (pythons := pythons_of(tuple(offers))):
        wheel = f"wheel of {case.torch.text}" if case.torch.text else "wheel"
        remedy = f"use Python {in_words(pythons)}.{other_python}"
        return f"PyTorch has no {wheel} for Python {target.python_minor} on this machine: {remedy}"
    local = (case.torch.exact_version or "").partition("+")[2]
    for judgement in sorted(judgements, key=lambda judged: judged.build.name != local):
        # What stands in the way of another platform's build is nothing that its user can act on, unless the
        # requirement names that build.
        name, refusal = judgement.build.name, judgement.refusal
        if refusal is None or (
            name != local and (judgement.build.kind in GPU_KINDS or refusal.obstacle is Obstacle.PLATFORM)
        ):
            continue
        is_companion = refusal.obstacle is Obstacle.COMPANION
        # What the CPU's lacks of companions, the others lack too: torch and it are no pair.
        whose = "No build has" if is_companion and name != local else f"The {name} build has no"
        reason = re.sub(rf"^{name} has no ", f"{whose} ", refusal.reason)
        reason = re.sub(rf"^{name} ", f"The {name} build ", reason)
        wanted = case.torch.phrase_with_companions if is_companion else case.torch.phrase
        return f"Nothing satisfies {wanted} on this machine. {reason}{_allow(case, reason)}{other_python}"
    instead = "allow other versions, or see the reason of each build"
    return f"Nothing satisfies {case.torch.phrase} on this machine: {instead}."


def _allow(case: Case, reason: str) -> str:
    """What the requirement would have to allow, where the reason has not said it; companions go last."""
    for also in ((), (Obstacle.COMPANION,), (Obstacle.COMPANION, Obstacle.PYTHON)):
        if also == (Obstacle.COMPANION,) and (best := best_build(case.ignoring_also(*also))):
            companions = " and ".join(case.torch.companions)
            return f" Without {companions}, {best.named} is possible."
        if best := best_build(case.ignoring_also(Obstacle.REQUIREMENT, *also)):
            if f"The {best.build.name} build has torch {best.best.torch}, not " in reason:
                return ""
            python = f" for Python {in_words(pythons_of((best.best,)))}" if Obstacle.PYTHON in also else ""
            return f" Allow torch {best.best.torch}, which {best.build.name} has{python}."
    return ""


def idle_gpu_warnings(chosen: Judgement | None, case: Case) -> tuple[str, ...]:
    """Sentences about GPUs that would be preferred and can't be used, each with what would change it."""
    kind = chosen.build.kind if chosen else Kind.CPU
    if kind not in _PREFERRED or case.target.platform is None:
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
    cant = f"is left out: {chosen.build.name} can't use it"
    return tuple(
        f"{_names(other, case)} {cant}; strategy {best.build.name} can."
        for other in _PREFERRED[_PREFERRED.index(kind) + 1 :]
        if _is_there(other, kind, case) and (best := best_build(case, other))
    )


def doubts(case: Case) -> tuple[str, ...]:
    """Sentences about kinds of GPU that could not be detected for certain."""
    kinds = (case.hardware.of_kind(kind) for kind in _PREFERRED)
    clauses = (in_use.absence for in_use in kinds if in_use.uncertain and in_use.absence)
    return tuple(f"{clause[0].upper()}{clause[1:]}." for clause in clauses)


def _is_there(kind: Kind, chosen: Kind, case: Case) -> bool:
    """Whether there is a GPU of a kind; beside another accelerator an integrated one does not count."""
    in_use = case.hardware.of_kind(kind)
    return in_use.is_there if chosen is Kind.CPU else any(not gpu.integrated for gpu in in_use.gpus)


def _names(kind: Kind, case: Case) -> str:
    in_use = case.hardware.of_kind(kind)
    return listed(describe(gpu) for gpu in in_use.gpus or in_use.hidden) or "The GPU"


def _remedy(kind: Kind, case: Case) -> str:
    in_use = case.hardware.of_kind(kind)
    is_driverless = kind is Kind.CUDA and in_use.driver is None
    if in_use.absence and not is_driverless:
        return f"{in_use.absence}."
    if best := best_build(case, kind):
        if trial := failure_of(best, case):
            again = f"--strategy {best.build.name} tries it again"
            return f"{best.named} failed on this machine on {trial.day}; {again}."
        return f"strategy {best.build.name} can use it, with torch {best.best.torch}."
    remedies = list(_single_remedies(kind, case))
    other = case.ignoring_also(Obstacle.REQUIREMENT, Obstacle.COMPANION)
    if not remedies and kind is Kind.CUDA and (needed := lowest_driver(other)):
        driver, build, torch = needed
        allowing = f"a requirement that allows torch {torch}"
        remedies.append(f"driver {driver} or newer and {allowing} allow {build.name}.")
    if is_driverless:
        lesser = set(Obstacle) - {Obstacle.ARCHITECTURE, Obstacle.PLATFORM}
        never = _with_any_driver(case).ignoring_also(*lesser)
        if not remedies and not best_build(never, kind):
            remedies = [_first_refusal(kind, never)]
        remedies = [f"{_DRIVERLESS};", *remedies] if remedies else [f"{_DRIVERLESS}."]
    remedies = remedies or [_first_refusal(kind, case)]
    first = in_use.gpus[0].architecture if in_use.gpus else None
    if version := case.catalog.gfx_overrides.get(first or ""):
        remedies.append(f"HSA_OVERRIDE_GFX_VERSION={version} lets it run a sibling's code, untested by AMD.")
    if case.request.capabilities.surroundings == "jetson":
        remedies.append(_JETSON)
    return " ".join(remedies)


def _single_remedies(kind: Kind, case: Case) -> Iterator[str]:
    """What would make a build of a kind possible by itself: the best build without that one obstacle."""

    def best_without(*obstacles: Obstacle) -> Judgement | None:
        return best_build(case.ignoring_also(*obstacles), kind)

    if driver := _newer_driver(kind, case):
        yield driver
    if best := best_without(Obstacle.UNVERIFIED):
        yield f"{best.named} can use it, if that wheel exists, which is not confirmed."
    best = best_without(Obstacle.REQUIREMENT, Obstacle.COMPANION)
    if best and not case.torch.versions.contains(best.best.full_version, prereleases=True):
        yield f"{best.named} can use it, but {case.torch.phrase} does not allow that torch."
    if best := best_without(Obstacle.COMPANION):
        yield f"{best.named} can use it, without {' and '.join(case.torch.companions)}."
    if best := best_without(Obstacle.SYSTEM):
        yield why_not_system(best.build, best.best, case)
    if best := best_without(Obstacle.PYTHON):
        yield f"{best.named} has wheels for Python {in_words(pythons_of((best.best,)))}."
    yield from _other_visibility(kind, case)


def _first_refusal(kind: Kind, case: Case) -> str:
    """The most telling reason of a build of a kind: about the GPU itself rather than about the build."""
    builds = [build for build in reversed(case.builds) if build.kind is kind]
    judgements = [judge(build, case) for build in builds if not case.catalog.source_builds.get(build.name)]
    refusals = [judgement.refusal for judgement in judgements if judgement.refusal]
    telling = (Obstacle.ARCHITECTURE, Obstacle.HARDWARE, Obstacle.SYSTEM, Obstacle.PLATFORM)
    reasons = (refusal.reason for obstacle in telling for refusal in refusals if refusal.obstacle is obstacle)
    return next(reasons, "PyTorch has no build for it on this platform.")


def _newer_driver(kind: Kind, case: Case) -> str | None:
    """The lowest driver that makes a build possible, and the one of the best build where that is higher."""
    if kind is not Kind.CUDA or (needed := lowest_driver(case)) is None:
        return None
    driver, build, torch = needed
    newer = "or newer on Windows" if case.request.capabilities.surroundings == "wsl2" else "or newer"
    last = max((last_driver(gpu.architecture) or 0 for gpu in case.hardware.of_kind(kind).gpus), default=0)
    newer = f"or newer, {last} at most," if last else newer
    sentence = f"driver {driver} {newer} allows {build.name} with torch {torch}"
    other = _with_any_driver(case)
    best = best_build(other, kind)
    top = best and case.hardware.needed_driver(best.build, other.hardware.of_kind(kind).gpus)
    if best is None or top is None or best.build == build:
        return f"{sentence}."
    return f"{sentence}, driver {top} or newer {best.named}."


def lowest_driver(case: Case) -> tuple[str, Build, str] | None:
    """The lowest driver with which some CUDA build is possible, with that build and its torch."""
    other = _with_any_driver(case)
    gpus = other.hardware.of_kind(Kind.CUDA).gpus
    judgements = [judge(build, other) for build in case.builds if build.kind is Kind.CUDA]
    possible = [judgement for judgement in judgements if judgement.offers]
    newest_first = sorted(possible, key=lambda known: (known.best.version, known.build), reverse=True)
    rows = [(case.hardware.needed_driver(known.build, gpus), known) for known in newest_first]
    allowed = [(driver, known.build, known.best.torch) for driver, known in rows if driver]
    return min(allowed, key=lambda row: numbers(row[0]), default=None)


def _other_visibility(kind: Kind, case: Case) -> Iterator[str]:
    """Which of several GPUs would be served if the others were hidden, and which hidden one would be."""
    in_use, other = case.hardware.of_kind(kind), case.ignoring_also(Obstacle.ARCHITECTURE)
    serving = [
        (offer.version, build, served)
        for build in case.builds
        if build.kind is kind and in_use.gpus[1:]
        for offer in judge(build, other).offers
        if (served := case.hardware.served(build, offer.version))
    ]
    if serving:
        torch, build, served = max(serving, key=lambda row: row[:2])
        gpus = [in_use.gpus[place] for place in sorted(served)]
        names, hiding = listed(map(describe, gpus)), hiding_all_but(gpus, kind)
        yield f"{build.name} with torch {torch} can use {names} alone: hide the others with {hiding}."
    yield from _hidden(kind, in_use.beside, case)


def listed_first(chosen: Judgement, case: Case) -> Iterator[str]:
    """Integrated GPUs that AMD's runtime may list first on Windows (ROCm/TheRock#3392, #5543)."""
    kind = chosen.build.kind
    in_use = case.hardware.of_kind(kind)
    if in_use.integrated and case.target.system == "Windows":
        first = f"AMD's runtime may list {listed(map(describe, in_use.integrated))} first"
        choose = f"{hiding_all_but(in_use.gpus, kind)} makes it use {listed(map(describe, in_use.gpus))}"
        yield f"{first}, and torch compute there; {choose}."


def hidden_gpus(chosen: Judgement, case: Case) -> Iterator[str]:
    """Discrete GPUs that variables hide where a build is chosen for an integrated one."""
    in_use = case.hardware.of_kind(chosen.build.kind)
    if all(gpu.integrated for gpu in in_use.gpus):
        discrete = tuple(gpu for gpu in in_use.beside if gpu.integrated is False)
        yield from _hidden(chosen.build.kind, discrete, case)


def _hidden(kind: Kind, gpus: Iterable[Gpu], case: Case) -> Iterator[str]:
    in_use = case.hardware.of_kind(kind)
    for gpu in gpus:
        alone = {**case.hardware.in_use, kind: replace(in_use, gpus=(gpu,))}
        if best := best_build(replace(case, hardware=replace(case.hardware, in_use=alone)), kind):
            yield f"{in_use.hiding} hides {_with_architecture(gpu)}, which {best.named} can use."


def _with_any_driver(case: Case) -> Case:
    capabilities = replace(case.request.capabilities, nvidia_driver=ANY_DRIVER)
    return replace(
        case,
        hardware=Hardware.of(
            capabilities, case.target, case.catalog, case.request.trials, asks_amd=case.request.asks_amd
        ),
    )
