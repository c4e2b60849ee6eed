"""What an activation needs before it can choose: the model, its backend's code, the machine, a Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import anyio.to_thread
from packaging.utils import canonicalize_name

from moondream_station.core.activation.activation import Activation, ActivationRequest
from moondream_station.core.activation.choice import CPU
from moondream_station.core.activation.models import Surroundings, is_silent, judge, surroundings_of
from moondream_station.core.backends.code_store import BackendCode, requirements_of
from moondream_station.core.backends.manifest import Manifest, ModelInfo
from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.hardware import Hardware
from moondream_station.core.builds.naming import GPU_KINDS, parse_build
from moondream_station.core.builds.offers import target_of
from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.capabilities.cache import CapabilityCache
from moondream_station.core.environments.store import request_key
from moondream_station.core.facts.capabilities import Capabilities, ProbeReport
from moondream_station.core.facts.errors import DoesNotFit, UnsupportedModel
from moondream_station.core.facts.events import CapabilitiesDetected, Fact, ProbeFinished
from moondream_station.core.facts.selection import Fit, FitVerdict
from moondream_station.core.home.log import Log
from moondream_station.core.home.settings import Settings
from moondream_station.core.resolve.interpreter import Interpreter, find_interpreter
from moondream_station.core.selection.request import BuildRequest
from moondream_station.core.weights.disk import Learned

_log = Log()
MEMORY_UNIT = "bytes of memory"
"""The unit of progress by which a backend says what its weights will take, before it fetches them."""
_HUB_CLIENTS = {"transformers", "huggingface-hub"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Everything known before a build is chosen."""

    model_id: str
    model: ModelInfo
    code: BackendCode
    requirements: Requirements
    strategy: str
    interpreter: Interpreter
    capabilities: Capabilities
    around: Surroundings
    request_key: str

    def build_request(self, catalog: Catalog, settings: Settings) -> BuildRequest:
        """What a build is chosen for, without the user's constraints."""
        return BuildRequest(
            capabilities=self.capabilities,
            requirements=self.requirements,
            python=self.interpreter.name,
            strategy=self.strategy,
            catalog=catalog,
            asks_amd=bool(settings.vendor_indexes),
        )

    def with_memory(self, needed_bytes: int) -> Needs:
        """The same, where the backend says what its weights take; what the manifest says goes first."""
        if not is_silent(self.model.needs):
            return self
        by_dtype = {str(self.model.args.get("dtype") or ""): needed_bytes}
        needs = self.model.needs.model_copy(update={"memory_bytes": by_dtype})
        return replace(self, model=self.model.model_copy(update={"needs": needs}))

    def fit_on(self, build: str | None, catalog: Catalog) -> Fit:
        """Whether the model fits this machine on a build."""
        return judge(self.model, build, self.capabilities, around=self.around, catalog=catalog)

    def check_download(self, build: str | None, catalog: Catalog, request: ActivationRequest) -> None:
        """Refuse to download gigabytes for a kind of GPU that this machine has none of: it was forced."""
        parsed = parse_build(build) if build else None
        if parsed is None or parsed.kind not in GPU_KINDS or request.anyway:
            return
        target = target_of(self.capabilities, self.interpreter.name)
        if Hardware.of(self.capabilities, target, catalog).of_kind(parsed.kind).gpus:
            return
        switch = f"`moondream-station switch {self.model_id}"
        raise DoesNotFit(
            f"The {build} build can't help here: no GPU that it could use was found.",
            hint=f"{switch} --strategy auto` takes the best build for this machine; "
            f"{switch} --strategy {build} --anyway` downloads this one regardless.",
        )

    def check(self, build: str | None, catalog: Catalog, *, anyway: bool, because: str | None = None) -> None:
        """Refuse a build on which the model can't work; the sentence `because` says why it is used."""
        if build == CPU and self.model.requires_gpu:
            message = f"{self.model_id} needs a GPU, and only the CPU build can be used here."
            raise UnsupportedModel(
                f"{message} {because}" if because else message,
                hint="`moondream-station plan` shows why, and what would change that.",
            )
        fit = self.fit_on(build, catalog)
        if fit.verdict is FitVerdict.DOES_NOT_FIT and not anyway:
            where = f"on the {build} build" if build else "here"
            raise DoesNotFit(
                f"{self.model_id} does not fit {where}: it {fit.reason}.",
                hint=f"`moondream-station switch {self.model_id} --anyway` goes on regardless.",
            )


async def detect_machine(
    cache: CapabilityCache, publish: Callable[[Fact], object], *, refresh: bool = False
) -> Capabilities:
    """Detect the machine, every probe's answer published as it comes; `refresh` asks past the cache."""

    def probe_finished(report: ProbeReport) -> None:
        publish(ProbeFinished(**asdict(report)))

    detected = await cache.get(refresh=refresh, on_probe=probe_finished)
    publish(
        CapabilitiesDetected(
            capabilities=detected.capabilities, from_cache=detected.from_cache, seconds=detected.seconds
        )
    )
    return detected.capabilities


async def detect_again(needs: Needs, cache: CapabilityCache, activation: Activation) -> Needs:
    """Detect the machine past the cache, because torch contradicts what was known of it.

    The facts of it are the station's: an activation's come before its build is selected, and that has been.
    """
    capabilities = await detect_machine(cache, activation.publish_outside, refresh=True)
    return replace(needs, capabilities=capabilities)


async def needs_of(
    activation: Activation,
    code: BackendCode,
    capabilities: Capabilities,
    learned: Learned | None,
    manifest: Manifest,
    environ: Mapping[str, str],
) -> Needs:
    """What a backend's code, the machine and the weights make of an activation's request.

    Raises:
        WeightsUnreachable: The backend loads from the hub, or from a folder, and will find nothing there.
    """
    request = activation.request
    model = manifest.model(request.model)
    info = manifest.backends[model.backend]
    requirements = await anyio.to_thread.run_sync(requirements_of, code, info)
    for warning in requirements.warnings:
        _log.warning("requirements_line_left_out", reason=warning)
        activation.note(warning)
    if learned and learned.failure and not request.anyway and _loads_from_hub(requirements):
        raise learned.failure
    interpreter = await find_interpreter(request.python, environ=environ)
    return Needs(
        model_id=request.model,
        model=model,
        code=code,
        requirements=requirements,
        strategy=request.strategy,
        interpreter=interpreter,
        capabilities=capabilities,
        around=await anyio.to_thread.run_sync(surroundings_of, model, environ, learned),
        request_key=request_key(
            backend=code.id,
            backend_version=code.version,
            code_digest=code.digest,
            requirements=(*requirements.texts, *(f"{name} built" for name in requirements.builds)),
            strategy=request.strategy,
            python=f"{interpreter.minor}{interpreter.threading}",
            platform=f"{capabilities.system}-{capabilities.machine}".lower(),
        ),
    )


def _loads_from_hub(requirements: Requirements) -> bool:
    """Whether `model_id` is certainly a repository or a folder in the hub's form: by who will load it."""
    return any(canonicalize_name(item.name) in _HUB_CLIENTS for item in requirements.items)
