"""Which build is used: in an activation, in which some may turn out not to work, and by a plan."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

from moondream_station.core.activation.trials_file import read_trials
from moondream_station.core.builds.catalog import Catalog, load_catalog
from moondream_station.core.builds.offers import offer_from_wheel
from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.builds.trials import NO_TRIALS, Trials
from moondream_station.core.capabilities.cache import CapabilityCache
from moondream_station.core.capabilities.detect import detect
from moondream_station.core.environments.store import CommitRecord, Committed
from moondream_station.core.facts.capabilities import ProbeReport
from moondream_station.core.facts.errors import IndexUnreachable, NoBuild, ResolutionConflict, StationError
from moondream_station.core.facts.events import BuildSelected, Degraded
from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.facts.selection import Candidate, Selection, Verdict
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.home.storage import read_file
from moondream_station.core.home.task_groups import meanwhile
from moondream_station.core.machine.machine import Machine
from moondream_station.core.packaging.packaging_config import load_config_of_pip, load_packaging_config
from moondream_station.core.resolve.interpreter import other_interpreter
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import Ranked, SelectionResult, select
from moondream_station.core.selection.sentences import origin_of

if TYPE_CHECKING:
    import httpx2

    from moondream_station.core.backends.manifest import ModelInfo
    from moondream_station.core.index.listing import SourceReport
    from moondream_station.core.index.offers import CollectedOffers
    from moondream_station.core.weights.disk import Learned

_HOUR_SECONDS = 3600.0
_WORTH_TELLING_SECONDS = 60.0
CPU = "cpu"
_LOCK_TRIES = 3
T = TypeVar("T")


class Candidates:
    """A selection that can lose candidates. A strategy that names a build has only that one."""

    def __init__(
        self,
        result: SelectionResult,
        collected: CollectedOffers | None = None,
        *,
        lock: Lock | None = None,
        degraded: Degraded | None = None,
        python: Path | None = None,
    ) -> None:
        self.selection: Selection = result.selection
        self.collected = collected
        self.lock = lock
        """What the only candidate was locked to before, for an environment that is made again."""
        self._degraded = degraded
        self._remaining = list(result.order)
        self._preferred = self._remaining[0].build if self._remaining else None
        self.python = python
        """Another Python that has a build, where this one has none."""
        self._reason = ""
        self._has_fallen_back = False
        if self.selection.strategy not in {"auto", "guide"}:
            del self._remaining[1:]

    @property
    def current(self) -> Ranked | None:
        """The candidate that is tried now, None where there is none."""
        return self._remaining[0] if self._remaining else None

    @property
    def degraded(self) -> Degraded | None:
        """What this machine should have had, where the CPU build takes the place of an accelerator's."""
        current = self.current
        if current is None or self._preferred is None or current.build != CPU or self._preferred == CPU:
            return self._degraded
        return Degraded(wanted=self._preferred, reason=self._reason)

    def fact(self) -> BuildSelected:
        """The choice as it stands."""
        current = self.current
        offer = current.offer if current else None
        return BuildSelected(
            build=current.build if current else None,
            torch=current.torch if current else None,
            index_url=offer.index_url if offer else None,
            source=offer.source if offer else None,
            reason=self.selection.reason,
            candidates=self.selection.candidates,
        )

    def settle_for(self, torch: str) -> bool:
        """Take another torch of the current build, named with its local part; gives whether it is another."""
        current = self.current
        others = current.others if current else ()
        chosen = next((offer for offer in others if str(offer.full_version) == torch), None)
        if current is None or chosen is None:
            return False
        reason = f"torch {chosen.torch} is used, because the requirements exclude torch {current.torch}."
        reason += origin_of(chosen)
        self._remaining[0] = replace(current, torch=chosen.torch, offer=chosen, others=())
        self.selection = replace(
            self.selection,
            torch=chosen.torch,
            reason=reason,
            candidates=tuple(
                replace(candidate, torch=chosen.torch, reason=reason)
                if candidate.build == current.build
                else candidate
                for candidate in self.selection.candidates
            ),
        )
        return True

    async def first_that_locks(
        self, lock: Callable[[], Awaitable[T]], rejected: Callable[[str, str], object] = lambda *_: None
    ) -> T:
        """Lock; a current candidate that does not resolve gives way to the next, three at most.

        `rejected` is called with its build and the reason, once the next one is the current.
        """
        for tries_left in reversed(range(_LOCK_TRIES)):
            current = self.current
            try:
                return await lock()
            except ResolutionConflict as conflict:
                if not tries_left or current is None or self.reject(conflict.message) is None:
                    raise
                rejected(current.build, conflict.message)
        raise AssertionError("the last attempt returns or raises")

    def reject(self, reason: str) -> Ranked | None:
        """Reject the current candidate because it can't be installed; gives the next one, if there is one."""
        return self._move_on(reason, self._remaining[1:])

    def fall_back(self, build: str, reason: str) -> Ranked | None:
        """Leave a build on which torch does not compute; gives what is tried instead, None where nothing is.

        One other accelerator build is tried, then the CPU's: what two builds can't do on a device, no third
        will, and each is some gigabytes. Where the build is not the current one, that one has its try.
        """
        if self.current is None or self.current.build != build:
            return self.current
        rest = self._remaining[1:]
        accelerated = [] if self._has_fallen_back else [ranked for ranked in rest if ranked.build != CPU][:1]
        self._has_fallen_back = True
        return self._move_on(reason, [*accelerated, *(ranked for ranked in rest if ranked.build == CPU)])

    def _move_on(self, reason: str, remaining: list[Ranked]) -> Ranked | None:
        rejected = self._remaining[0].build
        self._remaining = remaining
        self._reason = reason
        following = self.current
        sentence = reason
        if following:
            sentence = f"{following.build} is used because {rejected} does not work: {reason}"
            sentence += origin_of(following.offer)
        self.selection = replace(
            self.selection,
            build=following.build if following else None,
            torch=following.torch if following else None,
            reason=sentence,
            candidates=tuple(
                _after(candidate, rejected, following, reason) for candidate in self.selection.candidates
            ),
        )
        return following


