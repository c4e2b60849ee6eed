"""Whether a model can be switched to: supported here, its notice accepted, and room for what it needs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from moondream_station.core.activation.trials_file import read_trials
from moondream_station.core.backends.manifest import Manifest, ModelInfo, ModelNeeds
from moondream_station.core.backends.provide import known_requirements
from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.hardware import Hardware
from moondream_station.core.builds.naming import GPU_KINDS, Kind, parse_build, parse_capability
from moondream_station.core.builds.offers import Target, target_of
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.builds.visibility import describe
from moondream_station.core.environments.store import load_commit, place_of
from moondream_station.core.facts.capabilities import Capabilities, Gpu
from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.errors import NoticeNotAccepted, UnsupportedModel
from moondream_station.core.facts.selection import Fit, FitVerdict
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.log import Log
from moondream_station.core.home.settings import Settings
from moondream_station.core.home.storage import Need, in_words, read_record, write_record
from moondream_station.core.resolve.interpreter import own_interpreter
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import select
from moondream_station.core.views.overview import models_shape
from moondream_station.core.weights.contents import Weights
from moondream_station.core.weights.disk import (
    Learned,
    hub_cache,
    known,
    missing_bytes,
    repository_cache,
    source_of,
)
from moondream_station.core.worker.loading import available_bytes, disk_usage, total_bytes

_NOTICES = "moondream-station/notices/1"
_log = Log()
MEMORY_RESERVE_BYTES = 1 << 30
"""What computing takes beside the weights; where less than that again is left, it is tight."""
DISK_RESERVE_BYTES = 64 << 20
"""What must stay free on a disk, as where wheels are downloaded."""
_DISK_TIGHT_BYTES = 1 << 30
_ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float8_e4m3fn": 1}
_ON_ANY_CPU = "float32"
"""What weights in a shorter type become on a CPU that can't multiply it: nobody knows before torch runs."""

