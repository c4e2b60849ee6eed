"""Installs requirements into the running interpreter: chosen, locked and downloaded as for an environment."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio.to_thread
import httpx2
from packaging.utils import canonicalize_name

from moondream_station.core.activation.choice import Candidates, no_build
from moondream_station.core.builds.naming import check_strategy, parse_build
from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.requirements import FAMILY, Requirements
from moondream_station.core.bus.bus import new_activation_id
from moondream_station.core.capabilities.detect import detect
from moondream_station.core.environments.building import blaming_wheels, pylock_options
from moondream_station.core.environments.packages import Package, find_packages, unmet_needs
from moondream_station.core.environments.store import sweep
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.errors import EnvironmentBroken, ResolutionConflict, VerificationFailed
from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.fetch.download import fetch
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.fetch.retry import patience_of
from moondream_station.core.home.layout import Home, home_from
from moondream_station.core.home.locks import Holder, activation_lock
from moondream_station.core.home.settings import Settings, load_settings
from moondream_station.core.home.storage import Need, check_space, unpacked_bytes, work_folder
from moondream_station.core.in_place.running_python import Installed, RunningPython, offer_of, verify_here
from moondream_station.core.index.catalog_loader import open_catalog
from moondream_station.core.index.offers import collect_offers
from moondream_station.core.machine.machine import Machine
from moondream_station.core.packaging.packaging_config import PackagingConfig, load_packaging_config
from moondream_station.core.resolve.interpreter import Interpreter, own_interpreter
from moondream_station.core.resolve.pylock import write_pylock
from moondream_station.core.resolve.resolve import resolve_lock
from moondream_station.core.resolve.uv_program import find_uv
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.selection.select import Ranked, select
from moondream_station.core.worker.verification import WorkerPlan

_NAMED_AT_MOST = 3
_NAME = re.compile(r"[A-Za-z0-9]+(?:[-_.]+[A-Za-z0-9]+)*")

# A script's own logging shows this; without any, Python writes it to stderr. Stdout is the script's alone.
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an installation changed: versions by name, those that were replaced with the former one.

    `torch` is what is installed now, if any; `build` is None where torch was not required. `notes` are
    sentences that a user should know.
    """

    installed: Mapping[str, str] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    torch: str | None = None
    build: str | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()


async def detect_now(machine: Machine) -> Capabilities:
    """The machine as it is now, without the home's cache."""
    return await detect(
        machine,
        on_probe=lambda _: None,
        on_slow=lambda probe: _log.warning("The probe %s has not answered yet.", probe),
    )


def guides_settings(environ: Mapping[str, str]) -> tuple[Home, Settings]:
    """The home, and the settings; the strategy is `guide` unless the user named a build."""
    home = home_from(environ)
    settings = load_settings(home, environ)
    is_named = parse_build(check_strategy(settings.strategy)) is not None
    return home, settings if is_named else replace(settings, strategy="guide")


async def install_in_place(
    requirements: Requirements,
    machine: Machine,
    *,
    environ: Mapping[str, str],
    ran: Callable[[tuple[str, ...]], object],
) -> Change:
    """Install what is missing into the running interpreter, and let torch compute where it is required.

    `ran` is called with the last step's command, whether it succeeded or not. Whatever fails is a
    `StationError`, by cause.
    """
    python = RunningPython.here()
    python.check_changeable()
    interpreter = own_interpreter()
    home, settings = guides_settings(environ)
    torch_index = settings.torch_index
    home.create()
    # The lock also keeps `prune` from removing the downloads, and a second installation waiting.
    command = f"install into {python.prefix}"
    async with activation_lock(home, activation=new_activation_id(), command=command, on_wait=_warn_wait):
        await sweep(home)  # a killed run leaves uv's cache, with all of torch in it
        capabilities = await detect_now(machine)
        config = await load_packaging_config(environ)
        request = BuildRequest(
            capabilities=capabilities,
            requirements=await config.within_constraints(requirements.applicable(interpreter.markers)),
            python=interpreter.name,
            strategy=settings.strategy,
            catalog=await open_catalog(settings, home=home, environ=environ),
            asks_amd=False,  # what is built from source is for environments of their own
        )
        async with open_client(config, torch_index=torch_index) as client:
            return await _InPlace(
                request, python, interpreter, torch_index, config, client, home, environ, ran
            ).install()


def _warn_wait(holder: Holder | None) -> None:
    who = f"{holder.command} (pid {holder.pid}, since {holder.since})" if holder else "another process"
    _log.warning("Waiting for %s, which uses the same home.", who)


