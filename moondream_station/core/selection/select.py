"""Chooses the PyTorch build for a machine: pure, total, with a verdict and a sentence for every build.

docs/explanation/selection.md says how and why.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from packaging.version import Version

from moondream_station.core.builds.naming import Build, Kind, listed, parse_build
from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.visibility import describe, hiding_variable
from moondream_station.core.facts.selection import Candidate, Selection, Verdict
from moondream_station.core.selection.advice import doubts, idle_gpu_warnings, other_gpu_warnings
from moondream_station.core.selection.command import install_command
from moondream_station.core.selection.guide import guide_build, guide_order
from moondream_station.core.selection.request import OVERRIDABLE, BuildRequest, Case, Obstacle
from moondream_station.core.selection.sentences import why_chosen, why_guided, why_none, why_possible
from moondream_station.core.selection.verdicts import Judgement, judge

_RANKS = {Kind.MPS: 9, Kind.CUDA: 9, Kind.ROCM: 8, Kind.XPU: 7, Kind.CPU: 0}
_INTEGRATED_IS_LATER = 2


@dataclass(frozen=True, slots=True)
class Ranked:
    """A build that can be used, with the wheel to take.

    Args:
        build: The build's tag.
        torch: The version to take, without its local part.
        offer: The wheel.
        others: A wheel of every other torch of this build and source that is possible here, best first; where
            the requirements don't go with the first, a resolver may take one of these, and no other.
    """

    build: str
    torch: str
    offer: Offer
    others: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class SelectionResult:
    """The answer, and what to try where it does not hold.

    Args:
        selection: The answer.
        order: Every possible build, best first, the chosen one included; the chosen one alone where the
            strategy names a build.
    """

    selection: Selection
    order: tuple[Ranked, ...]


def select(request: BuildRequest, offers: Iterable[Offer]) -> SelectionResult:
    """Chooses a build among available wheels: real ones, or `BuildRequest.catalog_offers`."""
    requirements, strategy = request.requirements, request.strategy
    case = Case.of(request, offers)
    case, judgements = _judge_all(case, parse_build(strategy))
    possible = tuple(
        sorted((one for one in judgements if one.offers), key=lambda one: _worth(one, case), reverse=True)
    )
    named: tuple[str, ...] = ()
    reason: str | None
    match strategy:
        case "auto":
            order, reason = possible, why_chosen(possible[0], case) if possible else None
        case "guide":
            order, reason = _guided(possible, judgements, case)
        case _:
            order, reason, named = _forced(strategy, judgements, possible, case)
    chosen = order[0] if order else None
    # A build chosen by name needs no advice about better ones: that warning says what would be taken instead.
    idle = () if named or (possible and not order) else idle_gpu_warnings(chosen, case)
    selection = Selection(
        strategy=strategy,
        requirement=requirements.canonical,
        build=chosen.build.name if chosen else None,
        torch=chosen.best.torch if chosen else None,
        index_url=chosen.best.index_url if chosen else None,
        source=chosen.best.source if chosen else None,
        reason=reason or why_none(judgements, case),
        command=install_command(chosen.best, requirements, case) if chosen else (),
        warnings=tuple(dict.fromkeys((*requirements.warnings, *named, *idle, *_caveats(chosen, case)))),
        candidates=_candidates(order, judgements, reason or "", case),
    )
    return SelectionResult(selection, tuple(map(_ranked, order)))


def _judge_all(case: Case, forced: Build | None) -> tuple[Case, tuple[Judgement, ...]]:
    """The verdict on every build; where no build serves all GPUs of a kind, on serving as many as can be."""
    builds = case.builds if forced is None or forced in case.builds else (*case.builds, forced)
    judgements = tuple(judge(build, case) for build in builds)
    for kind in (Kind.CUDA, Kind.ROCM):
        if any(one.offers for one in judgements if one.build.kind is kind):
            continue
        if together := _served_together(kind, builds, case):
            case = case.with_hardware(case.hardware.requiring(kind, together))
            judgements = tuple(judge(build, case) for build in builds)
    return case, judgements


def _served_together(kind: Kind, builds: Iterable[Build], case: Case) -> frozenset[int]:
    """Of several GPUs in use that no build serves all of, those that one build can serve together.

    The GPU that the runtime numbers first has to be among them, because a backend computes on that one; then
    the second, and so on. Nothing where no build serves that one.
    """
    in_use = case.hardware.of_kind(kind)
    if len(in_use.gpus) < 2:  # noqa: PLR2004  a single GPU is served or it is not
        return frozenset()
    other = case.ignoring_also(Obstacle.ARCHITECTURE)
    served = {
        case.hardware.served(build, offer.version)
        for build in builds
        if build.kind is kind
        for offer in judge(build, other).offers
    }
    numbered = in_use.runtime_order
    with_the_first = (places for places in served if numbered[0] in places)
    return max(
        with_the_first, key=lambda places: [place in places for place in numbered], default=frozenset()
    )


def _worth(judgement: Judgement, case: Case) -> tuple[int, bool, Version, Build]:
    """How good a possible build is: what it computes on, then the newest torch, then the newest build.

    A pre-release that nobody asked for comes after every final release.
    """
    kind = judgement.build.kind
    gpus = case.hardware.of_kind(kind).gpus
    integrated = bool(gpus) and all(gpu.integrated for gpu in gpus) and kind is not Kind.CUDA
    return (
        _RANKS[kind] - (_INTEGRATED_IS_LATER if integrated else 0),
        not judgement.best.version.is_prerelease or bool(case.torch.versions.prereleases),
        judgement.best.version,
        judgement.build,
    )


def _guided(
    possible: tuple[Judgement, ...], judgements: tuple[Judgement, ...], case: Case
) -> tuple[tuple[Judgement, ...], str | None]:
    wanted = guide_build(case.request.capabilities, case.catalog)
    by_build = {one.build: one for one in possible}
    order = tuple(by_build[build] for build in guide_order(wanted, tuple(by_build)))
    if not order:
        return (), None
    refused = next((one for one in judgements if one.build.name == wanted and one.refusal), None)
    return order, why_guided(order[0], wanted, refused)


def _forced(
    strategy: str, judgements: tuple[Judgement, ...], possible: tuple[Judgement, ...], case: Case
) -> tuple[tuple[Judgement, ...], str | None, tuple[str, ...]]:
    """The build that the strategy names, whatever driver and GPU say."""
    named = next(one for one in judgements if one.build.name == strategy)
    better = possible[0] if possible else None
    if named.offers:
        return (
            (named,),
            f"{strategy} was chosen by name, with torch {named.best.torch}.",
            (_instead(named, better),),
        )
    stubborn = judge(named.build, case.ignoring_also(*OVERRIDABLE))
    if stubborn.refusal and stubborn.refusal.obstacle is Obstacle.UNVERIFIED:
        stubborn = judge(named.build, case.ignoring_also(*OVERRIDABLE, Obstacle.UNVERIFIED))
    if stubborn.refusal:
        return (), _without_it(stubborn.refusal.reason, better), ()
    reason = f"{strategy} was chosen by name, with torch {stubborn.best.torch}."
    refusal = named.refusal.reason if named.refusal else ""
    return (
        (stubborn,),
        reason,
        (f"{strategy} was chosen by name, although this speaks against it: {refusal}",),
    )


def _without_it(refusal: str, better: Judgement | None) -> str | None:
    """Why the named build can't be had, and what could; None where nothing can, whatever is named."""
    if better is None:
        return None
    return f"{refusal} The strategy auto takes {better.build.name} with torch {better.best.torch}."


