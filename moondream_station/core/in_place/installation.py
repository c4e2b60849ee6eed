"""Requirements into the running interpreter: chosen, locked and downloaded as ever, then put there by uv."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import anyio
import anyio.to_thread

from moondream_station.core.activation.candidates import Candidates, no_build
from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.builds.offers import Offer, offer_from_wheel
from moondream_station.core.builds.requirements import FAMILY, Requirements
from moondream_station.core.environments.packages import Package, find_packages
from moondream_station.core.facts.errors import ResolutionConflict, VerificationFailed
from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.fetch.download import fetch
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.fetch.retry import patience_of
from moondream_station.core.in_place.locking import lock_missing
from moondream_station.core.in_place.present import Present
from moondream_station.core.in_place.putting import put
from moondream_station.core.in_place.surroundings import Surroundings
from moondream_station.core.in_place.verifying import verify_here
from moondream_station.core.index.offers import collect_offers
from moondream_station.core.packaging.packaging_config import within_constraints
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import Ranked, SelectionResult, select
from moondream_station.core.worker.verification import WorkerPlan, verification_failure

_LOCK_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an installation changed.

    Args:
        installed: Every package that was installed, version by name.
        replaced: What was there of it before, version by name.
        torch: The torch that is there now, None where there is none.
        build: Its build, None where torch was not asked for.
        reason: Why it is that build.
        notes: Sentences about what a user should know.
    """

    installed: Mapping[str, str] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    torch: str | None = None
    build: str | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()


