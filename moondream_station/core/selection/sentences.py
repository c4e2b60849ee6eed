"""Why a build is chosen, possible or not chosen, and why none is: one sentence each."""

from __future__ import annotations

import re

from moondream_station.core.builds.naming import GPU_KINDS, Kind, listed
from moondream_station.core.builds.offers import Offer, in_words, pythons_of
from moondream_station.core.builds.target import platform_names
from moondream_station.core.builds.visibility import describe
from moondream_station.core.facts.capabilities import Gpu
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.selection.request import Case, Obstacle
from moondream_station.core.selection.verdicts import Judgement, Refusal, best_build, judge


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
    """The GPUs that a build serves, with the driver, for a sentence."""
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
    return (
        f"The guide's table recommends {recommended}, which is not possible here{why}; "
        f"{chosen.build.name} with torch {torch} is used instead."
    )


def origin_of(offer: Offer) -> str:
    """The user's own index, as a further sentence, where torch comes from it; else nothing."""
    is_own = offer.is_from_users_index or offer.source == "default"
    return f" It comes from your index {redact_url(offer.index_url)}." if is_own and offer.index_url else ""


def why_possible(judgement: Judgement, chosen: Judgement | None) -> str:
    """Why a build that could be used was not chosen."""
    name, torch = judgement.build.name, judgement.best.torch
    if judgement.build.kind is Kind.CPU:
        return f"cpu is also possible, with torch {torch}, without a GPU."
    if chosen is None:
        return f"{name} is possible, with torch {torch}."
    if judgement.best.version == chosen.best.version:
        return f"{name} is also possible, with the same torch {torch} as {chosen.build.name}."
    word = "older" if judgement.best.version < chosen.best.version else "newer"
    return (
        f"{name} is also possible, with torch {torch}, {word} than {chosen.build.name}'s {chosen.best.torch}."
    )


def why_contradictory(case: Case) -> str | None:
    """Why the requirements can be satisfied nowhere, None where they can."""
    contradiction = case.torch.contradiction
    return f"Nothing satisfies {contradiction}. Change or remove what conflicts." if contradiction else None


def why_none(judgements: tuple[Judgement, ...], case: Case) -> str:
    """Why nothing can be installed here, and what would change it."""
    target = case.target
    if target.rosetta:
        return (
            "This Python is an x86-64 build that runs under Rosetta, for which PyTorch has no usable wheel: "
            "install an arm64 Python and run the station with it."
        )
    if target.platform is None:
        places = listed(platform_names())
        return f"PyTorch has no wheels for {target.place}, only for {places}. Use one of these."
    if target.system == "Linux" and target.glibc is None:
        libc = " ".join(case.request.capabilities.libc).strip() or "another C library (musl, as on Alpine?)"
        return (
            f"PyTorch's wheels need glibc, but this system has {libc}: use a distribution with glibc 2.28 or "
            "newer."
        )
    is_windows_arm = target.platform == "windows_arm64"
    other_python = " An x86-64 Python, which Windows runs there too, has more." if is_windows_arm else ""
    obstacles = {judgement.refusal.obstacle for judgement in judgements if judgement.refusal}
    if Obstacle.PYTHON in obstacles and (pythons := _pythons_that_would(case)):
        of = f" of {case.torch.text}" if case.torch.text else ""
        return (
            f"PyTorch has no wheel{of} for Python {target.python_minor} on this machine: "
            f"use Python {in_words(pythons)}.{other_python}"
        )
    for judgement in judgements:
        # What stands in the way of another platform's build is nothing that its user can act on.
        refusal = judgement.refusal
        if (
            judgement.build.kind in {Kind.CPU, Kind.MPS}
            and refusal
            and refusal.obstacle is not Obstacle.PLATFORM
        ):
            name = judgement.build.name
            reason = re.sub(rf"^{name} ", f"The {name} build ", refusal.reason)
            advice = f"{_allow(case, reason)}{other_python}"
            is_companion = refusal.obstacle is Obstacle.COMPANION
            wanted = case.torch.phrase_with_companions if is_companion else case.torch.phrase
            return f"Nothing satisfies {wanted} on this machine. {reason}{advice}"
    return (
        f"Nothing satisfies {case.torch.phrase} on this machine: allow other versions, or see the reason of "
        "each build."
    )


def _allow(case: Case, reason: str) -> str:
    """What the requirement would have to allow, as a sentence; the companions are given up last.

    Empty where the reason has said it already.
    """
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


def _pythons_that_would(case: Case) -> tuple[str, ...]:
    """The Pythons with which some build would be possible here."""
    other = case.ignoring_also(Obstacle.PYTHON)
    return pythons_of(tuple(offer for build in case.builds for offer in judge(build, other).offers))
