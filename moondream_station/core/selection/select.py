"""Chooses the PyTorch build for a machine: pure, total, with a verdict and a sentence for every build.

docs/explanation/selection.md says how and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import GPU_KINDS, Build, Kind, listed, numbers, parse_build
from moondream_station.core.builds.offers import Offer, target_of
from moondream_station.core.builds.visibility import describe, hiding_all_but, nvidia_in_use
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.events import Degraded
from moondream_station.core.facts.selection import Candidate, Selection, Verdict
from moondream_station.core.selection import sentences
from moondream_station.core.selection.command import install_command
from moondream_station.core.selection.request import OVERRIDABLE, BuildRequest, Case, Obstacle
from moondream_station.core.selection.verdicts import Judgement, Judgements, failure_of, judge

_RANKS = {Kind.MPS: 9, Kind.CUDA: 9, Kind.ROCM: 8, Kind.XPU: 7, Kind.CPU: 0}
_INTEGRATED_IS_LATER = 2
_GUIDE: tuple[tuple[tuple[int, int], str], ...] = (
    ((12, 4), "cu124"),  # the guide: CUDA 13.0 and later too, "future-proofing"
    ((12, 0), "cu121"),
    ((11, 8), "cu118"),
)
"""The table of the system-aware installation guide: from the driver's CUDA to a build."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A build that can be used, with the wheel to take.

    `others` are a wheel of every other torch of this build and source that is possible here, best first:
    where the requirements don't go with the first, a resolver may take one of these, and no other.
    """

    build: str
    torch: str
    offer: Offer
    others: tuple[Offer, ...]

    @classmethod
    def of(cls, judgement: Judgement) -> Ranked:
        """The wheels of a possible build."""
        best = judgement.best
        others = {offer.torch: offer for offer in reversed(judgement.offers) if offer.place == best.place}
        others.pop(best.torch)
        return cls(judgement.build.name, best.torch, best, tuple(reversed(others.values())))


@dataclass(frozen=True, slots=True)
class SelectionResult:
    """The answer, and what to try where it does not hold: the possible builds, best first, or a named one."""

    selection: Selection
    order: tuple[Ranked, ...]
    degraded: Degraded | None = None
    """What the machine should have had, where the CPU build is chosen because that failed here."""


def select(request: BuildRequest, offers: Iterable[Offer], *, is_complete: bool = True) -> SelectionResult:
    """Chooses a build among available wheels: real ones, or `BuildRequest.catalog_offers`.

    They are not complete where a place that was asked for them did not answer.
    """
    requirements, strategy = request.requirements, request.strategy
    forced = parse_build(strategy)
    case, judgements = _judge_all(Case.of(request, offers), forced)
    # Rather than nothing, a wheel that nobody saw: what is wrong with it is found after installation. Failing
    # that, PyPI's own: without the GPU that it was built for, it computes on the CPU. That takes gigabytes:
    # no answer to an index that is silent for now, unless the CPU was asked for.
    instead = [case.ignoring_also(Obstacle.UNVERIFIED)] if forced is None else []
    if is_complete if forced is None else forced.kind is Kind.CPU:
        instead.append(case.with_pypi_on_cpu())
    while instead and not any(judged.offers for judged in judgements):
        other, others = _judge_all(instead.pop(0), forced)
        if any(judged.offers for judged in others):
            case, judgements = other, others
    usable = (judged for judged in judgements if judged.offers)
    possible = tuple(sorted(usable, key=lambda judged: _worth(judged, case), reverse=True))
    failed = {judged.build: trial for judged in possible if (trial := failure_of(judged, case))}
    about_name: str | None = None
    reason: str | None
    if strategy == "auto":
        order, reason = possible, sentences.why_chosen(possible[0], case) if possible else None
    elif strategy == "guide":
        order, reason = _guided(possible, judgements, case)
    else:
        order, reason, about_name = _named(strategy, judgements, possible, case)
    degraded = None
    if forced is None and order and (trial := failed.get(order[0].build)):
        # What failed here, and nothing has changed since, has its turn after what may work.
        best, order = order[0], tuple(sorted(order, key=lambda judged: judged.build in failed))
        if order[0] is not best:
            reason = sentences.why_instead(order[0], best, trial)
        if order[0].build.kind is Kind.CPU:
            degraded = Degraded(wanted=best.build.name, reason=trial.failure or "")
    chosen = order[0] if order else None
    if chosen and reason:
        reason += sentences.origin_of(chosen.best)
    # A build that was named needs no advice about better ones: that warning says what auto would use.
    idle = () if about_name or (possible and not order) else sentences.idle_gpu_warnings(chosen, case)
    named = (about_name,) if about_name else ()
    selection = Selection(
        strategy=strategy,
        requirement=requirements.texts,
        build=chosen.build.name if chosen else None,
        torch=chosen.best.torch if chosen else None,
        index_url=chosen.best.index_url if chosen else None,
        source=chosen.best.source if chosen else None,
        reason=reason or case.torch.contradiction or sentences.why_none(judgements, case),
        command=install_command(chosen.best, requirements, case) if chosen else (),
        warnings=tuple(dict.fromkeys((*requirements.warnings, *named, *idle, *_caveats(chosen, case)))),
        candidates=_candidates(order, possible, judgements, reason or "", case),
        unrelated=tuple(judged.build.name for judged in judgements if _is_unrelated(judged, forced, case)),
    )
    return SelectionResult(selection, tuple(map(Ranked.of, order)), degraded)


def _judge_all(case: Case, forced: Build | None) -> tuple[Case, Judgements]:
    """The verdict on every build; where none serves all GPUs of a kind, on serving as many as can be."""
    builds = case.builds if forced is None or forced in case.builds else (*case.builds, forced)
    judgements = tuple(judge(build, case) for build in builds)
    for kind in (Kind.CUDA, Kind.ROCM):
        if any(judged.offers for judged in judgements if judged.build.kind is kind):
            continue
        if together := _served_together(kind, builds, case):
            case = replace(case, hardware=case.hardware.requiring(kind, together))
            judgements = tuple(judge(build, case) for build in builds)
    return case, judgements


def _served_together(kind: Kind, builds: Iterable[Build], case: Case) -> frozenset[int]:
    """Of several GPUs in use that no build serves all of, those that one build can serve together.

    The runtime's first has to be among them, because a backend computes on that one; then the second, …
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


