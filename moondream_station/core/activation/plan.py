"""Which build would be installed, without installing: here, elsewhere, with and without a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from moondream_station.core.activation.install import no_build
from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.offers import Offer, catalog_offers
from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.builds.target import target_of
from moondream_station.core.capabilities.cache import CapabilityCache
from moondream_station.core.capabilities.detect import detect
from moondream_station.core.facts.capabilities import Capabilities, ProbeReport
from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.facts.selection import Selection
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.index.offers import collect_offers
from moondream_station.core.index.page_source import SourceReport
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.packaging.constraints import within_constraints
from moondream_station.core.packaging.packaging_config import load_packaging_config
from moondream_station.core.selection.select import select

_HOUR_SECONDS = 3600.0
_WORTH_TELLING_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is planned.

    Args:
        requirements: What is asked for.
        strategy: `auto`, `guide` or a build.
        python: The Python that the environment would have ("3.12", "3.12.3").
    """

    requirements: Requirements
    strategy: str
    python: str


def _ignore(_: ProbeReport) -> None:
    """A plan tells the result alone."""


async def plan_from_catalog(
    question: Question, machine: Machine, *, torch_index: str | None = None
) -> Selection:
    """Plan with what this version knows, and no network: for a recorded machine, or offline.

    Args:
        question: What is planned.
        machine: The machine it is planned for.
        torch_index: What stands in for the official index's base URL; shown without what is secret in it.
    """
    capabilities = await detect(machine, on_probe=_ignore)
    target = target_of(capabilities, question.python)
    index = None if torch_index is None else without_credentials(torch_index)
    offers = catalog_offers(load_catalog(), target, index=index)
    return _select(question, capabilities, offers)


async def plan_here(
    question: Question,
    machine: Machine,
    *,
    home: Home,
    settings: Settings,
    environ: Mapping[str, str],
) -> Selection:
    """Plan with what the indexes and find-links really have, for this computer.

    Args:
        question: What is planned.
        machine: This computer.
        home: Keeps the machine's snapshot and the listings; it exists.
        settings: The user's settings.
        environ: The user's variables.
    """
    detected = await CapabilityCache(home, machine).get(on_probe=_ignore)
    config = await load_packaging_config(environ)
    question = replace(question, requirements=await within_constraints(question.requirements, config))
    async with open_client(config, torch_index=settings.torch_index) as client:
        collected = await collect_offers(
            capabilities=detected.capabilities,
            requirements=question.requirements,
            catalog=load_catalog(),
            python=question.python,
            strategy=question.strategy,
            torch_index=settings.torch_index,
            config=config,
            home=home,
            client=client,
        )
    selection = _select(question, detected.capabilities, collected.offers)
    silent = [report.sentence for report in collected.tried if report.outcome == "failed"]
    if selection.build is None:
        return replace(selection, reason=no_build(selection, collected).message)
    warnings = (
        *selection.warnings,
        *(f"Not everything could be asked: {sentence}" for sentence in silent),
        *_age(collected.tried),
    )
    return replace(selection, warnings=warnings)


def _age(tried: Iterable[SourceReport]) -> Iterator[str]:
    """How old the oldest listing is, where that is worth a word."""
    ages = [(report.age_seconds, report.url_redacted) for report in tried if report.age_seconds]
    if not ages or max(ages)[0] < _WORTH_TELLING_SECONDS:
        return
    seconds, url = max(ages)
    age = f"{seconds / 3600:.0f} h" if seconds >= _HOUR_SECONDS else f"{seconds / 60:.0f} min"
    yield f"{url} was listed {age} ago; it is asked anew when a day has passed."


def _select(question: Question, capabilities: Capabilities, offers: Iterable[Offer]) -> Selection:
    return select(
        capabilities,
        question.requirements,
        offers,
        load_catalog(),
        question.python,
        question.strategy,
    ).selection
