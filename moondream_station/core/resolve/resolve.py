"""From requirements and a chosen build to the exact wheels: uv resolves, the family stays on one index."""

from __future__ import annotations

import hashlib
import re
import shutil
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from packaging.utils import canonicalize_name

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.facts.errors import HashMismatch, ResolutionConflict, StationError
from moondream_station.core.facts.events import DownloadProgressed
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.fetch.download import fetch_unhashed, with_sizes
from moondream_station.core.fetch.lock import Lock, LockedFile, RemoteFile
from moondream_station.core.fetch.retry import PAGE_PATIENCE, patience_of
from moondream_station.core.fetch.wheel_store import note_finished
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import work_folder
from moondream_station.core.index.listing import ListingCache, PageSource
from moondream_station.core.packaging.packaging_config import PackagingConfig
from moondream_station.core.processes.child_process import CompletedProcess
from moondream_station.core.resolve.family import Family, build_variables, readable_page
from moondream_station.core.resolve.interpreter import Interpreter
from moondream_station.core.resolve.pylock import read_pylock
from moondream_station.core.resolve.uv_program import (
    LOG_VARIABLES,
    PROJECT,
    Uv,
    build_failure,
    find_uv,
    is_conflict,
    lock_failure,
    output_of,
    watched,
    wheel_to_fetch,
)

if TYPE_CHECKING:
    import httpx2

_TURNS = 12
"""Each turn adds what the one before showed: a name for the group, a wheel from disk, an unfit torch."""
_NO_VERSIONS = re.compile(r"there are no versions of ([a-z0-9-]+)")
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


async def resolve_lock(
    *,
    requirements: Requirements,
    offer: Offer | None,
    others: Sequence[Offer] = (),
    interpreter: Interpreter,
    config: PackagingConfig,
    torch_index: str,
    home: Home,
    client: httpx2.AsyncClient,
    environ: Mapping[str, str],
    catalog: Catalog,
    publish: Callable[[DownloadProgressed], object] = lambda _: None,
    bounds: Iterable[str] = (),
) -> Lock:
    """The exact wheels for requirements, with torch's family from the chosen offer's source alone.

    Torch is in the lock only if something asks for it. `offer` is None where no torch may come in; where it
    does not resolve, the newest of `others` (of the same build and place) that does is taken. `torch_index`
    stands for https://download.pytorch.org/whl and may hold credentials. `publish` takes the facts of a wheel
    that must be fetched before it can be locked, because its index tells neither its metadata nor its hash.
    `bounds` are further constraints on any package: what is installed already, for one.
    """
    constraints = await config.ordinary_constraints()
    async with work_folder(home) as folder:
        patience = patience_of(config, PAGE_PATIENCE)
        cache = ListingCache(home.cache / "listings")
        pages = PageSource(client=client, cache=cache, patience=patience, refresh=True)
        tags, wheels = interpreter.tags, folder / "wheels"
        family = Family(offer=offer, others=others, tags=tags, wheels=wheels, pages=pages, catalog=catalog)
        variables = {
            **config.to_uv_environment(torch_index=torch_index),
            **family.credentials(torch_index, config.index_url),
            **family.variables,
        }
        resolver = _Resolver(
            uv=await find_uv(environ),
            folder=folder,
            cache=home.cache / "uv",
            variables=variables,
            interpreter=interpreter,
            family=family,
            builds=frozenset(requirements.builds) | family.builds,
            built=set(family.builds),
            watch=partial(watched, client=client, patience=patience),
            fetch=partial(
                fetch_unhashed, home=home, client=client, publish=publish, patience=patience_of(config)
            ),
        )
        lock = await resolver.settle(requirements.texts, (*constraints, *bounds))
    _check_hashes(lock, requirements)
    return await with_sizes(lock, client)


