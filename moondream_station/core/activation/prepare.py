"""What an activation needs before it can choose: the model, its backend's code, the machine, a Python."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import anyio
import anyio.to_thread

from moondream_station.core.activation.activation import Activation
from moondream_station.core.activation.candidates import CPU
from moondream_station.core.backends.backend_code import BackendCode, read_requirements, requirements_of
from moondream_station.core.backends.manifest import Manifest, ModelInfo
from moondream_station.core.backends.provide import kept_code, locate
from moondream_station.core.builds.requirements import Requirements
from moondream_station.core.capabilities.cache import CapabilityCache, Detected
from moondream_station.core.environments.store import request_key
from moondream_station.core.facts.capabilities import Capabilities, ProbeReport
from moondream_station.core.facts.errors import StationError, UnsupportedModel
from moondream_station.core.facts.events import CapabilitiesDetected, Fact, ProbeFinished, Stage
from moondream_station.core.home.layout import Home
from moondream_station.core.home.log import Log
from moondream_station.core.resolve.interpreter import Interpreter, find_interpreter

_log = Log()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything known before a build is chosen.

    Args:
        model_id: The model's id.
        model: Its entry in the manifest.
        code: Its backend's code.
        requirements: The backend's requirements.
        interpreter: The Python that the environment is made from.
        capabilities: The machine.
        request_key: What the environment is made for, as one key.
    """

    model_id: str
    model: ModelInfo
    code: BackendCode
    requirements: Requirements
    interpreter: Interpreter
    capabilities: Capabilities
    request_key: str

    def check_gpu(self, build: str | None, *, because: str | None = None) -> None:
        """Refuse the processor to a model that must have more.

        Args:
            build: The build that would be used.
            because: Why it is that one, as a sentence; None where that is known already.

        Raises:
            UnsupportedModel: The model needs a GPU, and this is the build for the processor.
        """
        if build == CPU and self.model.requires_gpu:
            message = f"{self.model_id} needs a GPU, and only the CPU build can be used here."
            raise UnsupportedModel(
                f"{message} {because}" if because else message,
                hint="`moondream-station plan` says why, and what would change that.",
            )


class Preparation:
    """Finds out what an activation needs.

    Args:
        manifest: The models and their backends.
        cache: The machine's capabilities.
        provide: Brings the code of a backend, by its id.
        environ: The user's variables.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        cache: CapabilityCache,
        provide: Callable[[str], Awaitable[BackendCode]],
        environ: Mapping[str, str],
    ) -> None:
        self._environ = environ
        self._manifest = manifest
        self._cache = cache
        self._provide = provide

    @property
    def manifest(self) -> Manifest:
        """The models and their backends."""
        return self._manifest

    def check_model(self, model_id: str) -> ModelInfo:
        """The model's entry; see `check_model`."""
        return check_model(self._manifest, model_id)

    async def prepare(self, activation: Activation) -> Prepared:
        """Bring the backend's code while the machine is looked at, and find the Python.

        Raises:
            StationError: The code can't be had, its requirements are refused, or the Python does not do.
        """
        request = activation.request
        model = self.check_model(request.model)
        code, requirements, detected = await self._look_around(activation, model)
        for warning in requirements.warnings:
            _log.warning("requirements_line_left_out", reason=warning)
            activation.note(warning)
        interpreter = await find_interpreter(request.python, environ=self._environ)
        capabilities = detected.capabilities
        return Prepared(
            model_id=request.model,
            model=model,
            code=code,
            requirements=requirements,
            interpreter=interpreter,
            capabilities=capabilities,
            request_key=request_key(
                backend=code.id,
                backend_version=code.version,
                code_digest=code.digest,
                requirements=(*requirements.canonical, *(f"{name} built" for name in requirements.builds)),
                strategy=request.strategy,
                python=f"{interpreter.minor}{interpreter.threading}",
                platform=f"{capabilities.system}-{capabilities.machine}".lower(),
            ),
        )

    async def look_again(self, activation: Activation) -> Detected:
        """Look at the machine past the cache, because torch contradicts what was thought of it.

        What comes of it is told as facts of the station: inside an activation the machine's facts come before
        its build is selected, and that has been.
        """
        return await self._detect(activation.publish_outside, refresh=True)

    async def _detect(self, publish: Callable[[Fact], object], *, refresh: bool = False) -> Detected:
        """Look at the machine, every probe's answer published as it comes."""

        def probe_finished(report: ProbeReport) -> None:
            publish(
                ProbeFinished(
                    probe=report.probe,
                    outcome=report.outcome,
                    seconds=report.seconds,
                    detail=report.detail,
                )
            )

        detected = await self._cache.get(refresh=refresh, on_probe=probe_finished)
        publish(
            CapabilitiesDetected(
                capabilities=detected.capabilities,
                from_cache=detected.from_cache,
                seconds=detected.seconds,
            )
        )
        return detected

    async def _look_around(
        self, activation: Activation, model: ModelInfo
    ) -> tuple[BackendCode, Requirements, Detected]:
        """Both at once: neither needs the other. What is wrong with the code belongs to the stage before."""
        provided: list[tuple[BackendCode, Requirements] | StationError] = []

        async def provide() -> None:
            try:
                code = await self._provide(model.backend)
                info = self._manifest.backends[model.backend]
                requirements = await anyio.to_thread.run_sync(requirements_of, code, info)
                provided.append((code, requirements))
            except StationError as error:
                provided.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(provide)
            activation.enter(Stage.DETECT)
            detected = await self._detect(activation.publish)
        (outcome,) = provided
        if isinstance(outcome, StationError):
            activation.stage = Stage.PREPARE
            raise outcome
        return *outcome, detected


def check_model(manifest: Manifest, model_id: str, *, system: str | None = None) -> ModelInfo:
    """A model's entry, where it can be switched to.

    Args:
        manifest: The models and their backends.
        model_id: The model.
        system: `platform.system()` of the machine that it is to run on; this computer's by default.

    Raises:
        UnknownModel: The manifest has no such model.
        UnsupportedModel: It can't run on that system, or needs a newer station.
    """
    model = manifest.model(model_id)
    reason = manifest.unsupported_reason(model_id, system=system)
    if reason is not None:
        raise UnsupportedModel(
            f"{model_id} is not supported here: {reason}.",
            hint="`moondream-station models` lists those that are.",
        )
    return model


def known_requirements(model_id: str, *, manifest: Manifest, home: Home) -> tuple[str, ...]:
    """A model's requirements as far as they are on this computer already, canonical; else empty.

    An archive that must be fetched first, and requirements that are refused, show later: nothing fails here.
    """
    model = manifest.models.get(model_id)
    info = manifest.backends.get(model.backend) if model else None
    if model is None or info is None:
        return ()
    try:
        location = locate(model.backend, info, manifest)
        if location.path is not None and location.path.is_dir():
            text = (location.path / "requirements.txt").read_text(encoding="utf-8")
            folder = location.path
            return read_requirements(text, info, folder=folder, backend=model.backend).canonical
        code = kept_code(model.backend, info, manifest=manifest, home=home)
        return requirements_of(code, info).canonical if code else ()
    except (OSError, UnicodeDecodeError, StationError):
        return ()