class InPlace:
    """Installs requirements into the running interpreter, what is missing alone.

    Args:
        surroundings: What it works with.
        requirements: What is asked for.
        ran: Told the last step's command, once it was run.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        requirements: Requirements,
        *,
        ran: Callable[[tuple[str, ...]], object],
    ) -> None:
        self._on = surroundings
        self._ran = ran
        self._wanted = requirements.applicable(surroundings.interpreter.markers)
        self._notes = list(requirements.warnings)

    async def install(self) -> Change:
        """Install what is missing, and let torch compute where it is asked for.

        Raises:
            StationError: No build fits, something can't be resolved, fetched or installed, or torch does not
                work; by cause.
        """
        packages = await anyio.to_thread.run_sync(find_packages, self._on.python.paths)
        offers, candidates = await self._choose(packages.get("torch"))
        for attempt in range(1, _LOCK_TRIES + 1):
            try:
                lock, present = await self._lock(packages, candidates.current, offers)
            except ResolutionConflict as error:
                is_last = attempt == _LOCK_TRIES or candidates.current is None
                if is_last or candidates.reject(error.message) is None:
                    raise
            else:
                return await self._change(lock, present, candidates)
        raise AssertionError("the last attempt returns or raises")

    async def _choose(self, torch: Package | None) -> tuple[tuple[Offer, ...], Candidates]:
        """Ask every source what it has, and select.

        Where none answers, the catalog says what is right here: what is installed may be that already. Where
        nothing that can be had does, what is installed may.
        """
        on = self._on
        self._wanted = await within_constraints(self._wanted, on.config)
        collected = await collect_offers(
            self._request(),
            torch_index=on.torch_index,
            config=on.config,
            home=on.home,
            client=on.client,
        )
        base = without_credentials(on.torch_index)
        offers = collected.offers or self._request().catalog_offers(index=base)
        candidates = Candidates(self._select(offers))
        installed = offer_of(torch, on.catalog) if torch is not None else None
        if candidates.current is None and installed is not None:
            candidates = Candidates(self._select([installed]))
        if candidates.current is None and self._wanted.mentions_torch:
            raise no_build(candidates.selection, collected)
        return offers, candidates

    def _select(self, offers: Iterable[Offer]) -> SelectionResult:
        return select(self._request(), offers)

    def _request(self) -> BuildRequest:
        on = self._on
        return BuildRequest(
            capabilities=on.capabilities,
            requirements=self._wanted,
            python=on.interpreter.name,
            strategy=on.strategy,
            catalog=on.catalog,
        )

    async def _lock(
        self, packages: Mapping[str, Package], ranked: Ranked | None, offers: Iterable[Offer]
    ) -> tuple[Lock, Present]:
        """Lock around the torch that is there, if it may stay; where that can't be, around the chosen one."""
        present = self._hold(packages, ranked, offers)
        note = self._notes.append
        try:
            return await lock_missing(self._on, self._wanted, present, note=note), present
        except ResolutionConflict:
            if ranked is None or present.offer == ranked.offer:
                raise
        markers = self._on.interpreter.markers
        present = Present(packages, offer=ranked.offer, keeps_torch=False, markers=markers)
        return await lock_missing(self._on, self._wanted, present, note=note), present

    def _hold(
        self, packages: Mapping[str, Package], ranked: Ranked | None, offers: Iterable[Offer]
    ) -> Present:
        """Hold what is installed against a choice; a torch that may stay is preferred to a newer one."""
        torch = packages.get("torch")
        keeps_torch = torch is not None and self._may_keep(torch, ranked)
        offer = ranked.offer if ranked is not None else None
        if torch is not None and ranked is not None and keeps_torch:
            same = (one for one in offers if one.build == ranked.build and one.full_version == torch.version)
            offer = next(same, offer)
        markers = self._on.interpreter.markers
        return Present(packages, offer=offer, keeps_torch=keeps_torch, markers=markers)

    def _may_keep(self, torch: Package, ranked: Ranked | None) -> bool:
        """Whether a torch that is installed is whole, of the chosen build, and possible on this machine."""
        if torch.damage or ranked is None:
            return not torch.damage
        offer = offer_of(torch, self._on.catalog)
        if offer is None or offer.build != ranked.build:
            return False
        return self._select([offer]).selection.build == ranked.build

    async def _change(self, lock: Lock, present: Present, candidates: Candidates) -> Change:
        files = tuple(file for file in lock.files if not present.has(file))
        replaced = {
            file.name: str(present.packages[file.name].version)
            for file in files
            if file.name in present.packages
        }
        if files:
            self._on.python.check_replaceable(name for name in replaced if name in FAMILY)
            await self._put(replace(lock, files=files))
            self._notes += present.unfitting({file.name: file.version for file in files})
            self._notes += [
                f"{name} is imported in this process: restart Python to have the new one."
                for name in self._on.python.imported_of(replaced)
            ]
        is_asked_for = self._wanted.mentions_torch or lock.torch is not None
        build = candidates.current.build if candidates.current is not None and is_asked_for else None
        torch = await anyio.to_thread.run_sync(self._torch_now)
        if torch is not None and build is not None:
            await self._verify(WorkerPlan(build=build, torch=torch))
        return Change(
            installed={file.name: file.version for file in files},
            replaced=replaced,
            torch=torch,
            build=build,
            reason=candidates.selection.reason,
            notes=tuple(self._notes),
        )

    async def _put(self, lock: Lock) -> None:
        """Download, and put it there."""
        on = self._on
        # What it unpacks to is counted once the wheels are here, in the place where it goes.
        wheels = await fetch(
            lock,
            home=on.home,
            client=on.client,
            publish=lambda _: None,
            patience=patience_of(on.config),
            unpacked_factor=0.0,
        )
        await put(lock, wheels, python=on.python, home=on.home, environ=on.environ, ran=self._ran)

    def _torch_now(self) -> str | None:
        torch = find_packages(self._on.python.paths).get("torch")
        return None if torch is None else str(torch.version)

    async def _verify(self, plan: WorkerPlan) -> None:
        verification = await verify_here(self._on.python, plan, environ=self._on.environ)
        if verification.is_ok:
            return
        failure = verification_failure(verification)
        if failure.is_curable:
            hint = "Name another build with MOONDREAM_STATION_STRATEGY, such as cpu, and run it again."
            failure = VerificationFailed(failure.message, hint=hint)
        raise failure


def offer_of(torch: Package, catalog: Catalog) -> Offer | None:
    """A torch that is installed as the wheel it came from; None where its build is not known.

    A version without a local part is PyPI's wheel only if torch's own file names the same CUDA: conda's and
    home-made ones have such versions too.
    """
    offer = offer_from_wheel(torch.wheel or "", catalog=catalog, source="default")
    if offer is None or offer.local is not None:
        return offer
    build = parse_build(offer.build)
    toolkit = build.toolkit if build is not None and build.kind is Kind.CUDA else None
    return offer if _cuda_of(torch) in {None, toolkit or "None"} else None


def _cuda_of(torch: Package) -> str | None:
    """The CUDA that an installed torch was built with, as its file writes it; None where that doesn't say."""
    try:
        text = (torch.metadata.parent / "torch" / "version.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    match = re.search(r"^cuda\b[^=\n]*=\s*(?:'([^']*)'|(None))", text, re.MULTILINE)
    return (match[1] or match[2]) if match else None
