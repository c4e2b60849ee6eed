"""What the selection says to people: one sentence for each build, and one for the choice."""

from __future__ import annotations

from moondream_station.core.builds.naming import Kind, listed
from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.pythons import in_words, pythons_of
from moondream_station.core.builds.visibility import describe
from moondream_station.core.facts.capabilities import Gpu
from moondream_station.core.selection.request import Case, Obstacle
from moondream_station.core.selection.verdicts import Judgement, judge

_GPU_KINDS = (Kind.CUDA, Kind.ROCM, Kind.XPU)


def why_chosen(chosen: Judgement, case: Case) -> str:
    """Why `auto` takes a build."""
    torch, build = chosen.best.torch, chosen.build
    newest = f"torch {torch} is the newest that "
    newest += f"{case.torch.text} allows" if case.torch.text else "can be had"
    match build.kind:
        case Kind.CPU if any(case.hardware.of_kind(kind).is_there for kind in _GPU_KINDS):
            return f"No build for a GPU can be used here, so the processor computes; {newest}."
        case Kind.CPU if any(case.hardware.of_kind(kind).uncertain for kind in _GPU_KINDS):
            return f"Whether there is a GPU could not be found out, so the processor computes; {newest}."
        case Kind.CPU:
            return f"There is no GPU that PyTorch supports, so the processor computes; {newest}."
        case Kind.MPS:
            return f"{newest}, and its ordinary wheel computes on Apple silicon."
        case Kind.CUDA | Kind.ROCM | Kind.XPU:
            return f"{newest} and {_on(chosen, case)} can run, on {build.name}."


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


def why_guided(chosen: Judgement, wanted: str, refused: Judgement | None) -> str:
    """Why `guide` takes a build; names both where it is not the recommended one."""
    torch = chosen.best.torch
    if chosen.build.name == wanted:
        return f"The guide's table recommends {wanted} for this machine, with torch {torch}."
    why = f" ({refused.refusal.reason.rstrip('.')})" if refused and refused.refusal else ""
    return (
        f"The guide's table recommends {wanted}, which is not possible here{why}; "
        f"{chosen.build.name} with torch {torch} is taken instead."
    )


def why_possible(judgement: Judgement, chosen: Judgement | None) -> str:
    """Why a build that could be used was not chosen."""
    name, torch = judgement.build.name, judgement.best.torch
    if judgement.build.kind is Kind.CPU:
        return f"cpu is possible too, with torch {torch}, without a GPU."
    if chosen is None:
        return f"{name} is possible, with torch {torch}."
    if judgement.best.version == chosen.best.version:
        return f"{name} is possible too, with the same torch {torch} as {chosen.build.name}."
    word = "older" if judgement.best.version < chosen.best.version else "newer"
    return (
        f"{name} is possible too, with torch {torch}, {word} than {chosen.build.name}'s {chosen.best.torch}."
    )


def why_none(judgements: tuple[Judgement, ...], case: Case) -> str:
    """Why nothing can be installed here, and what would change it."""
    target, wanted = case.target, case.torch
    if target.rosetta:
        return (
            "This Python is an x86-64 one that Rosetta translates on Apple silicon, for which there is no "
            "usable PyTorch wheel: install an arm64 Python and run the station with it."
        )
    if target.platform is None:
        way = "Use one of these."
        if (target.system, target.machine.lower()) == ("Windows", "arm64"):
            way = "An x86-64 Python, which Windows runs there too, can use the processor's build."
        return (
            f"PyTorch has no wheels for {target.place}; it has them for Linux on x86-64 and ARM64, Windows "
            f"on x86-64, and macOS. {way}"
        )
    if target.system == "Linux" and target.glibc is None:
        libc = " ".join(case.request.capabilities.libc).strip() or "another C library (musl, as on Alpine?)"
        return (
            f"PyTorch's wheels need glibc, and this system has {libc}: use a distribution with glibc 2.28 "
            "or newer."
        )
    obstacles = {judgement.refusal.obstacle for judgement in judgements if judgement.refusal}
    if Obstacle.PYTHON in obstacles and (pythons := _pythons_that_would(case)):
        asked = f" of {wanted.text}" if wanted.text else ""
        return (
            f"PyTorch has no wheel{asked} for Python {target.python_minor} on this machine: "
            f"use Python {in_words(pythons)}."
        )
    for judgement in judgements:
        if judgement.build.kind in {Kind.CPU, Kind.MPS} and judgement.refusal and _tells(judgement):
            reason = f"{judgement.refusal.reason}{_allow(case)}"
            return f"Nothing satisfies {wanted.phrase} on this machine. {reason}"
    return (
        f"Nothing satisfies {wanted.phrase} on this machine: allow other versions, or see what is said "
        "of each build."
    )


def _tells(judgement: Judgement) -> bool:
    """Whether a refusal says something about this machine that its user can act on."""
    return judgement.refusal is not None and judgement.refusal.obstacle is not Obstacle.PLATFORM


def _allow(case: Case) -> str:
    """What the requirement would have to allow, as a sentence; the companions are given up last."""
    relaxed = case.ignoring_also(Obstacle.REQUIREMENT, Obstacle.COMPANION)
    if best := _best(case.ignoring_also(Obstacle.REQUIREMENT)):
        return f" Allow torch {best.best.torch}, which {best.build.name} has."
    if best := _best(case.ignoring_also(Obstacle.COMPANION)):
        companions = " and ".join(case.torch.companions)
        return f" Without {companions}, {best.build.name} with torch {best.best.torch} is possible."
    if best := _best(relaxed):
        return f" Allow torch {best.best.torch}, which {best.build.name} has."
    if best := _best(relaxed.ignoring_also(Obstacle.PYTHON)):
        pythons = in_words(pythons_of((best.best,)))
        return f" Allow torch {best.best.torch}, which {best.build.name} has for Python {pythons}."
    return ""


def _best(case: Case) -> Judgement | None:
    """The best possible build, a GPU's before the processor's; None where there is none."""
    possible = [one for build in case.builds if (one := judge(build, case)).offers]
    return max(
        possible, key=lambda one: (one.build.kind in _GPU_KINDS, one.best.version, one.build), default=None
    )


def _pythons_that_would(case: Case) -> tuple[str, ...]:
    """The Pythons with which some build would be possible here."""
    other = case.ignoring_also(Obstacle.PYTHON)
    offers: list[Offer] = []
    for build in case.builds:
        offers += judge(build, other).offers
    return pythons_of(tuple(offers))