_Finding: TypeAlias = tuple[FitVerdict, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the probes don't ask of this computer; None where unknown.

    `weights` is what a model's weights need of their disk beside what is there already; `learned`, what they
    say of themselves.
    """

    memory_bytes: int | None = None
    free_memory_bytes: int | None = None
    weights: Need | None = None
    free_disk_bytes: int | None = None
    learned: Learned | None = None


class _Room(NamedTuple):
    """What a build finds on a machine; the memory is the GPU's, if that has its own."""

    kind: Kind | None
    gpu: Gpu | None
    has_own_memory: bool
    memory_bytes: int | None
    free_memory_bytes: int | None


def judge(
    model: ModelInfo,
    build: str | None,
    capabilities: Capabilities,
    *,
    around: Surroundings,
    catalog: Catalog,
) -> Fit:
    """Whether a model fits a machine on a build (None: no torch is needed); what is worst decides.

    What nobody knows is unknown: nothing is guessed.
    """
    learned = around.learned
    needs = with_weights(model.needs, learned.weights if learned else None)
    target = target_of(capabilities, capabilities.python)
    room = _room(build, capabilities, target, catalog, around)
    dtype = model.args.get("dtype")
    sizes = _sizes(needs, dtype if isinstance(dtype, str) else None, room.kind)
    memory = _memory(sizes, room) if sizes else (FitVerdict.UNKNOWN, _why_unknown(learned))
    others = [*_disk(around), *_capability(needs, room), *_glibc(needs, target)]
    if model.requires_gpu and room.kind is Kind.CPU:
        others.append((FitVerdict.DOES_NOT_FIT, "needs a GPU; only the CPU build can be used"))
    verdict = max((memory, *others), key=lambda finding: list(FitVerdict).index(finding[0]))[0]
    reasons = [reason for found, reason in others if found == verdict and found is not FitVerdict.FITS]
    # The memory is always told, because it is what people ask for; what decides comes first.
    told = (memory[1], *reasons) if memory[0] == verdict else (*reasons, memory[1])
    return Fit(verdict=verdict, reason="; ".join(told))


def is_silent(needs: ModelNeeds) -> bool:
    """Whether a manifest says nothing about the memory that a model needs."""
    return needs.weights_bytes is None and not needs.memory_bytes


def with_weights(needs: ModelNeeds, weights: Weights | None) -> ModelNeeds:
    """What a model needs by its manifest; where that says nothing about memory, by the weights themselves."""
    if weights is None or not is_silent(needs):
        return needs
    known = {"weights_bytes": weights.size_bytes, "weights_dtype": weights.dtype}
    return needs.model_copy(update={**known, "memory_bytes": weights.memory_bytes})


def _why_unknown(learned: Learned | None) -> str:
    why = f", and {learned.reason}" if learned and learned.reason else ""
    return f"the manifest does not say how much memory it needs{why}"


def _room(
    build: str | None, capabilities: Capabilities, target: Target, catalog: Catalog, around: Surroundings
) -> _Room:
    """The GPU is the one that the build's runtime takes first."""
    parsed = parse_build(build) if build else None
    kind, gpu = parsed.kind if parsed else None, None
    if kind in GPU_KINDS:
        in_use = Hardware.of(capabilities, target, catalog).of_kind(kind)
        gpu = next((in_use.gpus[place] for place in in_use.runtime_order), None)
    is_shared = gpu is not None and (gpu.integrated or capabilities.surroundings == "jetson")
    has_own = kind in GPU_KINDS and not is_shared
    # An integrated GPU has a part of the main memory for itself, and the rest at need.
    main = () if has_own else (around.memory_bytes, capabilities.memory_bytes)
    memory_bytes = max(filter(None, (gpu and gpu.memory_bytes, *main)), default=None)
    return _Room(kind, gpu, has_own, memory_bytes, None if has_own else around.free_memory_bytes)


def _sizes(needs: ModelNeeds, dtype: str | None, kind: Kind | None) -> list[tuple[str | None, int]]:
    """The bytes of the weights by the type that they may be used in, the least first; empty where unknown."""
    stored, by_dtype = needs.weights_dtype, needs.memory_bytes
    used = dtype or stored or min(by_dtype, key=by_dtype.__getitem__, default=None)

    def size(used: str | None) -> int | None:
        if used in by_dtype:
            return by_dtype[used]
        if needs.weights_bytes is None:
            return None
        if used == stored or used not in _ITEM_BYTES or stored not in _ITEM_BYTES:
            return needs.weights_bytes if used == stored else None
        return needs.weights_bytes * _ITEM_BYTES[used] // _ITEM_BYTES[stored]

    is_short = _ITEM_BYTES.get(used or "", 4) < _ITEM_BYTES[_ON_ANY_CPU]
    names = [used, _ON_ANY_CPU] if kind in {Kind.CPU, None} and dtype is None and is_short else [used]
    return [(name, known) for name in names if (known := size(name)) is not None]


def _memory(sizes: list[tuple[str | None, int]], room: _Room) -> _Finding:
    (best, sum_of_best), (worst, sum_of_worst) = (_in_memory(*sizes[place], room) for place in (0, -1))
    if best is not FitVerdict.DOES_NOT_FIT and worst is FitVerdict.DOES_NOT_FIT:
        return FitVerdict.TIGHT, f"{sum_of_best}; a CPU that can't multiply {sizes[0][0]} {sum_of_worst}"
    return (best, sum_of_best) if best is FitVerdict.DOES_NOT_FIT else (worst, sum_of_worst)


def _in_memory(dtype: str | None, weights_bytes: int, room: _Room) -> _Finding:
    needed, there, free = weights_bytes + MEMORY_RESERVE_BYTES, room.memory_bytes, room.free_memory_bytes
    weights = f"{in_words(weights_bytes)} for weights{f' in {dtype}' if dtype else ''}"
    parts = f"({weights}, {in_words(MEMORY_RESERVE_BYTES)} to compute)"
    words = f"needs {in_words(needed)} of {'GPU memory' if room.has_own_memory else 'memory'}"
    if there is None:
        return FitVerdict.UNKNOWN, f"{words} {parts}; how much this machine has is unknown"
    words = f"{words}; this machine has {in_words(there)}"
    if needed > there:
        return FitVerdict.DOES_NOT_FIT, f"{words} {parts}"
    if free is not None and needed > free:
        return FitVerdict.TIGHT, f"{words}, {in_words(free)} of them free now {parts}"
    is_tight = needed + MEMORY_RESERVE_BYTES > there
    return FitVerdict.TIGHT if is_tight else FitVerdict.FITS, f"{words} {parts}"


def _disk(around: Surroundings) -> Iterator[_Finding]:
    free, missing = around.free_disk_bytes, around.weights.size_bytes if around.weights else 0
    if free is None or not missing:
        return
    needed, reserve = in_words(missing + DISK_RESERVE_BYTES), in_words(DISK_RESERVE_BYTES)
    parts = f"({in_words(missing)} for weights, {reserve} to stay free)"
    words = f"needs {needed} on the disk; {in_words(free)} are free {parts}"
    if missing + DISK_RESERVE_BYTES > free:
        yield FitVerdict.DOES_NOT_FIT, words
    elif missing + _DISK_TIGHT_BYTES > free:
        yield FitVerdict.TIGHT, words


def _capability(needs: ModelNeeds, room: _Room) -> Iterator[_Finding]:
    least = parse_capability(needs.compute_capability or "")
    if least is None or room.kind is not Kind.CUDA:
        return
    has = parse_capability((room.gpu and room.gpu.architecture) or "")
    words = f"needs compute capability {needs.compute_capability}"
    name = describe(room.gpu) if room.gpu else "the GPU"
    if has is None:
        yield FitVerdict.UNKNOWN, f"{words}; that of {name} is unknown"
    elif has < least:
        yield FitVerdict.DOES_NOT_FIT, f"{words}; {name} has {has[0]}.{has[1]}"


def _glibc(needs: ModelNeeds, target: Target) -> Iterator[_Finding]:
    has = target.glibc
    if needs.glibc is None or target.system != "Linux":
        return
    if has is None or has < tuple(map(int, needs.glibc.split("."))):
        there = f"{has[0]}.{has[1]}" if has else "another C library"
        yield FitVerdict.DOES_NOT_FIT, f"needs glibc {needs.glibc}; this system has {there}"


def surroundings_of(
    model: ModelInfo, environ: Mapping[str, str], learned: Learned | None = None
) -> Surroundings:
    """This computer's memory, and the disk that a model's weights go to. Blocks: it looks at their files.

    A backend that loads from Hugging Face's hub names the repository, or a folder, as `model_id`.
    """
    cache, source = hub_cache(environ), source_of(model.args)
    weights = learned.weights if learned else None
    missing = model.needs.weights_bytes or 0
    if source is not None and weights is not None:
        missing = missing_bytes(source, weights, environ)
    elif source is not None and source.folder is not None:
        missing = 0
    elif missing and source is not None:
        missing = max(0, missing - disk_usage([repository_cache(source.repository, environ)]))
    folder = next(folder for folder in (cache, *cache.parents) if os.path.isdir(folder))  # noqa: PTH112
    free_bytes: int | None = None
    with suppress(OSError):  # a file system that does not say
        free_bytes = shutil.disk_usage(folder).free
    return Surroundings(
        memory_bytes=total_bytes(),
        free_memory_bytes=available_bytes(),
        weights=Need(folder, missing),
        free_disk_bytes=free_bytes,
        learned=learned,
    )


def known_here(model: ModelInfo, home: Home, environ: Mapping[str, str]) -> Learned | None:
    """What is known of a model's weights without asking for them, None where it names none. Blocks."""
    source = source_of(model.args)
    return known(source, home, environ) if source else None


def check_model(
    manifest: Manifest, model_id: str, *, system: str | None = None, machine: str | None = None
) -> ModelInfo:
    """A model's entry, where it can be switched to; here, or on a `platform.system()` and `machine()`."""
    model = manifest.model(model_id)
    reason = manifest.unsupported_reason(model_id, system=system, machine=machine)
    if reason is not None:
        raise UnsupportedModel(
            f"{model_id} is not supported here: {reason}.",
            hint="`moondream-station models` lists those that are.",
        )
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accepted:
    """The notices that the user has accepted, by the sha256 of what they say."""

    format: str = _NOTICES
    accepted: tuple[str, ...] = ()


def accepted_notices(home: Home) -> frozenset[str]:
    """The digests of the notices that were accepted in this home; none where the record can't be read."""
    try:
        return frozenset((read_record(home.notices, _Accepted, _NOTICES) or _Accepted()).accepted)
    except (OSError, ValueError) as error:
        _log.warning("accepted_notices_unknown", path=str(home.notices), reason=str(error))
        return frozenset()


def check_notice(home: Home, model_id: str, model: ModelInfo, *, accept: bool) -> None:
    """Refuse a model whose notice the user has not accepted; what is accepted now is recorded."""
    notice, accepted = model.notice, accepted_notices(home)
    if notice is None or notice.digest in accepted:
        return
    if not accept:
        raise NoticeNotAccepted(
            f"{model_id} has a notice that must be accepted first: {notice.in_words}",
            hint=f"`moondream-station switch {model_id} --accept-notice` accepts it.",
        )
    record = _Accepted(accepted=(*sorted(accepted), notice.digest))
    write_record(home, home.notices, f"{json.dumps(to_json(record), indent=2)}\n")


def list_models(
    manifest: Manifest,
    home: Home,
    capabilities: Capabilities | None,
    environ: Mapping[str, str],
    catalog: Catalog,
    settings: Settings,
) -> dict[str, Any]:
    """The shape of `models`. Blocks: it reads files of the home, and looks at the weights on disk."""
    request: BuildRequest | None = None
    if capabilities is not None:
        request = BuildRequest(
            capabilities=capabilities,
            requirements=parse_requirement_args(["torch"]),
            python=own_interpreter().name,
            catalog=catalog,
            trials=read_trials(home),
            asks_amd=bool(settings.vendor_indexes),
        )
    fits = {name: _fit_here(name, manifest, home, environ, request) for name in manifest.models}
    active = read_active(home)
    commits = {name: load_commit(place_of(home, of.environment)) for name, of in active.models.items()}
    return models_shape(manifest, active, fits, accepted_notices(home), commits)


def _fit_here(
    name: str, manifest: Manifest, home: Home, environ: Mapping[str, str], request: BuildRequest | None
) -> Fit:
    """Whether a model fits this computer, on the build that the catalog gives it."""
    model = manifest.models[name]
    if request is None:
        return Fit(verdict=FitVerdict.UNKNOWN, reason="this machine has not been detected yet")
    requirements, build = known_requirements(name, manifest=manifest, home=home) or request.requirements, None
    if requirements.mentions_torch:
        request = replace(request, requirements=requirements)
        build = select(request, request.catalog_offers()).selection.build
        if build is None:
            return Fit(verdict=FitVerdict.UNKNOWN, reason="no PyTorch build is known that it could use here")
    around = surroundings_of(model, environ, known_here(model, home, environ))
    return judge(model, build, request.capabilities, around=around, catalog=request.catalog)