@dataclass(slots=True, kw_only=True)
class _Resolver:
    """uv in a folder of its own, with a cache that stays, and what keeps torch's family in its place."""

    uv: Uv
    folder: Path
    cache: Path
    variables: Mapping[str, str]
    interpreter: Interpreter
    family: Family
    builds: frozenset[str]
    built: set[str]
    watch: Callable[..., Awaitable[CompletedProcess]]
    fetch: Callable[[RemoteFile], Awaitable[tuple[Path, str]]]
    _is_strict: bool = True
    _runs: list[CompletedProcess] = field(default_factory=list)

    async def settle(self, dependencies: Sequence[str], constraints: tuple[str, ...]) -> Lock:
        """Lock, learn what was missing, lock again."""
        family, conflict = self.family, None
        await family.begin()
        for _ in range(_TURNS):
            project = family.project(self.interpreter, dependencies=dependencies, constraints=constraints)
            failure = await self._run(project)
            if failure is not None:
                if conflict is not None and wheel_to_fetch(failure):
                    raise self._failed(conflict)
                whole = family.whole_wheel(wheel_to_fetch(failure) or "")
                if whole is not None:
                    await family.offer_from_disk(whole, *await self.fetch(whole))
                elif not await self._learn(failure):
                    if not (is_conflict(failure) and family.widen()):
                        await self._check_pages(failure)
                        raise self._failed(conflict or failure)
                    conflict = failure
                continue
            lock = await self._read()
            if not family.settle(lock) or family.ask_for_devices(lock):
                continue
            strangers = family.strangers(lock)
            if not strangers:
                return family.with_origins(lock)
            if not await family.pin(file.name for file in strangers):
                raise await self._conflict(strangers[0])
        raise ResolutionConflict("The requirements don't settle on one PyTorch build.", log=self.log)

    async def _learn(self, failure: str) -> bool:
        """Whether a failure shows what to do better in the next turn."""
        if wheel_to_fetch(failure) is None:
            # Unpinned companions make uv look at the wrong versions of torch.
            mentioned = set(_NAME.findall(failure))
            return self._build_some(mentioned) or await self.family.pin(mentioned)
        # An ordinary package of an index with too little metadata: let uv fetch its wheels, as pip would.
        was_strict, self._is_strict = self._is_strict, False
        return was_strict

    @property
    def log(self) -> str:
        """All of uv's output so far."""
        return output_of(*self._runs)

    def _build_some(self, mentioned: set[str]) -> bool:
        """Build from source what of these names may be built; whether there is any such.

        Wheels are tried first: one that is there needs no compiler, and runs no foreign code.
        """
        unbuilt = (self.builds - self.built) & mentioned
        self.built |= unbuilt
        return bool(unbuilt)

    async def _run(self, project: str) -> str | None:
        """Lock and export; None when that went well, else what uv wrote to stderr.

        While strict, uv may neither fetch a whole wheel for its metadata nor to hash it.
        """
        await anyio.to_thread.run_sync(self._begin, project)
        variables = {**self.variables, **LOG_VARIABLES}
        if self._is_strict:
            variables["UV_REQUIRE_METADATA_RANGE_REQUESTS"] = "1"
        # uv lets what is named here pass its --no-build.
        built = (part for name in sorted(self.built) for part in ("--no-binary-package", name))
        failure = await self._call(variables, "lock", "--no-build", *built)
        if failure is not None:
            return failure
        offline = ("--offline",) if self._is_strict else ()
        form = ("--format", "pylock.toml", "--no-header", "-o", "pylock.toml")
        selected = ("--frozen", "--no-default-groups", "--no-emit-project")
        return await self._call(variables, "export", *selected, *offline, *form)

    async def _read(self) -> Lock:
        """The lock that `run` made, for the interpreter."""
        text = await anyio.Path(self.folder / "pylock.toml").read_text(encoding="utf-8")
        markers, tags = self.interpreter.markers, self.interpreter.tags
        return await anyio.to_thread.run_sync(
            lambda: read_pylock(text, markers=markers, tags=tags, builds=self.builds, tool_output=self.log)
        )

    async def _check_pages(self, failure: str) -> None:
        """Read what uv found nothing on: it says no more of a listing that it can't read."""
        indexes = (self.variables["UV_DEFAULT_INDEX"], *self.variables.get("UV_INDEX", "").split())
        for name in set(_NO_VERSIONS.findall(failure)):
            for index in indexes:
                await readable_page(f"{index.rstrip('/')}/{name}/", "index", self.family.pages)

    def _begin(self, project: str) -> None:
        for name in ("uv.lock", "pylock.toml"):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / "pyproject.toml").write_text(project, encoding="utf-8")

    async def _call(self, variables: Mapping[str, str], *args: str) -> str | None:
        common = ("-q", "-p", str(self.interpreter.path), "--cache-dir", str(self.cache))
        run = partial(self.uv.run, *args, *common, cwd=self.folder, variables=variables)
        completed = await self.watch(run)
        self._runs.append(completed)
        return None if completed.returncode == 0 else completed.stderr.decode(errors="replace")

    def _failed(self, failure: str) -> StationError:
        """Why it can't be locked; where that is about torch, with the build on the other side."""
        error = lock_failure(failure, log=self.log, cache=self.cache.parent)
        if not isinstance(error, ResolutionConflict) or "torch" not in error.message:
            return error
        if self.family.offer is None or str(self.family.offer.full_version) in error.message:
            return error
        message = f"{error.message} The chosen PyTorch is {self.family.description}."
        return ResolutionConflict(message, hint=error.hint, log=error.log)

    async def _conflict(self, stranger: LockedFile) -> ResolutionConflict:
        """A package of the family comes from elsewhere: who asks for it, and what both sides say."""
        uv_lock = tomllib.loads(await anyio.Path(self.folder / "uv.lock").read_text(encoding="utf-8"))
        asking = sorted(
            package["name"]
            for package in uv_lock.get("package", ())
            if package["name"] != PROJECT
            and any(dependency["name"] == stranger.name for dependency in package.get("dependencies", ()))
        )
        where = f" from {redact_url(stranger.index)}" if stranger.index else ""
        return ResolutionConflict(
            f"{', '.join(asking) or 'the backend'} asks for {stranger.name}, which would be"
            f" {stranger.version}{where}; the environment's PyTorch is {self.family.description}.",
            hint="Another strategy may choose a build that has it, or the requirements have to change.",
            log=self.log,
        )


