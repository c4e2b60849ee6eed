"""The manifest: which models there are, and the backends that serve them.

The format is Moondream Station 0.1's, with additions. Keys that nobody knows are accepted, as 0.1 did.
docs/reference/manifest.md describes it, and says what was added.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from moondream_station.core.facts.errors import ManifestInvalid, UnknownModel
from moondream_station.core.facts.version import VERSION
from moondream_station.core.home.layout import folder_name

REQUIREMENTS = "requirements.txt"
"""What lists a backend's requirements where nothing else is named."""
_SHOWN_ERRORS = 3


def _module_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError(f"{text!r} is not a module name; give it without .py and without folders")
    return text


def _function_name(text: str) -> str:
    if not text.isidentifier():
        raise ValueError(f"{text!r} is not a function name")
    return text


def _package_name(text: str) -> str:
    try:
        return canonicalize_name(text, validate=True)
    except InvalidName:
        raise ValueError(f"{text!r} is not a package name") from None


def _release(text: str) -> str:
    try:
        Version(text)
    except InvalidVersion:
        raise ValueError(f"{text!r} is not a version of Moondream Station") from None
    return text


FolderName = Annotated[str, AfterValidator(folder_name)]


class Allowed(BaseModel):
    """What a backend's requirements may hold beside names and versions, each by its name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    builds: tuple[Annotated[str, AfterValidator(_package_name)], ...] = ()
    urls: tuple[Annotated[str, AfterValidator(_package_name)], ...] = ()
    files: tuple[FolderName, ...] = ()


class Parallel(StrEnum):
    """How a backend answers several requests at once: in threads, or each process of it one at a time."""

    THREADS = "threads"
    PROCESSES = "processes"


class BackendInfo(BaseModel):
    """A backend, as the manifest names it; docs/reference/manifest.md says what each key means."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    download_url: str
    entry_module: Annotated[str, AfterValidator(_module_name)]
    functions: tuple[Annotated[str, AfterValidator(_function_name)], ...]
    version: FolderName = "1.0.0"
    min_version: Annotated[str, AfterValidator(_release)] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    size: Annotated[int, Field(ge=0)] | None = None
    requirements: FolderName = REQUIREMENTS
    allow: Allowed = Allowed()
    parallel: Parallel | None = None

    @property
    def served_functions(self) -> tuple[str, ...]:
        """What of `functions` may really be called: neither private names nor the initialisation."""
        return tuple(name for name in self.functions if not name.startswith("_") and name != "init_backend")


class ModelNeeds(BaseModel):
    """What a model needs, as far as its manifest says it; docs/reference/manifest.md says how it is used."""

    model_config = ConfigDict(extra="allow", frozen=True)

    weights_bytes: Annotated[int, Field(ge=0)] | None = None
    weights_dtype: str | None = None
    memory_bytes: dict[str, Annotated[int, Field(ge=0)]] = {}
    compute_capability: Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")] | None = None
    glibc: Annotated[str, Field(pattern=r"^\d{1,2}\.\d{1,3}$")] | None = None


class Notice(BaseModel):
    """What must be accepted before a model is switched to."""

    model_config = ConfigDict(extra="allow", frozen=True)

    text: Annotated[str, Field(min_length=1)]
    url: str | None = None

    @property
    def in_words(self) -> str:
        """The text, and the address where there is one."""
        return f"{self.text} ({self.url})" if self.url else self.text

    @property
    def digest(self) -> str:
        """What its acceptance is recorded by: another text must be accepted again."""
        return hashlib.sha256(self.in_words.encode("utf-8", "surrogatepass")).hexdigest()


class ModelInfo(BaseModel):
    """A model, as the manifest names it; docs/reference/manifest.md says what each key means."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    description: str
    backend: str
    version: str = "1.0.0"
    args: dict[str, Any] = {}
    is_default: bool = False
    supported_os: tuple[str, ...] | None = None
    supported_arch: tuple[str, ...] | None = None
    system_requirements: dict[str, Any] | None = None
    requires_gpu: bool = False
    keep_alive: Annotated[float, Field(ge=-1, allow_inf_nan=False)] | None = None
    needs: ModelNeeds = ModelNeeds()
    notice: Notice | None = None


class VersionMessage(BaseModel):
    """A message to the users of some versions of the station, which `version` names as a specifier."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: str
    severity: str = "note"
    message: str


class Provenance(NamedTuple):
    """Where a manifest comes from; paths in it count from `folder`, or URLs from `url`, one of them.

    `warning` is a sentence where an older copy is used.
    """

    origin: str = ""
    folder: Path | None = None
    url: str | None = None
    warning: str | None = None