def _after(candidate: Candidate, rejected: str, following: Ranked | None, reason: str) -> Candidate:
    if candidate.build == rejected:
        return replace(candidate, torch=None, verdict=Verdict.REJECTED, reason=reason)
    if following and candidate.build == following.build:
        return replace(candidate, verdict=Verdict.CHOSEN)
    return candidate


def select_again(request: BuildRequest, committed: Committed) -> SelectionResult:
    """What an environment was made for, chosen again from its own wheel of torch alone: drivers change."""
    record = committed.record
    if record.build is None:
        return select(request, [])
    from moondream_station.core.resolve.pylock import read_stored_pylock  # noqa: PLC0415  unlike a plan

    lock = read_stored_pylock(read_file(committed.place.pylock).decode())
    wheel = next(file for file in lock.files if file.name == "torch")
    source = record.source or "default"
    offer = offer_from_wheel(wheel.filename, catalog=request.catalog, source=source)
    assert offer is not None  # noqa: S101  it was one when the environment was made
    result = select(request, [replace(offer, index_url=record.index_url, url=wheel.url)])
    return result if _has_devices(result, record) else select(request, [])


def _has_devices(result: SelectionResult, record: CommitRecord) -> bool:
    """Whether an environment has AMD's code for this machine's GPUs, where that stands in packages apart."""
    extras = result.order[0].offer.extras if result.order else ()
    return record.packages.keys() >= {f"amd-torch-{extra}" for extra in extras if extra != "device-all"}


async def python_with_a_build(
    request: BuildRequest, collected: CollectedOffers, found: SelectionResult, environ: Mapping[str, str]
) -> Path | None:
    """Another installed Python, which has a build where this one has none; None where it is not needed."""
    if found.selection.build is not None:
        return None

    def has_a_build(version: str) -> bool:
        other = select(replace(request, python=version), collected.offers)
        return other.selection.build is not None

    return await other_interpreter(has_a_build, environ=environ)


def no_build(selection: Selection, collected: CollectedOffers, python: Path | None = None) -> StationError:
    """Why there is no build: because the machine can run none, or because no index answered.

    Where some places answered and another did not, that one may have what is missing: it is named too.
    `python` is another one that has a build.
    """
    silent = [report.sentence for report in collected.tried if report.outcome == "failed"]
    if silent and not collected.offers:
        tried = " ".join(report.sentence for report in collected.tried)
        return IndexUnreachable(
            f"No PyTorch build is available. Tried: {tried}",
            hint="Check the network and the proxy, or name a mirror with MOONDREAM_STATION_TORCH_INDEX, or a"
            " folder of wheels with PIP_FIND_LINKS.",
        )
    message, hints = selection.reason, ["`moondream-station plan` shows every build and its reason."]
    if silent:
        message += f" There may be more builds, because not every index answered: {' '.join(silent)}"
        hints.insert(0, "Check the network, the proxy and that address, then run the command again.")
        hints.append(
            "`--strategy cpu` takes PyPI's own wheel, if it fits: a large one, which computes on the CPU."
        )
    if python is not None:
        hints.insert(0, f"{python.name} is installed and has a build: `--python {shlex.quote(str(python))}`.")
    return NoBuild(message, hint=" ".join(hints))


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
    catalog: Catalog | None = None,
    trials: Trials = NO_TRIALS,
    asks_amd: bool = True,
    model: ModelInfo | None = None,
    learned: Learned | None = None,
    environ: Mapping[str, str] | None = None,
) -> Selection:
    """Plan with what a catalog knows, and no network: for a recorded machine, or offline.

    Whether `model` fits there is part of it; of this computer, `environ` says where its weights would be.
    """
    capabilities = await detect(machine, on_probe=_ignore)
    request = BuildRequest(
        capabilities=capabilities,
        requirements=requirements,
        python=python,
        strategy=strategy,
        mixes_indexes=mixes_indexes,
        catalog=catalog or load_catalog(),
        trials=trials,
        asks_amd=asks_amd,
        today=datetime.now(UTC).date(),
    )
    index = None if torch_index is None else without_credentials(torch_index)
    selection = select(request, request.catalog_offers(index=index)).selection
    return await _with_fit(selection, model, learned, request, environ)


