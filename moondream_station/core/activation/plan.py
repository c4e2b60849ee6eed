"""Which build would be installed, and which models fit there: here and elsewhere, without installing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio.to_thread

from moondream_station.core.activation.candidates import no_build
from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.capabilities.cache import CapabilityCache
from moondream_station.core.capabilities.detect import detect
from moondream_station.core.facts.capabilities import Capabilities, ProbeReport
from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.facts.selection import Selection
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.index.listing import SourceReport
from moondream_station.core.index.offers import collect_offers
from moondream_station.core.machine.machine import Machine
from moondream_station.core.packaging.packaging_config import load_packaging_config
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import select

if TYPE_CHECKING:
    from moondream_station.core.backends.manifest import ModelInfo

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
    from moondream_station.core.activation.models import (  # noqa: PLC0415  with a model alone
        Surroundings,
        judge,
        surroundings_of,
    )

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