def _is_unrelated(judgement: Judgement, forced: Build | None, case: Case) -> bool:
    """Whether a build is for another platform, or for another maker's GPUs, or can't be installed at all."""
    build, refusal = judgement.build, judgement.refusal
    if refusal is None or build == forced:
        return False
    if refusal.obstacle in {Obstacle.PLATFORM, Obstacle.SOURCE_BUILD}:
        return True
    in_use = case.hardware.of_kind(build.kind)
    return build.kind in GPU_KINDS and not in_use.is_there and not in_use.uncertain


def _worth(judgement: Judgement, case: Case) -> tuple[int, bool, Version, bool, Build]:
    """What it computes on, then the newest torch (pre-releases nobody asked for last), then the build.

    With the same torch PyTorch's own ROCm builds go before AMD's, for which a source package is built here.
    """
    kind = judgement.build.kind
    gpus = case.hardware.of_kind(kind).gpus
    integrated = bool(gpus) and all(gpu.integrated for gpu in gpus) and kind is not Kind.CUDA
    return (
        _RANKS[kind] - (_INTEGRATED_IS_LATER if integrated else 0),
        not judgement.best.version.is_prerelease or bool(case.torch.versions.prereleases),
        judgement.best.version,
        not judgement.build.is_amds,
        judgement.build,
    )


def _guided(possible: Judgements, judgements: Judgements, case: Case) -> tuple[Judgements, str | None]:
    recommended = guide_build(case.request.capabilities, case.catalog)
    by_build = {judgement.build: judgement for judgement in possible}
    order = tuple(by_build[build] for build in guide_order(recommended, tuple(by_build)))
    if not order:
        return (), None
    refusal = next((judged.refusal for judged in judgements if judged.build.name == recommended), None)
    return order, sentences.why_guided(order[0], recommended, refusal)