def _instead(named: Judgement, better: Judgement | None) -> str:
    if better is None or better.build == named.build:
        return f"{named.build.name} was chosen by name; no other build is tried if it fails."
    return (
        f"{named.build.name} was chosen by name; without that, {better.build.name} with torch "
        f"{better.best.torch} would be taken. No other build is tried if it fails."
    )


def _caveats(chosen: Judgement | None, case: Case) -> tuple[str, ...]:
    """What a person should know about the choice: visibility, GPUs left out, and what nobody has verified.

    What detection noted of the machine (a driver out of step, a lost GPU) comes first: it has a remedy.
    """
    found: list[str] = list(case.request.capabilities.notes)
    for kind in (Kind.CUDA, Kind.ROCM, Kind.XPU):
        if chosen is None or chosen.build.kind in {kind, Kind.CPU}:
            found += case.hardware.of_kind(kind).warnings
    if chosen is None or chosen.build.kind is Kind.CPU:
        found += doubts(case)
    if chosen is None:
        return tuple(found)
    found += (*_left_out(chosen, case), *other_gpu_warnings(chosen, case))
    if doubt := case.hardware.doubt(chosen.build, chosen.best.version):
        found.append(doubt)
    elif not chosen.best.verified:
        found.append(
            f"torch {chosen.best.torch} on {chosen.build.name} is not in the catalog, or nobody has verified "
            "it; whether it works shows when it is verified."
        )
    return tuple(found)


def _left_out(chosen: Judgement, case: Case) -> list[str]:
    """The GPUs in use that the chosen build does not serve."""
    hardware = case.hardware
    served = hardware.required.get(chosen.build.kind)
    if served is None:
        return []
    gpus = hardware.of_kind(chosen.build.kind).gpus
    left = [
        f"{describe(gpu)} ({gpu.architecture or 'unknown'})"
        for place, gpu in enumerate(gpus)
        if place not in served
    ]
    are, them = ("are", "them") if left[1:] else ("is", "it")
    hide = f"Hide {them} with {hiding_variable(chosen.build.kind)}."
    return [f"{listed(left)} {are} left out: no build that is possible here serves all GPUs. {hide}"]


def _candidates(
    order: tuple[Judgement, ...], judgements: tuple[Judgement, ...], reason: str, case: Case
) -> tuple[Candidate, ...]:
    """Every build: the chosen one, the possible ones in order, then the rejected ones, newest first.

    The chosen one's reason is the choice's own: what `auto` would say of a build that was named is not true.
    """
    chosen = order[0] if order else None
    ordered = {one.build for one in order}
    others = [one for one in judgements if one.build not in ordered]
    possible = sorted((one for one in others if one.offers), key=lambda one: _worth(one, case), reverse=True)
    rejected = sorted(
        (one for one in others if one.refusal), key=lambda one: (_RANKS[one.build.kind], one.build)
    )
    return (
        *(
            Candidate(
                build=one.build.name,
                torch=one.best.torch,
                verdict=Verdict.CHOSEN if one is chosen else Verdict.POSSIBLE,
                reason=reason if one is chosen else why_possible(one, chosen),
            )
            for one in (*order, *possible)
        ),
        *(
            Candidate(build=one.build.name, torch=None, verdict=Verdict.REJECTED, reason=one.refusal.reason)
            for one in reversed(rejected)
            if one.refusal
        ),
    )


def _ranked(judgement: Judgement) -> Ranked:
    best = judgement.best
    others = {offer.torch: offer for offer in reversed(judgement.offers) if _same_place(offer, best)}
    others.pop(best.torch)
    return Ranked(judgement.build.name, best.torch, best, tuple(reversed(others.values())))


def _same_place(offer: Offer, other: Offer) -> bool:
    return (offer.source, offer.index_url, offer.find_links) == (
        other.source,
        other.index_url,
        other.find_links,
    )
