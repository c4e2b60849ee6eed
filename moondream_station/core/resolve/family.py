"""Torch and its companions in one lock: where they must come from, what pins them there, and who strayed.

What pins the family, also where another package asks for it, is a dependency group that is locked but never
exported, together with an explicit index and a source for every name of the family. Measured with uv 0.13.9:
constraints, overrides, extra indexes and `uv pip compile` with explicit indexes all let a torch that comes in
through another package come from the user's own index.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import anyio.to_thread
from packaging.tags import Tag
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.offers import Offer
from moondream_station.core.builds.requirements import FAMILY, filename_of
from moondream_station.core.facts.errors import IndexUnreachable
from moondream_station.core.facts.redact import credentials_in, redact_url, without_credentials
from moondream_station.core.facts.selection import Source
from moondream_station.core.fetch.lock import Lock, LockedFile, RemoteFile
from moondream_station.core.home.task_groups import together
from moondream_station.core.index.listing import ListedFile, Page, PageSource
from moondream_station.core.packaging.packaging_config import PYPI_URL
from moondream_station.core.resolve.interpreter import Interpreter
from moondream_station.core.resolve.pylock import toml
from moondream_station.core.resolve.uv_program import FAMILY_GROUP, PROJECT

_TORCH_INDEX = "moondream-station-torch-index"
"""An unlikely name: a user's `UV_INDEX="NAME=URL"` would take the place of an index of that name."""
_TORCH_WHEEL = "moondream-station-torch-wheel"

_DEVICE = "rocm-sdk-device-"
_TRITON_NAMES = tuple(name for name in FAMILY if "triton" in name)
"""What torch itself requires from its own index, by build and release; each index has one or two of them."""


def build_variables(packages: Iterable[str]) -> Mapping[str, str]:
    """What AMD's source package is built with beside these: the GPU, for which it would ask a tool."""
    gfx = [name.removeprefix(_DEVICE) for name in packages if name.startswith(f"{_DEVICE}gfx")]
    return {"ROCM_SDK_TARGET_FAMILY": min(gfx)} if gfx else {}


async def readable_page(url: str, source: Source, pages: PageSource) -> Page:
    """A page that lists something or is not there."""
    page = await pages.get(url, source)
    if page.report.outcome == "failed":
        verb = "reached" if page.is_server_dead else "read"
        raise IndexUnreachable(
            f"The index {page.report.url_redacted} can't be {verb}: {page.report.detail}.",
            hint=page.hint or "Check the network, the proxy and the index's address.",
        )
    return page


async def usable_names(
    url: str,
    names: Iterable[str],
    pages: PageSource,
    *,
    tags: Iterable[Tag],
    flat: bool,
    built: AbstractSet[str] = frozenset(),
) -> frozenset[str]:
    """Those of the names that an index, or a page or folder of files (`flat`), has a wheel of for these tags.

    Of what may be built from source, an archive will do. A name without any counts as absent: locked for no
    other reason than that it is there, it would make the lock impossible.
    """
    asked, accepted, usable = frozenset(names), frozenset(tags), set[str]()

    async def look(page_url: str) -> None:
        page = await readable_page(page_url, "find-links" if flat else "index", pages)
        await anyio.to_thread.run_sync(add_names_of, page.files)

    def add_names_of(files: Iterable[ListedFile]) -> None:
        for file in files:
            with suppress(InvalidSdistFilename):
                usable.update({str(parse_sdist_filename(file.filename)[0])} & built)
            with suppress(InvalidWheelFilename):  # whatever else lies there is not asked for
                name, _, _, its_tags = parse_wheel_filename(file.filename)
                if not accepted.isdisjoint(its_tags):
                    usable.add(str(name))

    await together(
        *(partial(look, page) for page in ([url] if flat else [f"{url}/{name}/" for name in asked]))
    )
    return asked & usable