def _named(
    strategy: str, judgements: Judgements, possible: Judgements, case: Case
) -> tuple[Judgements, str | None, str | None]:
    """The build that the strategy names, whatever driver and GPU say, with a reason and a warning."""
    named = next(judged for judged in judgements if judged.build.name == strategy)
    auto = possible[0] if possible else None
    if named.refusal is None:
        warning = f"You chose {strategy}; no other build is tried if it fails."
        if auto and auto.build != named.build:
            alternative = f"strategy auto would use {auto.named}"
            warning = f"You chose {strategy}; {alternative}. No other build is tried if {strategy} fails."
        return (named,), f"You chose {strategy}, with torch {named.best.torch}.", warning
    forced = judge(named.build, case.ignoring_also(*OVERRIDABLE))
    if forced.refusal and forced.refusal.obstacle is Obstacle.UNVERIFIED:
        forced = judge(named.build, case.ignoring_also(*OVERRIDABLE, Obstacle.UNVERIFIED))
    if forced.refusal:
        reason = f"{forced.refusal.reason} Strategy auto would use {auto.named}." if auto else None
        return (), reason, None
    against = named.refusal.reason.removeprefix(f"{strategy}: ")
    if against.startswith(f"{strategy} "):
        against = f"it{against.removeprefix(strategy)}"
    warning = f"You chose {strategy}, but {against}"
    return (forced,), f"You chose {strategy}, with torch {forced.best.torch}.", warning


def _caveats(chosen: Judgement | None, case: Case) -> Iterator[str]:
    """What a person should know about the choice: visibility, GPUs left out, and what nobody has verified."""
    # What detection noted of the machine (a driver out of step, a lost GPU) comes first: it has a remedy.
    yield from case.request.capabilities.notes
    for kind in GPU_KINDS:
        if chosen is None or chosen.build.kind in {kind, Kind.CPU}:
            yield from case.hardware.of_kind(kind).warnings
    if chosen is None or chosen.build.kind is Kind.CPU:
        yield from sentences.doubts(case)
    leans_on_catalog = chosen is None or not chosen.best.is_real
    if case.catalog.doubt:
        yield case.catalog.doubt
    if leans_on_catalog and (stale := case.catalog.staleness(case.request.today)):
        yield stale
    if chosen:
        yield from _left_out(chosen, case)
        yield from sentences.hidden_gpus(chosen, case)
        yield from sentences.listed_first(chosen, case)
        yield from sentences.other_gpu_warnings(chosen, case)
        yield from _about_wheel(chosen, case)


def _about_wheel(chosen: Judgement, case: Case) -> Iterator[str]:
    build, best, platform = chosen.build, chosen.best, case.target.platform or ""
    row = case.catalog.row(build.name, best.torch, platform)
    for name in case.torch.companions:
        if row is not None and name in row.cpu_only:
            what = f"{name}'s wheel for {build.name} has no CUDA operators here"
            yield f"{what}; torch itself computes on the GPU."
    own = case.catalog.pypi_build(best.torch, platform) if best.source == "default" else None
    if build.kind is Kind.CPU and own not in {None, Kind.CPU, Kind.MPS}:
        instead = f"PyPI's own ({own}) is used, which is much larger; it computes on the CPU"
        yield f"No CPU build of torch {best.torch} is available, so {instead}."
    if trial := failure_of(chosen, case):
        yield sentences.why_failed(chosen, trial)
    if doubt := case.hardware.doubt(build, best.version):
        yield doubt
    elif not best.verified:
        later = "whether it works is checked after installation"
        yield f"torch {best.torch} on {build.name} is not verified by the catalog; {later}."


def _left_out(chosen: Judgement, case: Case) -> Iterator[str]:
    hardware, kind = case.hardware, chosen.build.kind
    if (served := hardware.required.get(kind)) is None:
        return
    gpus = enumerate(hardware.of_kind(kind).gpus)
    unserved = [
        f"{describe(gpu)} ({gpu.architecture or 'unknown'})" for place, gpu in gpus if place not in served
    ]
    are, them = ("are", "them") if unserved[1:] else ("is", "it")
    hiding = hiding_all_but(hardware.required_gpus(kind), kind)
    left_out = f"{listed(unserved)} {are} left out: no build that is possible here serves all GPUs."
    yield f"{left_out} Hide {them} with {hiding}."


