"""What the facade does, for event loops: the guide's choice, and installing into this interpreter."""

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
from moondream_station.core.in_place.installation import Change, InPlace, offer_of
from moondream_station.core.in_place.running_python import RunningPython
from moondream_station.core.in_place.surroundings import Surroundings
from moondream_station.core.in_place.verifying import verify_here
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.packaging.packaging_config import load_packaging_config
from moondream_station.core.resolve.interpreter import own_interpreter
from moondream_station.core.selection.guide import guide_build
from moondream_station.core.selection.request import COMPANIONS, BuildRequest
from moondream_station.core.selection.select import select
from moondream_station.core.worker.verification import Verification, WorkerPlan

_GUIDE = "guide"

# A script's own logging shows what is said here; without any, Python writes it to stderr. Stdout is the
# script's alone.
_log = logging.getLogger(__name__)


async def look_at(machine: Machine) -> Capabilities:
    """The machine as it is now; nothing is kept, nor taken from what was."""
    return await detect(machine, on_probe=lambda _: None, on_slow=_tell_slow)


def guided_selection(
    spec: str, capabilities: Capabilities, *, python: str, environ: Mapping[str, str]
) -> Selection:
    """The build for the guide's three packages, by the catalog alone; its command is the guide's.

    Args:
        spec: What is asked of torch's version (">=2.7.0"); empty for any.
        capabilities: The machine.
        python: The Python that would get it.
        environ: The user's variables.

    Raises:
        UsageError: `spec` is none.
        SettingsInvalid: A setting can't be used.
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
    # The ordinary wheel for Apple silicon lies on PyPI too, where the guide takes it from.
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
    """Install requirements into the interpreter that runs this.

    Args:
        requirements: What is asked for.
        machine: This computer.
        environ: The user's variables.
        ran: Told the last step's command, once it was run.

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
    # Whoever removes downloads holds this lock, and so does whoever else installs here.
    lock = activation_lock(
        home,
        activation=new_activation_id(),
        command=f"install into {python.prefix}",
        on_wait=_tell_wait,
    )
    async with lock:
        await sweep(home)  # a run that was killed leaves uv's cache, with all of torch in it
        capabilities = await look_at(machine)
        config = await load_packaging_config(environ)
        async with open_client(config, torch_index=torch_index) as client:
            surroundings = Surroundings(
                python=python,
                interpreter=interpreter,
                capabilities=capabilities,
                strategy=strategy,
                torch_index=torch_index,
                catalog=load_catalog(),
                config=config,
                client=client,
                home=home,
                environ=environ,
            )
            return await InPlace(surroundings, requirements, ran=ran).install()


def _tell_slow(probe: str) -> None:
    _log.warning("The question %s has no answer yet.", probe)


def _tell_wait(holder: Holder | None) -> None:
    who = f"{holder.command} (pid {holder.pid}, since {holder.since})" if holder else "another process"
    _log.warning("Waiting for %s, which uses the same home.", who)


async def verify_installed(machine: Machine, *, environ: Mapping[str, str]) -> Verification:
    """Let the torch of this interpreter compute, on the device that its build is for."""
    python = RunningPython.here()
    torch = find_packages(python.paths).get("torch")
    offer = offer_of(torch, load_catalog()) if torch is not None else None
    # Where nobody knows the build, it should at least be one that uses what this machine has.
    build = offer.build if offer is not None else guide_build(await look_at(machine), load_catalog())
    return await verify_here(python, WorkerPlan(build=build), environ=environ)


def _settings(environ: Mapping[str, str]) -> tuple[str, str]:
    """The strategy, which is the guide's unless the user named a build, and the index."""
    settings = load_settings(home_from(environ), environ)
    strategy = check_strategy(settings.strategy)
    return (strategy if parse_build(strategy) is not None else _GUIDE), settings.torch_index


def _guides_three(spec: str) -> Requirements:
    requirements = parse_requirement_args([f"torch{spec.strip()}", *COMPANIONS])
    if requirements.items[0].name != "torch":
        raise UsageError(f"{spec!r} is no version of torch.", hint="Give versions such as '>=2.7.0'.")
    return requirements
