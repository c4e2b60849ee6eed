"""Which build would be installed, and which models fit there: here and elsewhere, without installing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import anyio.to_thread

from moondream_station.core.activation.candidates import no_build
from moondream_station.core.activation.fit import Surroundings, judge, surroundings_of
from moondream_station.core.activation.prepare import accepted_notices
from moondream_station.core.backends.manifest import Manifest, ModelInfo
from moondream_station.core.builds.requirements import Requirements, parse_requirement_args
from moondream_station.core.capabilities.cache import CapabilityCache
from moondream_station.core.capabilities.detect import detect
from moondream_station.core.facts.capabilities import Capabilities, ProbeReport
from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.facts.selection import Fit, FitVerdict, Selection
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.index.listing import SourceReport
from moondream_station.core.index.offers import collect_offers
from moondream_station.core.machine.machine import LocalMachine, Machine
from moondream_station.core.packaging.packaging_config import load_packaging_config
from moondream_station.core.resolve.interpreter import own_interpreter
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import select
from moondream_station.core.views.overview import models_shape

_HOUR_SECONDS = 3600.0
_WORTH_TELLING_SECONDS = 60.0


def _ignore(_: ProbeReport) -> None:
    """A plan reports the result alone."""


async def plan_from_catalog(
    requirements: Requirements,
    machine: Machine,
    *,
    python: str,
    strategy: str = "auto",
    torch_index: str | None = None,
    mixes_indexes: bool = False,
    model: ModelInfo | None = None,
    environ: Mapping[str, str] | None = None,
) -> Selection:
    """Plan with what this version knows, and no network: for a recorded machine, or offline.

    Whether `model` fits there is part of it; of this computer, `environ` says where its weights would be.
    """
    capabilities = await detect(machine, on_probe=_ignore)
    request = BuildRequest(
        capabilities=capabilities,
        requirements=requirements,
        python=python,
        strategy=strategy,
        mixes_indexes=mixes_indexes,
    )
    index = None if torch_index is None else without_credentials(torch_index)
    selection = select(request, request.catalog_offers(index=index)).selection
    return await _with_fit(selection, model, capabilities, environ)


async def plan_here(
    requirements: Requirements,
    machine: Machine,
    *,
    python: str,
    strategy: str = "auto",
    home: Home,
    settings: Settings,
    environ: Mapping[str, str],
    model: ModelInfo | None = None,
) -> Selection:
    """Plan with what the indexes and find-links really have, for this computer; whether `model` fits, too."""
    from moondream_station.core.fetch.http_client import open_client  # noqa: PLC0415  it takes 65 ms

    detected = await CapabilityCache(home, machine).get(on_probe=_ignore)
    config = await load_packaging_config(environ)
    request = BuildRequest(
        capabilities=detected.capabilities,
        requirements=await config.within_constraints(requirements),
        python=python,
        strategy=strategy,
        mixes_indexes=config.mixes_indexes,
    )
    async with open_client(config, torch_index=settings.torch_index) as client:
        collected = await collect_offers(
            request, torch_index=settings.torch_index, config=config, home=home, client=client
        )
    selection = select(request, collected.offers).selection
    silent = [report.sentence for report in collected.tried if report.outcome == "failed"]
    if selection.build is None:
        return replace(selection, reason=no_build(selection, collected).message)
    if selection.source == "default" and config.index_url != await _index_of_pip(environ):
        index = without_credentials(config.index_url)
        selection = replace(selection, command=(*selection.command, "--index-url", index))
    warnings = (
        *selection.warnings,
        *(f"There may be more builds, because not every index answered: {sentence}" for sentence in silent),
        *_age(collected.tried),
    )
    return await _with_fit(replace(selection, warnings=warnings), model, detected.capabilities, environ)


async def _with_fit(
    selection: Selection,
    model: ModelInfo | None,
    capabilities: Capabilities,
    environ: Mapping[str, str] | None,
) -> Selection:
    """`environ` is this computer's; of a recorded machine its memory and its disk are unknown."""
    if model is None or selection.build is None:
        return selection
    around = Surroundings()
    if environ is not None:
        around = await anyio.to_thread.run_sync(surroundings_of, model, environ)
    return replace(selection, fit=judge(model, selection.build, capabilities, around=around))


async def _index_of_pip(environ: Mapping[str, str]) -> str:
    """The default index of pip, which knows nothing of what is set for uv."""
    variables = {name: value for name, value in environ.items() if not name.startswith("UV_")}
    return (await load_packaging_config({**variables, "UV_NO_CONFIG": "1"})).index_url


def _age(tried: Iterable[SourceReport]) -> Iterator[str]:
    """How old the oldest listing is, where that is worth a word."""
    ages = [(report.age_seconds, report.url_redacted) for report in tried if report.age_seconds]
    if not ages or max(ages)[0] < _WORTH_TELLING_SECONDS:
        return
    seconds, url = max(ages)
    age = f"{seconds / 3600:.0f} h" if seconds >= _HOUR_SECONDS else f"{seconds / 60:.0f} min"
    yield f"{url} was listed {age} ago; it is asked again after a day."


async def detect_here(home: Home, environ: Mapping[str, str]) -> Capabilities:
    """What this computer can do, from the cache where that is still true."""
    return (await CapabilityCache(home, LocalMachine(environ)).get(on_probe=_ignore)).capabilities


def list_models(
    manifest: Manifest, home: Home, capabilities: Capabilities | None, environ: Mapping[str, str]
) -> dict[str, Any]:
    """The shape of `models`. Blocks: it reads files of the home, and looks at the weights on disk."""
    fits = {name: _fit_here(name, manifest, home, capabilities, environ) for name in manifest.models}
    return models_shape(manifest, read_active(home), fits, accepted_notices(home))


def _fit_here(
    name: str, manifest: Manifest, home: Home, capabilities: Capabilities | None, environ: Mapping[str, str]
) -> Fit:
    """Whether a model fits this computer, on the build that the catalog gives it."""
    from moondream_station.core.backends.provide import known_requirements  # noqa: PLC0415  as above

    model = manifest.models[name]
    if capabilities is None:
        return Fit(verdict=FitVerdict.UNKNOWN, reason="this machine has not been detected yet")
    known = known_requirements(name, manifest=manifest, home=home)
    requirements, build = known or parse_requirement_args(["torch"]), None
    if requirements.mentions_torch:
        request = BuildRequest(
            capabilities=capabilities, requirements=requirements, python=own_interpreter().name
        )
        build = select(request, request.catalog_offers()).selection.build
        if build is None:
            return Fit(verdict=FitVerdict.UNKNOWN, reason="no PyTorch build is known that it could use here")
    return judge(model, build, capabilities, around=surroundings_of(model, environ))