def _candidates(
    order: Judgements, possible: Judgements, judgements: Judgements, reason: str, case: Case
) -> tuple[Candidate, ...]:
    """Every build: the chosen one, the possible ones in order, then the rejected ones, newest first."""
    # The chosen one's reason is the choice's own: what auto would say of a build that was named is not true.
    chosen = order[0] if order else None
    ordered = {judged.build for judged in order}
    candidates = [
        Candidate(
            build=judged.build.name,
            torch=judged.best.torch,
            verdict=Verdict.CHOSEN if judged is chosen else Verdict.POSSIBLE,
            reason=reason if judged is chosen else sentences.why_possible(judged, chosen, case),
        )
        for judged in (*order, *(other for other in possible if other.build not in ordered))
    ]
    ranked = sorted(judgements, key=lambda judged: (_RANKS[judged.build.kind], judged.build), reverse=True)
    candidates += [
        Candidate(build=judged.build.name, torch=None, verdict=Verdict.REJECTED, reason=judged.refusal.reason)
        for judged in ranked
        if judged.refusal and judged.build not in ordered
    ]
    return tuple(candidates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusions:
    """What a choice relied on; a difference to what torch reports is an error in the catalog or detection.

    `arch_list` is what the build has code for, as torch writes it ("sm_86", "gfx1100"), `toolkit` the CUDA or
    ROCm that it carries ("12.6"), `driver_cuda` the driver's highest; None, or empty, where it is unknown.
    """

    arch_list: tuple[str, ...] = ()
    toolkit: str | None = None
    driver_cuda: str | None = None
    pypi_build: str | None = None  # of the CPU's: what PyPI's own wheel, which may stand in, was built for


def conclusions(build: str, torch: str, capabilities: Capabilities, catalog: Catalog) -> Conclusions:
    """What the catalog says of a build of a torch, and detection of its driver."""
    parsed, version = parse_build(build), Version(torch.partition("+")[0])
    if parsed is not None and parsed.is_amds:
        return Conclusions(toolkit=parsed.toolkit)  # what it has code for stands in packages of their own
    if parsed is not None and parsed.kind is Kind.ROCM:
        gfx = catalog.gfx(parsed, version)
        return Conclusions(arch_list=tuple(sorted(gfx.codes)) if gfx else (), toolkit=parsed.toolkit)
    platform = target_of(capabilities, capabilities.python).platform or ""
    if parsed is None or parsed.kind is not Kind.CUDA:
        return Conclusions(
            pypi_build=catalog.pypi_build(str(version), platform) if build == Kind.CPU else None
        )
    known = catalog.architectures(parsed, version, platform)
    return Conclusions(
        arch_list=tuple(f"sm_{major}{minor}" for major, minor in known.codes) if known else (),
        toolkit=parsed.toolkit,
        driver_cuda=cuda_of_driver(capabilities, catalog),
    )


def cuda_of_driver(capabilities: Capabilities, catalog: Catalog) -> str | None:
    """The highest CUDA that the driver supports ("12.2"): from its header, else by its branch."""
    if capabilities.nvidia_cuda is not None:
        return capabilities.nvidia_cuda
    driver = numbers(capabilities.nvidia_driver or "")
    return catalog.cuda_of_branch(driver[0]) if driver else None


def has_mps(capabilities: Capabilities) -> bool:
    """Whether it is Apple silicon, under a Python that is made for it."""
    return capabilities.system == "Darwin" and capabilities.machine == "arm64" and not capabilities.in_rosetta


def guide_build(capabilities: Capabilities, catalog: Catalog) -> str:
    """`mps` on Apple silicon under an arm64 Python, the table's build for an NVIDIA GPU, else `cpu`."""
    if has_mps(capabilities):
        return "mps"
    if nvidia_in_use(capabilities, catalog).absence is not None:
        return "cpu"
    cuda = numbers(cuda_of_driver(capabilities, catalog) or "")
    return next((build for lowest, build in _GUIDE if cuda >= lowest), "cpu")


def guide_order(recommended: str, possible: tuple[Build, ...]) -> tuple[Build, ...]:
    """The recommended one; of the same CUDA major the next higher, then the next lower; then the others."""
    build = parse_build(recommended)
    if build is None or build.kind is not Kind.CUDA:
        return tuple(sorted(possible, key=lambda other: other.name != recommended))
    same = [other for other in possible if other.kind is Kind.CUDA and other.version[0] == build.version[0]]
    higher = sorted(other for other in same if other >= build)
    lower = sorted((other for other in same if other < build), reverse=True)
    return (*higher, *lower, *(other for other in possible if other not in same))