@dataclass(frozen=True)
class _InPlace:
    """One installation; its requirements apply to this interpreter, within the user's constraints."""

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
        packages = await anyio.to_thread.run_sync(find_packages, self.python.paths)
        offers, candidates = await self._choose(packages.get("torch"))
        installed, lock = await candidates.first_that_locks(
            lambda: self._lock(packages, offers, candidates.current)
        )
        files = tuple(file for file in lock.files if not installed.has(file))
        replaced = {file.name: str(packages[file.name].version) for file in files if file.name in packages}
        if files:
            self.python.check_replaceable(name for name in replaced if name in FAMILY)
            await self._put(replace(lock, files=files))
        is_required = self.request.requirements.mentions_torch or lock.torch is not None
        build = candidates.current.build if candidates.current is not None and is_required else None
        present = await anyio.to_thread.run_sync(find_packages, self.python.paths)
        torch = present.get("torch")
        version = None if torch is None else str(torch.version)
        if version is not None and build is not None:
            await self._verify(WorkerPlan(build=build, torch=version))
        markers = self.interpreter.markers
        needs = set(unmet_needs(present, markers=markers)) - set(unmet_needs(packages, markers=markers))
        self._notes.extend(f"{need}." for need in sorted(needs))
        for name in self.python.imported_of(replaced):
            self._notes.append(f"{name} is imported in this process: restart Python to use the new one.")
        return Change(
            installed={file.name: file.version for file in files},
            replaced=replaced,
            torch=version,
            build=build,
            reason=candidates.selection.reason,
            notes=(*self.request.requirements.warnings, *self._notes),
        )

    async def _choose(self, torch: Package | None) -> tuple[tuple[Offer, ...], Candidates]:
        """Ask every source which wheels of torch it has, and select.

        Where none answers, the catalog says what is right here: it may be installed already. Where nothing
        that is available fits, the installed torch may.
        """
        collected = await collect_offers(
            self.request, torch_index=self.torch_index, config=self.config, home=self.home, client=self.client
        )
        index = without_credentials(self.torch_index)
        offers = collected.offers or self.request.catalog_offers(index=index)
        candidates = Candidates(select(self.request, offers, is_complete=collected.is_complete))
        present = offer_of(torch, self.request.catalog) if torch is not None else None
        if candidates.current is None and present is not None:
            candidates = Candidates(select(self.request, [present]))
        if candidates.current is None and self.request.requirements.mentions_torch:
            raise no_build(candidates.selection, collected)
        return offers, candidates

    async def _lock(
        self, packages: Mapping[str, Package], offers: Iterable[Offer], current: Ranked | None
    ) -> tuple[Installed, Lock]:
        """Lock what is missing for a candidate.

        A torch that is whole, of the chosen build and possible on this machine may stay, and is preferred.
        """
        torch, offer = packages.get("torch"), current.offer if current is not None else None
        keeps_torch = torch is not None and not torch.damage
        if torch is not None and keeps_torch and current is not None:
            present, build = offer_of(torch, self.request.catalog), current.build
            chosen = select(self.request, [present]).selection.build if present is not None else None
            keeps_torch = present is not None and build == present.build == chosen
            if keeps_torch:
                same = (one for one in offers if one.build == build and one.full_version == torch.version)
                offer = next(same, offer)
        markers = self.interpreter.markers
        installed = Installed(packages=packages, offer=offer, keeps_torch=keeps_torch, markers=markers)
        try:
            return installed, await self._lock_missing(installed)
        except ResolutionConflict:
            if current is None or offer == current.offer:
                raise
        installed = replace(installed, offer=current.offer, keeps_torch=False)
        return installed, await self._lock_missing(installed)

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
            together = replace(
                missing,
                items=(*missing.items, *orphans.items),
                texts=(*missing.texts, *orphans.texts),
                hashes=(*missing.hashes, *orphans.hashes),
            )
            return await self._resolve(installed, together)
        except ResolutionConflict:
            names = " and ".join(orphans.texts)
            self._notes.append(f"{names} was left as it is: no version fits torch {lock.torch}.")
            return lock

    async def _resolve(self, installed: Installed, missing: Requirements) -> Lock:
        """Lock with every installed version pinned; of the pins, those that a conflict names are dropped."""
        pins = installed.pins()
        items = self.request.requirements.items
        required = [f"{canonicalize_name(item.name)}{item.specifier}" for item in items if item.specifier]
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
                    catalog=self.request.catalog,
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
        """Let uv install the wheels of a lock, and nothing else, over packages of the same names.

        This can't be undone. An interruption leaves packages half installed; the next run sees that by their
        RECORDs.
        """
        wheels = await fetch(
            lock,
            home=self.home,
            client=self.client,
            publish=lambda _: None,
            patience=patience_of(self.config),
            unpacked_factor=0.0,  # the space for what they unpack to is checked below, where that goes
        )
        uv = await find_uv(self.environ)
        async with work_folder(self.home) as scratch, blaming_wheels(lock, wheels):
            await anyio.to_thread.run_sync(_check_space, scratch, self.python, tuple(wheels.values()))
            pylock = scratch / "pylock.toml"
            await anyio.Path(pylock).write_text(write_pylock(lock, sources=wheels), encoding="utf-8")
            options = (*pylock_options(self.python.executable, scratch), "--reinstall", "-r", str(pylock))
            await uv.fill("pip", "install", *options, folder=self.python.site_packages, ran=self.ran)
            await anyio.to_thread.run_sync(_check_whole, self.python, lock)
        importlib.invalidate_caches()

    async def _verify(self, plan: WorkerPlan) -> None:
        try:
            (await verify_here(self.python, plan, environ=self.environ)).checked()
        except VerificationFailed as failure:
            if failure.is_curable:
                failure.hint = (
                    "Name another build with MOONDREAM_STATION_STRATEGY, such as cpu, and run it again."
                )
            raise


def _check_space(scratch: Path, python: RunningPython, wheels: tuple[Path, ...]) -> None:
    """Room for what the wheels unpack to: once where uv can link from its cache, else in both places."""
    places = {path.stat().st_dev: path for path in (scratch, python.folder)}
    size_bytes = unpacked_bytes(wheels)
    check_space([Need(path, size_bytes) for path in places.values()])


def _check_whole(python: RunningPython, lock: Lock) -> None:
    packages = find_packages([str(python.site_packages), *python.paths])
    problems = [f"{name} is missing" for name in lock.packages if name not in packages]
    for name in lock.packages.keys() & packages.keys():
        problems += packages[name].damage
    if problems:
        named = "; ".join(sorted(problems)[:_NAMED_AT_MOST])
        raise EnvironmentBroken(
            f"The installation is incomplete: {named}.", hint="Run it again; it reinstalls what is damaged."
        )