async def plan_here(
    requirements: Requirements,
    machine: Machine,
    *,
    python: str,
    strategy: str = "auto",
    home: Home,
    settings: Settings,
    environ: Mapping[str, str],
    catalog: Catalog | None = None,
    model: ModelInfo | None = None,
) -> Selection:
    """Plan with what the indexes and find-links really have, for this computer; whether `model` fits, too."""
    from moondream_station.core.fetch.http_client import open_client  # noqa: PLC0415  it takes 65 ms
    from moondream_station.core.index.offers import collect_offers  # noqa: PLC0415  unlike a plan offline

    detected = await CapabilityCache(home, machine).get(on_probe=_ignore)
    config = await load_packaging_config(environ)
    request = BuildRequest(
        capabilities=detected.capabilities,
        requirements=await config.within_constraints(requirements),
        python=python,
        strategy=strategy,
        mixes_indexes=config.mixes_indexes,
        catalog=catalog or load_catalog(),
        trials=await anyio.to_thread.run_sync(read_trials, home),
        asks_amd=bool(settings.vendor_indexes),
    )
    async with open_client(config, torch_index=settings.torch_index) as client:

        async def look() -> Learned | None:
            return await _looked_at(model, home, environ, client) if model else None

        async with meanwhile(look) as looked:
            collected = await collect_offers(
                request, torch_index=settings.torch_index, config=config, home=home, client=client
            )
    learned = looked()
    selection = select(request, collected.offers, is_complete=collected.is_complete).selection
    silent = [report.sentence for report in collected.tried if report.outcome == "failed"]
    if selection.build is None:
        return replace(selection, reason=no_build(selection, collected).message)
    if selection.source == "default" and config.index_url != (await load_config_of_pip(environ)).index_url:
        index = without_credentials(config.index_url)
        selection = replace(selection, command=(*selection.command, "--index-url", index))
    warnings = (
        *selection.warnings,
        *(f"There may be more builds, because not every index answered: {sentence}" for sentence in silent),
        *_age(collected.tried),
        *([learned.failure.message] if learned and learned.failure else ()),
    )
    selection = replace(selection, warnings=warnings)
    return await _with_fit(selection, model, learned, request, environ)


async def _looked_at(
    model: ModelInfo, home: Home, environ: Mapping[str, str], client: httpx2.AsyncClient
) -> Learned | None:
    """What a model's weights take; they are asked for where the manifest does not say it."""
    from moondream_station.core.activation.models import is_silent, known_here  # noqa: PLC0415  likewise
    from moondream_station.core.weights.disk import source_of  # noqa: PLC0415
    from moondream_station.core.weights.hub import learn  # noqa: PLC0415

    async def connect() -> httpx2.AsyncClient:
        return client

    source = source_of(model.args)
    if source is None or not is_silent(model.needs):
        return await anyio.to_thread.run_sync(known_here, model, home, environ)
    return await learn(source, home=home, environ=environ, connect=connect)


async def _with_fit(
    selection: Selection,
    model: ModelInfo | None,
    learned: Learned | None,
    request: BuildRequest,
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

    around = Surroundings(learned=learned)
    if environ is not None:
        around = await anyio.to_thread.run_sync(surroundings_of, model, environ, learned)
    fit = judge(model, selection.build, request.capabilities, around=around, catalog=request.catalog)
    return replace(selection, fit=fit)


def _age(tried: Iterable[SourceReport]) -> Iterator[str]:
    """How old the oldest listing is, where that is worth a word."""
    ages = [(report.age_seconds, report.url_redacted) for report in tried if report.age_seconds]
    if not ages or max(ages)[0] < _WORTH_TELLING_SECONDS:
        return
    seconds, url = max(ages)
    age = f"{seconds / 3600:.0f} h" if seconds >= _HOUR_SECONDS else f"{seconds / 60:.0f} min"
    yield f"{url} was listed {age} ago; it is asked again after a day."
