"""The guide's installer: synchronous, for scripts that know nothing else of the station.

It detects, chooses, locks, downloads and verifies as the station does, but installs into the interpreter that
runs it, which can't be undone. Backends never go this way: they get environments of their own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from anyio.from_thread import start_blocking_portal

from moondream_station.core.builds.catalog import Catalog, load_catalog
from moondream_station.core.builds.requirements import parse_requirement_args, parse_requirements
from moondream_station.core.builds.visibility import nvidia_in_use
from moondream_station.core.environments.packages import find_packages
from moondream_station.core.facts.capabilities import Capabilities, Outcome
from moondream_station.core.facts.errors import (
    NoBuild,
    PythonUnsuitable,
    ResolutionConflict,
    StationError,
    UsageError,
)
from moondream_station.core.facts.events import VerificationReport
from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.facts.selection import Selection
from moondream_station.core.home.storage import is_full, storage_failure
from moondream_station.core.in_place.installation import Change, detect_now, guides_settings, install_in_place
from moondream_station.core.in_place.running_python import RunningPython, offer_of, verify_here
from moondream_station.core.index.catalog_loader import open_catalog
from moondream_station.core.machine.machine import LocalMachine, Machine
from moondream_station.core.resolve.interpreter import own_interpreter
from moondream_station.core.selection.request import COMPANIONS, BuildRequest
from moondream_station.core.selection.select import cuda_of_driver, guide_build, has_mps, select
from moondream_station.core.worker.verification import Verification, WorkerPlan

T = TypeVar("T")

_NAMED_AT_MOST = 3


@dataclass(frozen=True)
class TorchInstallResult:
    """The result of an installation.

    Args:
        success: Whether everything required is installed, and torch computes.
        message: What was done, or what failed and what to do next.
        details: More of it, a line each: what was installed and replaced, why this build, a tool's output.
        cmd: The command of the last step; empty where that was not reached.
    """

    success: bool
    message: str
    details: str = ""
    cmd: list[str] = field(default_factory=list)


class TorchInstaller:
    """Detects which PyTorch this machine should have, and installs it into the running interpreter.

    Every method is synchronous and works inside a running event loop too, in a thread of its own. Ctrl-C ends
    it within two seconds. What the system refuses (too many open files, a full disk) is a `StationError` too.

    Args:
        environ: The user's variables; the process's by default.
        machine: The machine; this computer by default.
    """

    def __init__(self, *, environ: Mapping[str, str] | None = None, machine: Machine | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._given_machine = machine
        self._detected: Capabilities | None = None

    def detect_system_capabilities(self) -> dict[str, Any]:
        """Detect the machine.

        Returns:
            `os` and `machine`, lower-cased; `cuda_available`, whether an NVIDIA GPU can be used;
            `cuda_version`, the highest that its driver supports, or None; `mps_available`;
            `recommended_install` by the guide's table; `gpu_name`, or None; `detection_errors`, a sentence
            for each probe that failed or timed out.
        """
        capabilities, catalog = self._detect(), self._catalog()
        nvidia = nvidia_in_use(capabilities, catalog)
        named = [gpu.name for gpu in (*nvidia.gpus, *capabilities.gpus) if gpu.name is not None]
        unanswered = {Outcome.FAILED, Outcome.TIMED_OUT}
        return {
            "os": capabilities.system.lower(),
            "machine": capabilities.machine.lower(),
            "cuda_available": nvidia.absence is None,
            "cuda_version": cuda_of_driver(capabilities, catalog),
            "mps_available": has_mps(capabilities),
            "recommended_install": guide_build(capabilities, catalog),
            "gpu_name": named[0] if named else None,
            "detection_errors": [
                f"{report.probe}: {report.detail}"
                for report in capabilities.probes
                if report.outcome in unanswered
            ],
        }

    def get_torch_install_command(self, spec: str = "") -> tuple[list[str], str | None]:
        """The command that installs torch, torchvision and torchaudio as the guide says.

        It uses the bundled catalog, without a network. Where the recommended build has no torch that `spec`
        accepts and this machine can run, the command names the build that works; `plan_torch_install` says
        why.

        Args:
            spec: A version specifier for torch (">=2.7.0"); "" for any.

        Returns:
            The command as an argument list, and the index that it names, None where that is PyPI.

        Raises:
            UsageError: `spec` is not a version specifier.
            NoBuild: Nothing satisfies it on this machine; the message says what would.
        """
        selection = self.plan_torch_install(spec)
        if selection.build is None:
            raise NoBuild(selection.reason, hint="`moondream-station plan` shows every build and its reason.")
        return list(selection.command), selection.index_url

    def plan_torch_install(self, spec: str = "") -> Selection:
        """The choice behind `get_torch_install_command`: the build, its reason, and every other's verdict.

        Raises:
            UsageError: `spec` is not a version specifier.
        """
        capabilities = self._detected or self._detect()
        machine = self._machine()
        python = own_interpreter().name if machine.is_local else machine.facts.python
        _, settings = guides_settings(self._environ)
        requirements = parse_requirement_args([f"torch{spec.strip()}", *COMPANIONS])
        if requirements.items[0].name != "torch":
            raise UsageError(
                f"{spec!r} is not a valid version of torch.", hint="Use a specifier such as '>=2.7.0'."
            )
        request = BuildRequest(
            capabilities=capabilities,
            requirements=requirements,
            python=python,
            strategy=settings.strategy,
            catalog=self._catalog(),
            asks_amd=False,
        )
        offers = request.catalog_offers(index=without_credentials(settings.torch_index))
        selection = select(request, offers).selection
        if selection.build is None:
            return selection
        # PyPI has the ordinary wheel for Apple silicon too, and the guide takes it from there.
        url = None if selection.build == "mps" else selection.index_url
        where = ("--index-url", url) if url is not None else ()
        command = ("python", "-m", "pip", "install", *requirements.texts, *where)
        return replace(selection, index_url=url, command=command)

    def install_torch_requirements(self, text: str) -> TorchInstallResult:
        """Install requirements into this interpreter, torch from the build that the guide chooses.

        Only packages that are missing or not whole are installed; a torch of another build is replaced. This
        can't be undone. A failure is not raised, but is in the result.

        Args:
            text: The text of a requirements.txt.
        """
        commands: list[tuple[str, ...]] = []
        try:
            requirements = parse_requirements(text.splitlines(), origin="the requirements")
            change = _in_own_thread(
                partial(
                    install_in_place,
                    requirements,
                    self._machine(),
                    environ=self._environ,
                    ran=commands.append,
                )
            )
        except StationError as error:
            return _failed(error, commands)
        return _succeeded(change, commands)

    def verify_torch_installation(self) -> dict[str, Any]:
        """Let this interpreter's torch compute, in a process of its own.

        Returns:
            `torch_version`, None where there is none that can be imported; `build`; `cuda_available`,
            `cuda_version` (what torch was built with), `device_count` (accelerators that torch uses, 0 on the
            CPU), `mps_available`; `device`, `device_name`, `arch_list`; `compute_ok`, `max_abs_error`
            and `seconds` of a matrix product on the device; `error`, one line about what failed, or None.
        """
        if find_spec("torch") is None:
            return _verified(VerificationReport(), "torch is not installed in this Python.")
        try:
            verification = _in_own_thread(self._verify)
        except StationError as error:
            return _verified(VerificationReport(), _sentence(error))
        return _verified(verification.report, verification.detail)

    async def _verify(self) -> Verification:
        """Let the installed torch compute on the device that its build is for."""
        python, catalog = RunningPython.here(), await self._open_catalog()
        torch = find_packages(python.paths).get("torch")
        offer = offer_of(torch, catalog) if torch is not None else None
        # Where the build is not known, it should at least use what this machine has.
        build = offer.build if offer is not None else guide_build(await detect_now(self._machine()), catalog)
        return await verify_here(python, WorkerPlan(build=build), environ=self._environ)

    def _catalog(self) -> Catalog:
        try:
            return _in_own_thread(self._open_catalog)
        except StationError:  # whoever installs is told; what was detected holds without
            return load_catalog()

    async def _open_catalog(self) -> Catalog:
        """The user's own catalog, as far as it is on this computer, or the bundled one."""
        home, settings = guides_settings(self._environ)
        return await open_catalog(settings, home=home, environ=self._environ, is_offline=True)

    def _detect(self) -> Capabilities:
        self._detected = _in_own_thread(partial(detect_now, self._machine()))
        return self._detected

    def _machine(self) -> Machine:
        """This computer as it is now, unless another machine was given."""
        return self._given_machine or LocalMachine(self._environ)