@dataclass(eq=False, kw_only=True)
class Family:
    """What keeps torch's family in its place while the requirements are locked.

    `offer` is the chosen torch, None where no torch may come in; `others` are of the same build and place and
    may be taken instead. `wheels` is a folder that does not exist yet, for what must be offered from disk.
    """

    offer: Offer | None
    others: Sequence[Offer]
    tags: Sequence[Tag]
    wheels: Path
    pages: PageSource
    catalog: Catalog

    def __post_init__(self) -> None:
        extras = self.offer.extras if self.offer is not None else ()
        self._torch = f"torch[{','.join(extras)}]" if extras else "torch"
        self._pin = f"{self._torch}=={self.offer.full_version}" if self.offer is not None else ""
        self._gfx = tuple(extra.removeprefix("device-") for extra in extras)
        self._vendor = self.catalog.vendor_packages(self._gfx) if extras else frozenset[str]()
        self.names = FAMILY | self._vendor
        """What has to come from the place of the chosen torch."""
        self._with_extras: set[str] = set()
        self._url: str | None = None
        """The explicit index; PyPI is one too, or an extra index would go first."""
        if (offer := self.offer) is not None:
            place = offer.find_links if offer.source == "find-links" else offer.index_url or PYPI_URL
            self._url = without_credentials(place).rstrip("/") if place is not None else None
        self._is_flat = self.offer is not None and self.offer.source == "find-links"
        self._offers: dict[Version, Offer] = {}
        self._asked: set[str] = set()
        self._pinned: set[str] = set()
        self._on_disk: dict[str, LockedFile] = {}

    async def begin(self) -> None:
        """Find out what must be pinned beside torch from the start: on PyPI, nothing."""
        if self.offer is not None and self.offer.source != "default":
            await self.pin((*_TRITON_NAMES, *sorted(self._vendor)))

    @property
    def builds(self) -> frozenset[str]:
        """What may be built from source: a package of AMD's that its torch needs."""
        return self.catalog.vendor_built if self._vendor else frozenset()

    @property
    def variables(self) -> Mapping[str, str]:
        """What those packages are built with."""
        return build_variables(f"{_DEVICE}{gfx}" for gfx in self._gfx)

    @property
    def description(self) -> str:
        """The chosen torch and its place, for people."""
        if self.offer is None:
            return "none"
        place = f" from {redact_url(self._url)}" if self._url else ""
        return f"{self.offer.full_version} ({self.offer.build}){place}"

    def widen(self) -> bool:
        """Let the resolver choose among all torches that may be taken; False where there is no other one.

        Nor where the index has so little metadata that whole wheels would have to be fetched to look at them.
        """
        others, self.others = self.others, ()
        if self.offer is None or not others or "torch" in self._on_disk:
            return False
        self._offers = {offer.full_version: offer for offer in (self.offer, *others)}
        self._pin = f"{self._torch}>={min(self._offers).public},<={max(self._offers).public}"
        return True

    def settle(self, lock: Lock) -> bool:
        """Whether the torch of a lock is one that may be taken: then it is the chosen one from here on.

        A range names torches too that were not offered, or are of another build; those are excluded.
        """
        if lock.torch is None or not self._offers:
            return True
        version = Version(lock.torch)
        if version not in self._offers:
            self._pin += f",!={version}"
            return False
        self.offer = self._offers[version]
        return True

    def project(
        self, interpreter: Interpreter, *, dependencies: Iterable[str], constraints: Sequence[str]
    ) -> str:
        """The project that uv locks for an interpreter, as `pyproject.toml`."""
        dependencies = (*dependencies, *sorted(self._with_extras))
        group = () if self.offer is None else (self._pin, *sorted(self._pinned))
        sources: dict[str, str] = {}  # a name that nobody asks for does no harm
        indexes: list[tuple[str, str, bool]] = []
        if self._url is not None:
            sources |= dict.fromkeys(sorted(self.names), _TORCH_INDEX)
            indexes.append((_TORCH_INDEX, self._url, self._is_flat))
        if self._on_disk:
            sources |= dict.fromkeys(self._on_disk, _TORCH_WHEEL)
            indexes.append((_TORCH_WHEEL, str(self.wheels), True))
        markers = interpreter.markers
        platform = " and ".join(
            f"{name} == '{markers[name]}'" for name in ("sys_platform", "platform_machine")
        )
        lines = [
            "[project]",
            f"name = {toml(PROJECT)}",
            'version = "0"',
            f"requires-python = {toml(f'=={interpreter.minor}.*')}",
            f"dependencies = {toml(dependencies)}",
            "[dependency-groups]",
            f"{FAMILY_GROUP} = {toml(group)}",
            "[tool.uv]",
            "package = false",
            "default-groups = []",
            f"environments = {toml([platform])}",
            f"required-environments = {toml([platform])}",
            f"constraint-dependencies = {toml(constraints)}",
        ]
        # A workspace in a parent folder would otherwise take the project over.
        lines += ["[tool.uv.workspace]", "members = []", "[tool.uv.sources]"]
        lines += [f"{name} = {{ index = {toml(index)} }}" for name, index in sources.items()]
        for name, url, is_flat in indexes:
            lines += ["[[tool.uv.index]]", f"name = {toml(name)}", f"url = {toml(url)}"]
            lines += ["explicit = true", *(['format = "flat"'] if is_flat else [])]
        return "\n".join([*lines, ""])

    def credentials(self, *bases: str) -> dict[str, str]:
        """The variables that tell uv the credentials of the family's index, where its base URL holds them."""
        for base in bases:
            credentials = credentials_in(base)
            bare = without_credentials(base).rstrip("/")
            if credentials is not None and f"{self._url}/".startswith(f"{bare}/"):
                name = f"UV_INDEX_{_TORCH_INDEX.upper().replace('-', '_')}"
                return {f"{name}_USERNAME": credentials.username, f"{name}_PASSWORD": credentials.password}
        return {}

    async def pin(self, names: Iterable[str]) -> bool:
        """Pin those of the names that the index has and that are not pinned yet; whether there are any."""
        names = {name for name in names if name in self.names and name != "torch"} - self._asked
        if self._url is None or not names:
            return False
        present = await usable_names(
            self._url, names, self.pages, tags=self.tags, flat=self._is_flat, built=self.builds
        )
        self._asked |= names
        self._pinned |= present
        return bool(present)

    def whole_wheel(self, url: str) -> RemoteFile | None:
        """The family's wheel that uv must fetch whole; None for an ordinary one, or the second time."""
        filename = filename_of(url)
        try:
            name, _, _, _ = parse_wheel_filename(filename)
        except InvalidWheelFilename:
            return None
        if name not in FAMILY or name in self._on_disk:
            return None
        offer = self.offer
        if offer is None or offer.filename != filename:
            return RemoteFile(filename=filename, url=without_credentials(url), sha256=None, size_bytes=None)
        url = without_credentials(offer.url or url)
        return RemoteFile(filename=filename, url=url, sha256=offer.sha256, size_bytes=offer.size_bytes)

    async def offer_from_disk(self, wheel: RemoteFile, path: Path, sha256: str) -> None:
        """Offer uv a wheel from disk, which was fetched to `path`."""
        name, version, _, _ = parse_wheel_filename(wheel.filename)
        await anyio.to_thread.run_sync(_place_wheel, path, self.wheels / wheel.filename)
        self._on_disk[name] = LockedFile(
            name=name,
            version=str(version),
            filename=wheel.filename,
            url=wheel.url,
            index=self._url,
            sha256=sha256,
            size_bytes=(await anyio.Path(path).stat()).st_size,
        )

    def ask_for_devices(self, lock: Lock) -> bool:
        """Ask for AMD's code for this machine's GPUs, which comes with extras; whether a lock lacks that.

        Torch is in a lock only where something needs it, so that its extras can be asked for only then.
        """
        locked = {"torch", "torchvision"} & lock.packages.keys() if self._vendor else set()
        wanted = {f"{name}[{','.join(self.offer.extras)}]" for name in locked if self.offer}
        missing = wanted - self._with_extras
        self._with_extras |= missing
        return bool(missing)

    def strangers(self, lock: Lock) -> tuple[LockedFile, ...]:
        """What of the family would come from elsewhere, or is of another build, torch first."""
        strangers = [file for file in lock.files if file.name in self.names and self._is_stranger(file)]
        return tuple(sorted(strangers, key=lambda file: file.name != "torch"))

    def with_origins(self, lock: Lock) -> Lock:
        """The lock with the real places of the wheels that were offered from disk."""
        on_disk = {file.filename: file for file in self._on_disk.values()}
        return replace(lock, files=tuple(on_disk.get(file.filename, file) for file in lock.files))

    def _is_stranger(self, file: LockedFile) -> bool:
        offer = self.offer
        if offer is None:
            return file.name == "torch"
        if file.name == "torch" and Version(file.version) != offer.full_version:
            return True
        if file.name in self._on_disk:
            return False
        return unquote(file.index or "").rstrip("/") != unquote(self._url or "")


def _place_wheel(path: Path, link: Path) -> None:
    link.parent.mkdir(exist_ok=True)
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without links
        shutil.copyfile(path, link)
