"""What the facade does, as coroutines: the guide's choice, and installing into this interpreter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.naming import check_strategy, parse_build
from moondream_station.core.builds.requirements import Requirements, parse_requirement_args
from moondream_station.core.bus.bus import new_activation_id
from moondream_station.core.capabilities.detect import detect
from moondream_station.core.environments.packages import find_packages
from moondream_station.core.environments.store import sweep
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.errors import UsageError
from moondream_station.core.facts.redact import without_credentials
from moondream_station.core.facts.selection import Selection
from moondream_station.core.fetch.http_client import open_client
from moondream_station.core.home.layout import home_from
from moondream_station.core.home.locks import Holder, activation_lock
from moondream_station.core.home.settings import load_settings
from moondream_station.core.in_place.installation import Change, InPlace
from moondream_station.core.in_place.running_python import RunningPython
from moondream_station.core.in_place.running_torch import offer_of, verify_here
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.packaging.packaging_config import load_packaging_config, within_constraints
from moondream_station.core.resolve.interpreter import own_interpreter
from moondream_station.core.selection.guide import guide_build
from moondream_station.core.selection.request import COMPANIONS, BuildRequest
from moondream_station.core.selection.select import select
from moondream_station.core.worker.verification import Verification, WorkerPlan

_GUIDE = "guide"

# A script's own logging shows this; without any, Python writes it to stderr. Stdout is the script's alone.
_log = logging.getLogger(__name__)


async def detect_now(machine: Machine) -> Capabilities:
    """The machine as it is now, without the home's cache."""
    return await detect(machine, on_probe=lambda _: None, on_slow=_warn_slow)


def guided_selection(
    spec: str, capabilities: Capabilities, *, python: str, environ: Mapping[str, str]
) -> Selection:
    """The build for the guide's three packages, by the catalog alone; its command is the guide's.

    `spec` is a version specifier for torch (">=2.7.0"), "" for any; `python` a version.

    Raises:
        UsageError: `spec` is not a version specifier.
        SettingsInvalid: A setting is invalid.
    """
    strategy, torch_index = _settings(environ)
    requirements = _guides_three(spec)
    request = BuildRequest(
        capabilities=capabilities, requirements=requirements, python=python, strategy=strategy
    )
    offers = request.catalog_offers(index=without_credentials(torch_index))
    selection = select(request, offers).selection
    if selection.build is None:
        return selection
    # PyPI has the ordinary wheel for Apple silicon too, and the guide takes it from there.
    url = None if selection.build == "mps" else selection.index_url
    where = ("--index-url", url) if url is not None else ()
    command = ("python", "-m", "pip", "install", *requirements.canonical, *where)
    return replace(selection, index_url=url, command=command)


async def install_guided(
    requirements: Requirements,
    machine: Machine,
    *,
    environ: Mapping[str, str],
    ran: Callable[[tuple[str, ...]], object],
) -> Change:
    """Install requirements into the running interpreter; `ran` is called with the last step's command.

    Raises:
        PythonUnsuitable: Nothing may, or can, be installed into this Python.
        StationError: As `InPlace.install`.
    """
    python = RunningPython.here()
    python.check_changeable()
    interpreter = own_interpreter()
    strategy, torch_index = _settings(environ)
    home = home_from(environ)
    home.create()
    # The lock also keeps `prune` from removing the downloads, and a second installation waiting.
    lock = activation_lock(
        home,
        activation=new_activation_id(),
        command=f"install into {python.prefix}",
        on_wait=_warn_wait,
    )
    async with lock:
        await sweep(home)  # a killed run leaves uv's cache, with all of torch in it
        capabilities = await detect_now(machine)
        config = await load_packaging_config(environ)
        applicable = requirements.applicable(interpreter.markers)
        request = BuildRequest(
            capabilities=capabilities,
            requirements=await within_constraints(applicable, config),
            python=interpreter.name,
            strategy=strategy,
        )
        async with open_client(config, torch_index=torch_index) as client:
            in_place = InPlace(
                request=request,
                python=python,
                interpreter=interpreter,
                torch_index=torch_index,
                config=config,
                client=client,
                home=home,
                environ=environ,
                ran=ran,
            )
            return await in_place.install()


def _warn_slow(probe: str) -> None:
    _log.warning("The probe %s has not answered yet.", probe)


def _warn_wait(holder: Holder | None) -> None:
    who = f"{holder.command} (pid {holder.pid}, since {holder.since})" if holder else "another process"
    _log.warning("Waiting for %s, which uses the same home.", who)


async def verify_installed(machine: Machine, *, environ: Mapping[str, str]) -> Verification:
    """Let the torch of this interpreter compute, on the device that its build is for."""
    python = RunningPython.here()
    torch = find_packages(python.paths).get("torch")
    offer = offer_of(torch, load_catalog()) if torch is not None else None
    # Where the build is not known, it should at least use what this machine has.
    build = offer.build if offer is not None else guide_build(await detect_now(machine), load_catalog())
    return await verify_here(python, WorkerPlan(build=build), environ=environ)


def _settings(environ: Mapping[str, str]) -> tuple[str, str]:
    """The strategy, which is `guide` unless the user named a build, and the index."""
    settings = load_settings(home_from(environ), environ)
    strategy = check_strategy(settings.strategy)
    return (strategy if parse_build(strategy) is not None else _GUIDE), settings.torch_index


def _guides_three(spec: str) -> Requirements:
    requirements = parse_requirement_args([f"torch{spec.strip()}", *COMPANIONS])
    if requirements.items[0].name != "torch":
        raise UsageError(
            f"{spec!r} is not a valid version of torch.", hint="Use a specifier such as '>=2.7.0'."
        )
    return requirements
