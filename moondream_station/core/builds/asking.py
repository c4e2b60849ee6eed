"""Which builds are worth asking an index about, before anything about their wheels is known."""

from __future__ import annotations

from collections.abc import Iterable

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Build, Kind, parse_build
from moondream_station.core.builds.question import Obstacle, Question
from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.builds.verdicts import judge
from moondream_station.core.capabilities.snapshot import Capabilities

_FINAL = frozenset({Obstacle.PLATFORM, Obstacle.SOURCE_BUILD, Obstacle.HARDWARE, Obstacle.ARCHITECTURE})
_FAMILY_ORDER = (Kind.CPU, Kind.XPU, Kind.ROCM, Kind.CUDA, Kind.MPS)


def builds_worth_asking(
    capabilities: Capabilities,
    requirements: Requirements,
    catalog: Catalog,
    python: str,
    strategy: str,
    tags: Iterable[str] = (),
) -> tuple[Build, ...]:
    """The builds that could be chosen here, the likeliest first; `Build.folder` says where each one lies.

    Of two builds that lie in one folder, one is named.

    A build that the machine can't run whatever wheels there are is left out; so is one that the requirement
    or the Python excludes, if PyTorch no longer makes it: no newer wheel of it will appear.

    Args:
        capabilities: The machine.
        requirements: What is asked for.
        catalog: The catalog.
        python: The Python that the environment will have.
        strategy: `auto`, `guide`, or a build's tag, which alone is then worth asking about.
        tags: Tags that the index itself shows, known ones or not.
    """
    question = Question.of(capabilities, requirements, (), catalog, python)
    forced = parse_build(strategy)
    if forced is not None:
        return (forced,) if question.target.platform is not None else ()
    shown = (build for build in map(parse_build, tags) if build is not None)
    worth = {build for build in (*question.builds, *shown) if _is_worth_asking(build, question)}
    order = sorted(worth, key=lambda build: (_FAMILY_ORDER.index(build.kind), build), reverse=True)
    folders: dict[str, Build] = {}
    for build in order:
        folders.setdefault(build.folder, build)
    return tuple(folders.values())


def _is_worth_asking(build: Build, question: Question) -> bool:
    if build.name not in question.catalog.builds:
        # A tag that is newer than the catalog: driver and GPUs can be held against it, the rest is in its
        # wheels.
        return question.target.platform is not None and question.hardware.why_not_build(build) is None
    refusal = judge(build, question).refusal
    if refusal is None or refusal.obstacle in {Obstacle.ABSENT, Obstacle.UNVERIFIED}:
        return True
    if refusal.obstacle is Obstacle.ARCHITECTURE:
        return _several_gpus(build, question)
    return refusal.obstacle not in _FINAL and question.catalog.is_current(build.name)


def _several_gpus(build: Build, question: Question) -> bool:
    """Of several GPUs a build may serve some, which counts where no build serves all."""
    torch = question.catalog.newest_torch
    return (
        bool(question.hardware.served(build, torch)) and len(question.hardware.of_kind(build.kind).gpus) > 1
    )