def _check_hashes(lock: Lock, requirements: Requirements) -> None:
    allowed: dict[str, set[str]] = {}
    for item, hashes in zip(requirements.items, requirements.hashes, strict=True):
        if hashes:
            allowed.setdefault(canonicalize_name(item.name), set()).update(hashes)
    for file in lock.files:
        if file.sha256 not in allowed.get(file.name, {file.sha256}):
            raise HashMismatch(
                f"{file.filename} from {redact_url(file.url)} has none of the hashes that"
                f" {requirements.origin} gives for {file.name}.",
                hint="The index has another file of this version, or the hashes are for another platform.",
                log=lock.tool_output,
            )


async def build_wheels(
    lock: Lock,
    sources: Mapping[str, Path],
    *,
    home: Home,
    interpreter: Interpreter,
    environ: Mapping[str, str],
    variables: Mapping[str, str],
) -> Lock:
    """The lock with a wheel in the place of each archive of sources (`lock.sources`); most locks have none.

    What was built lies with the downloads, under the name of its content, and stays as long as they do.
    """
    wheels = {}
    variables = {**variables, **build_variables(lock.packages)}
    for file in lock.sources.files:
        uv = await find_uv(environ)
        async with work_folder(home) as folder:
            archive = folder / file.filename  # uv takes what it is from its name
            await anyio.to_thread.run_sync(shutil.copyfile, sources[file.filename], archive)
            where = ("-p", str(interpreter.path), "-o", str(folder), "--cache-dir", str(home.cache / "uv"))
            done = await uv.run(
                "build", "-q", "--wheel", *where, str(archive), cwd=folder, variables=variables
            )
            built = await anyio.to_thread.run_sync(lambda: next(folder.glob("*.whl"), None))
            if done.returncode != 0 or built is None:
                stderr = done.stderr.decode(errors="replace")
                raise build_failure(f"{file.name} {file.version}", stderr, log=output_of(done))
            wheels[file.name] = await anyio.to_thread.run_sync(_keep, file, built, home)
    return replace(lock, files=tuple(wheels.get(file.name, file) for file in lock.files))


def _keep(file: LockedFile, built: Path, home: Home) -> LockedFile:
    """Put a wheel that was built among the downloads."""
    with built.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    wheel = replace(file, filename=built.name, sha256=sha256, size_bytes=built.stat().st_size, index=None)
    path = home.downloads / wheel.stored_name
    shutil.move(built, path)
    note_finished(path)
    return replace(wheel, url=path.absolute().as_uri())
