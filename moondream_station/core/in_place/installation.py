"""Installs requirements into the running interpreter: chosen, locked and downloaded as for an environment."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio.to_thread
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from moondream_station.core.activation.candidates import Candidates, no_build
from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.requirements import FAMILY, Requirements
from moondream_station.core.environments.packages import Package, find_packages
from moondream_station.core.facts.errors import ResolutionConflict, VerificationFailed
from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.fetch.download import fetch
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.fetch.retry import patience_of
from moondream_station.core.home.layout import Home
from moondream_station.core.in_place.installed import Installed
from moondream_station.core.in_place.put import put
from moondream_station.core.in_place.running_python import RunningPython
from moondream_station.core.in_place.running_torch import offer_of, verify_here
from moondream_station.core.index.offers import collect_offers
from moondream_station.core.packaging.packaging_config import PackagingConfig
from moondream_station.core.resolve.interpreter import Interpreter
from moondream_station.core.resolve.resolve import resolve_lock
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import Ranked, select
from moondream_station.core.worker.verification import WorkerPlan, verification_failure

if TYPE_CHECKING:
    import httpx2

_LOCK_TRIES = 3
_NAME = re.compile(r"[A-Za-z0-9]+(?:[-_.]+[A-Za-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an installation changed.

    Args:
        installed: Every package that was installed, version by name.
        replaced: The packages that were replaced, former version by name.
        torch: The torch that is installed now, None where there is none.
        build: Its build, None where torch was not required.
        reason: Why it is that build.
        notes: Sentences that a user should know.
    """

    installed: Mapping[str, str] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    torch: str | None = None
    build: str | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InPlace:
    """Installs what is missing into the running interpreter.

    Args:
        request: What a build is chosen for; the requirements apply here, within the user's constraints.
        torch_index: Base URL of the PyTorch index or its mirror; it may hold credentials.
        ran: Called with the last step's command once it was run.
    """

    request: BuildRequest
    python: RunningPython
    interpreter: Interpreter
    torch_index: str
    config: PackagingConfig
    client: httpx2.AsyncClient
    home: Home
    environ: Mapping[str, str]
    ran: Callable[[tuple[str, ...]], object]
    _notes: list[str] = field(default_factory=list, init=False)

    async def install(self) -> Change:
        """Install what is missing, and let torch compute where it is required.

        Raises:
            StationError: No build fits, something can't be resolved, fetched or installed, or torch does not
                work; by cause.
        """
        packages = await anyio.to_thread.run_sync(find_packages, self.python.paths)
        offers, candidates = await self._choose(packages.get("torch"))
        installed, lock = await self._lock(packages, offers, candidates)
        files = tuple(file for file in lock.files if not installed.has(file))
        replaced = {file.name: str(packages[file.name].version) for file in files if file.name in packages}
        if files:
            self.python.check_replaceable(name for name in replaced if name in FAMILY)
            await self._put(replace(lock, files=files))
        is_required = self.request.requirements.mentions_torch or lock.torch is not None
        build = candidates.current.build if candidates.current is not None and is_required else None
        torch = (await anyio.to_thread.run_sync(find_packages, self.python.paths)).get("torch")
        version = None if torch is None else str(torch.version)
        if version is not None and build is not None:
            await self._verify(WorkerPlan(build=build, torch=version))
        versions = {file.name: file.version for file in files}
        return Change(
            installed=versions,
            replaced=replaced,
            torch=version,
            build=build,
            reason=candidates.selection.reason,
            notes=(
                *self.request.requirements.warnings,
                *self._notes,
                *installed.misfits(versions),
                *(
                    f"{name} is imported in this process: restart Python to use the new one."
                    for name in self.python.imported_of(replaced)
                ),
            ),
        )

    async def _choose(self, torch: Package | None) -> tuple[tuple[Offer, ...], Candidates]:
        """Ask every source which wheels of torch it has, and select.

        Where none answers, the catalog says what is right here: it may be installed already. Where nothing
        that is available fits, the installed torch may.
        """
        collected = await collect_offers(
            self.request,
            torch_index=self.torch_index,
            config=self.config,
            home=self.home,
            client=self.client,
        )
        index = without_credentials(self.torch_index)
        offers = collected.offers or self.request.catalog_offers(index=index)
        candidates = Candidates(select(self.request, offers))
        present = offer_of(torch, self.request.catalog) if torch is not None else None
        if candidates.current is None and present is not None:
            candidates = Candidates(select(self.request, [present]))
        if candidates.current is None and self.request.requirements.mentions_torch:
            raise no_build(candidates.selection, collected)
        return offers, candidates

    async def _lock(
        self, packages: Mapping[str, Package], offers: Iterable[Offer], candidates: Candidates
    ) -> tuple[Installed, Lock]:
        """Resolve what is missing; a candidate that does not resolve gives way to the next, three at most."""
        for is_last in (*(False,) * (_LOCK_TRIES - 1), True):
            current = candidates.current
            installed = self._compare(packages, offers, current)
            try:
                return installed, await self._lock_missing(installed)
            except ResolutionConflict as conflict:
                reason = conflict
            if current is not None and installed.offer != current.offer:
                # The installed torch can't stay: resolve again with the chosen one in its place.
                installed = replace(installed, offer=current.offer, keeps_torch=False)
                try:
                    return installed, await self._lock_missing(installed)
                except ResolutionConflict as conflict:
                    reason = conflict
            if is_last or current is None or candidates.reject(reason.message) is None:
                raise reason
        raise AssertionError("the last attempt returns or raises")

    def _compare(
        self, packages: Mapping[str, Package], offers: Iterable[Offer], current: Ranked | None
    ) -> Installed:
        """Compare what is installed with a candidate; an installed torch that may stay is preferred to it."""
        torch = packages.get("torch")
        keeps_torch = torch is not None and self._may_keep(torch, current)
        offer = current.offer if current is not None else None
        if torch is not None and current is not None and keeps_torch:
            same = (
                other
                for other in offers
                if other.build == current.build and other.full_version == torch.version
            )
            offer = next(same, offer)
        return Installed(
            packages=packages, offer=offer, keeps_torch=keeps_torch, markers=self.interpreter.markers
        )

    def _may_keep(self, torch: Package, current: Ranked | None) -> bool:
        """Whether an installed torch is whole, of the chosen build, and possible on this machine."""
        if torch.damage or current is None:
            return not torch.damage
        offer = offer_of(torch, self.request.catalog)
        if offer is None or offer.build != current.build:
            return False
        return select(self.request, [offer]).selection.build == current.build

    async def _lock_missing(self, installed: Installed) -> Lock:
        """Lock what is missing, together with the companions that belong to a torch that it changes."""
        missing = installed.missing(self.request.requirements)
        if not missing.items:
            return Lock(files=(), requires_python="")
        lock = await self._resolve(installed, missing)
        orphans = installed.orphans(lock)
        if not orphans.items:
            return lock
        try:
            return await self._resolve(installed, _together(missing, orphans))
        except ResolutionConflict:
            names = " and ".join(orphans.texts)
            self._notes.append(f"{names} stays as it is: no version of it fits torch {lock.torch}.")
            return lock

    async def _resolve(self, installed: Installed, missing: Requirements) -> Lock:
        """Lock with every installed version pinned; of the pins, those that a conflict names are dropped."""
        pins = installed.pins()
        required = [bound for item in self.request.requirements.items if (bound := _as_bound(item))]
        while True:
            try:
                return await resolve_lock(
                    requirements=missing,
                    offer=installed.offer,
                    interpreter=self.interpreter,
                    config=self.config,
                    torch_index=self.torch_index,
                    home=self.home,
                    client=self.client,
                    environ=self.environ,
                    bounds=[*required, *(f"{name}=={version}" for name, version in pins.items())],
                )
            except ResolutionConflict as error:
                words = _NAME.findall(f"{error.message}\n{error.log}")
                named = pins.keys() & set(map(canonicalize_name, words))
                if not named:
                    raise
                for name in named:
                    del pins[name]

    async def _put(self, lock: Lock) -> None:
        wheels = await fetch(
            lock,
            home=self.home,
            client=self.client,
            publish=lambda _: None,
            patience=patience_of(self.config),
            unpacked_factor=0.0,  # `put` checks the space for what they unpack to, where that goes
        )
        await put(lock, wheels, python=self.python, home=self.home, environ=self.environ, ran=self.ran)

    async def _verify(self, plan: WorkerPlan) -> None:
        verification = await verify_here(self.python, plan, environ=self.environ)
        if verification.is_ok:
            return
        failure = verification_failure(verification)
        if failure.is_curable:
            hint = "Name another build with MOONDREAM_STATION_STRATEGY, such as cpu, and run it again."
            failure = VerificationFailed(failure.message, hint=hint)
        raise failure


def _together(requirements: Requirements, others: Requirements) -> Requirements:
    return replace(
        requirements,
        items=(*requirements.items, *others.items),
        texts=(*requirements.texts, *others.texts),
        hashes=(*requirements.hashes, *others.hashes),
    )


def _as_bound(item: Requirement) -> str | None:
    """A requirement as a constraint, None for one that bounds nothing."""
    return f"{canonicalize_name(item.name)}{item.specifier}" if item.specifier else None