class Manifest(BaseModel):
    """A whole manifest. `read_manifest` and `fetch_manifest` make it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    version: str
    models: dict[FolderName, ModelInfo]
    backends: dict[FolderName, BackendInfo]
    messages: dict[str, str] = {}
    moondream_station_info: Any = None
    version_messages: Any = None

    _provenance: Provenance = PrivateAttr(default_factory=Provenance)

    @model_validator(mode="after")
    def _check_ids(self) -> Manifest:
        """Two ids that differ in case alone are one folder on macOS and Windows."""
        for ids in (self.models, self.backends):
            if len({name.casefold() for name in ids}) < len(ids):
                raise ValueError("two ids differ only in upper and lower case")
        return self

    @property
    def provenance(self) -> Provenance:
        """Where it comes from."""
        return self._provenance

    @property
    def default_model(self) -> str | None:
        """The first model marked as default that is supported here, as 0.1 chose."""
        defaults = (model_id for model_id, model in self.models.items() if model.is_default)
        return next((model_id for model_id in defaults if self.unsupported_reason(model_id) is None), None)

    @property
    def latest_version(self) -> str | None:
        """The newest station, where the manifest names one that is newer than this."""
        info = self.moondream_station_info
        named = info.get("latest_version") if isinstance(info, dict) else None
        with suppress(InvalidVersion, TypeError):
            return str(named) if Version(named) > Version(VERSION) else None  # type: ignore[arg-type]
        return None

    def messages_for(self, station_version: str = VERSION) -> Iterator[VersionMessage]:
        """What the manifest tells the users of a version; what 0.1 could not have read is left out."""
        for entry in self.version_messages if isinstance(self.version_messages, list) else ():
            with suppress(ValidationError, InvalidSpecifier):
                message = VersionMessage.model_validate(entry)
                if SpecifierSet(message.version).contains(station_version, prereleases=True):
                    yield message

    def model(self, model_id: str) -> ModelInfo:
        """The entry of a model."""
        try:
            return self.models[model_id]
        except KeyError:
            known = ", ".join(self.models) or "none"
            origin, *_, warning = self.provenance
            raise UnknownModel(
                f"There is no model {model_id!r} in {origin}.{f' {warning}' if warning else ''}",
                hint=f"Available models: {known}.",
            ) from None

    def unsupported_reason(
        self,
        model_id: str,
        *,
        system: str | None = None,
        machine: str | None = None,
        station_version: str = VERSION,
    ) -> str | None:
        """Why a model can't be used, None where it can; here, or on a `platform.system()` and `machine()`."""
        model = self.models[model_id]
        this = (system or platform.system()).lower()
        if model.supported_os is not None and this not in {name.lower() for name in model.supported_os}:
            return f"it runs on {', '.join(model.supported_os) or 'no system'}, not on {this}"
        architecture = _architecture(machine or platform.machine())
        if model.supported_arch is not None and architecture not in map(_architecture, model.supported_arch):
            return f"it runs on {', '.join(model.supported_arch) or 'no architecture'}, not on {architecture}"
        backend = self.backends.get(model.backend)
        if backend is None:
            return f"the manifest has no backend {model.backend!r}"
        if backend.min_version is not None and Version(station_version) < Version(backend.min_version):
            return (
                f"its backend {model.backend} needs Moondream Station {backend.min_version} or newer,"
                f" this is {station_version}"
            )
        return None


def _architecture(machine: str) -> str:
    """One name for each architecture: systems and manifests have two for the usual ones."""
    name = machine.lower()
    return {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}.get(name, name)


def parse_manifest(
    content: bytes | str, *, origin: str, folder: Path | None = None, url: str | None = None
) -> Manifest:
    """A manifest out of its JSON, with a byte-order mark or without."""
    if isinstance(content, bytes) and (encoding := json.detect_encoding(content)) != "utf-8":
        content = content.decode(encoding, "replace")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ManifestInvalid(
            f"{origin} is not a valid manifest: {_in_words(error)}.",
            hint="docs/reference/manifest.md describes the format.",
        ) from error
    manifest._provenance = Provenance(origin, folder, url)  # noqa: SLF001  its maker
    return manifest


def with_warning(manifest: Manifest, warning: str) -> Manifest:
    """The manifest, with a sentence about what is wrong with this copy of it."""
    manifest._provenance = manifest.provenance._replace(warning=warning)  # noqa: SLF001  its maker
    return manifest


def differences(before: Manifest, after: Manifest) -> dict[str, list[str]]:
    """The ids of the models that were added, removed and changed, themselves or in their backend."""
    old, new = (
        {name: (model, manifest.backends.get(model.backend)) for name, model in manifest.models.items()}
        for manifest in (before, after)
    )
    return {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
    }


def _in_words(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_input=False)
    shown = [_one_in_words(item) for item in errors[:_SHOWN_ERRORS]]
    more = len(errors) - _SHOWN_ERRORS
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _one_in_words(item: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"] if part != "[key]")
    text = str(item["msg"]).removeprefix("Value error, ")
    return f"{key}: {text}" if key else text