def _in_own_thread(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it in a thread with its own event loop, so that it works inside a running one too."""
    try:
        with start_blocking_portal() as portal:
            result: T = portal.call(function)
            return result
    except OSError as error:
        raise _refused(error) from error


def _refused(error: OSError) -> StationError:
    """What the system refused; for files of the home that is told where they are used."""
    place = Path(error.filename) if isinstance(error.filename, str | Path) else None
    if is_full(error):
        return storage_failure(error, place.parent if place else Path(sys.prefix))
    where = f"{place}: " if place else ""
    return PythonUnsuitable(
        f"The system refused what this Python needs: {where}{error.strerror or error}.",
        hint="Check the file's permissions and the limits (`ulimit -a`), then run it again.",
    )


def _failed(error: StationError, commands: list[tuple[str, ...]]) -> TorchInstallResult:
    details = f"{error.code}\n{error.log}" if error.log else error.code
    return TorchInstallResult(
        success=False, message=_sentence(error), details=details, cmd=list(*commands[-1:])
    )


def _succeeded(change: Change, commands: list[tuple[str, ...]]) -> TorchInstallResult:
    torch = f"torch {change.torch} ({change.build})" if change.torch and change.build else None
    if not change.installed:
        message = "Nothing to install: everything is already installed" + (
            f", with {torch}." if torch else "."
        )
    else:
        message = f"Installed {_in_words(change.installed)} into this Python. This can't be undone."
    lines = [
        *(f"installed {name} {version}" for name, version in change.installed.items()),
        *(f"replaced {name} {version}" for name, version in change.replaced.items()),
        *([change.reason] if "torch" in change.installed else []),
        *change.notes,
    ]
    return TorchInstallResult(
        success=True, message=message, details="\n".join(lines), cmd=list(*commands[-1:])
    )


def _sentence(error: StationError) -> str:
    """What failed, and what to do next."""
    message = error.message if error.message.endswith((".", "!", "?")) else f"{error.message}."
    if error.hint:
        return f"{message} {error.hint}"
    if isinstance(error, ResolutionConflict):
        return f"{message} Change the requirements so that they fit each other and the PyTorch build."
    return f"{message} The details say more."


def _in_words(installed: Mapping[str, str]) -> str:
    """A few packages by name, torch first, and how many more."""
    names = sorted(installed, key=lambda name: name != "torch")
    named = [f"{name} {installed[name]}" for name in names[:_NAMED_AT_MOST]]
    more = len(names) - len(named)
    if more:
        named.append(f"{more} more {'package' if more == 1 else 'packages'}")
    return " and ".join(([", ".join(named[:-1])] if named[1:] else []) + named[-1:])


def _verified(report: VerificationReport, error: str | None) -> dict[str, Any]:
    is_accelerated = report.device not in {None, "cpu"}
    return {
        "torch_version": report.torch,
        "build": report.build,
        "cuda_available": report.device == "cuda",
        "cuda_version": report.cuda_version,
        "device_count": report.device_count if is_accelerated else 0,
        "mps_available": report.device == "mps",
        "device": report.device,
        "device_name": report.device_name,
        "arch_list": list(report.arch_list),
        "compute_ok": report.compute_ok,
        "max_abs_error": report.max_abs_error,
        "seconds": report.seconds,
        "error": error,
    }
