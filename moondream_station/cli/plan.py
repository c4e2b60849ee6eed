"""`plan`: which build would be installed, and for every candidate why or why not."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from moondream_station.console.interrupts import run_loop
from moondream_station.console.logging import begin
from moondream_station.console.output import folded, print_text, table, terminal_width
from moondream_station.core.activation.choice import plan_from_catalog, plan_here
from moondream_station.core.activation.trials_file import read_trials
from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.builds.requirements import (
    FAMILY,
    Requirements,
    decode_requirements,
    parse_requirement_args,
    parse_requirements,
)
from moondream_station.core.builds.trials import NO_TRIALS
from moondream_station.core.facts.errors import RequirementsUnsafe, UsageError
from moondream_station.core.facts.selection import Candidate, Selection
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.index.catalog_loader import open_catalog
from moondream_station.core.machine.machine import LocalMachine, Machine
from moondream_station.core.machine.record import RecordedMachine, load_record, with_python
from moondream_station.core.packaging.packaging_config import load_packaging_config, options_for_pip
from moondream_station.core.resolve.interpreter import own_interpreter
from moondream_station.core.selection.outward import plan_to_json

if TYPE_CHECKING:
    from moondream_station.core.backends.manifest import ModelInfo
    from moondream_station.core.weights.disk import Learned


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What to plan for."""

    requirements: Sequence[str] | None
    requirement_files: Sequence[Path] | None
    model: str | None
    machine: Path | None
    python: str | None
    offline: bool


def run_plan(*, strategy: str | None, shows_all: bool, as_json: bool, **options: Any) -> int:
    """Plan for `_Options`, and print it; returns 0 where there is a build, else 1."""
    home, settings = begin(strategy=strategy)
    check_strategy(settings.strategy)
    selection, pip_options = run_loop(_plan, _Options(**options), home, settings)
    data = plan_to_json(selection)
    text = plan_text(selection, pip_options, width=terminal_width(), shows_all=shows_all)
    print_text(text, data, as_json=as_json)
    return 0 if selection.build is not None else 1


def plan_text(
    selection: Selection,
    pip_options: Sequence[str] = (),
    *,
    width: int | None = None,
    shows_all: bool = False,
) -> str:
    """A plan for people: choice, command, fit, warnings, candidates.

    On a terminal of `width` columns the table is broken to fit, and what can't matter on this machine is one
    line below it, unless everything is to be shown.
    """
    lines = []
    if selection.build is None:
        lines.append(folded(selection.reason, width))
    else:
        lines += [folded(f"{selection.build} with torch {selection.torch}: {selection.reason}", width)]
        lines += ["", *(f"  {_quoted(command)}" for command in _commands(selection, pip_options))]
    if selection.fit is not None:
        lines += ["", folded(selection.fit.sentence, width)]
    lines += [folded(f"warning: {warning}", width) for warning in selection.warnings]
    left_out = set() if shows_all or width is None else set(selection.unrelated)
    rows = [
        {
            "build": candidate.build,
            "torch": candidate.torch or "-",
            "verdict": str(candidate.verdict),
            "reason": _reason_without_build(candidate),
        }
        for candidate in selection.candidates
        if candidate.build not in left_out
    ]
    if rows:
        lines += ["", table(rows, ("build", "torch", "verdict", "reason"), width=width)]
    if left_out:
        more = "1 more build is" if len(left_out) == 1 else f"{len(left_out)} more builds are"
        lines += ["", f"{more} for other machines: --all shows them."]
    return "\n".join(lines)


def _commands(selection: Selection, pip_options: Sequence[str]) -> list[Sequence[str]]:
    """The command, and a second one for requirements that come from the user's own index."""
    commands: list[Sequence[str]] = [selection.command]
    others = [
        text
        for text in selection.requirement
        if text not in selection.command and canonicalize_name(Requirement(text).name) not in FAMILY
    ]
    if selection.source == "index" and others:
        commands.append(("python", "-m", "pip", "install", *others, *pip_options))
    return commands


def _reason_without_build(candidate: Candidate) -> str:
    """A candidate's reason, without the build's name, which its row shows already."""
    shorter = candidate.reason.removeprefix(candidate.build)
    return shorter.lstrip(": ") if shorter.startswith((" ", ": ")) else candidate.reason


async def _plan(options: _Options, home: Home, settings: Settings) -> tuple[Selection, tuple[str, ...]]:
    """The plan, and what tells pip of the user's own indexes, where it is for this computer."""
    selection = await _select(options, home, settings)
    if options.machine is not None:
        return selection, ()
    return selection, await options_for_pip(os.environ, settings.torch_index)


async def _select(options: _Options, home: Home, settings: Settings) -> Selection:
    is_elsewhere = options.machine is not None
    found = RecordedMachine(load_record(options.machine)) if options.machine else LocalMachine(os.environ)
    machine: Machine = found if options.python is None else with_python(found, options.python)
    python = options.python or (machine.facts.python if is_elsewhere else own_interpreter().name)
    requirements, model = await _requirements(options, home, settings, machine=machine)
    catalog = await open_catalog(settings, home=home, environ=os.environ, is_offline=options.offline)
    if is_elsewhere or options.offline:
        learned = await anyio.to_thread.run_sync(_known_here, model, home) if model else None
        return await plan_from_catalog(
            requirements,
            machine,
            python=python,
            strategy=settings.strategy,
            torch_index=settings.torch_index,
            mixes_indexes=not is_elsewhere and (await load_packaging_config(os.environ)).mixes_indexes,
            catalog=catalog,
            asks_amd=bool(settings.vendor_indexes),
            trials=NO_TRIALS if is_elsewhere else read_trials(home),
            model=model,
            learned=learned,
            environ=None if is_elsewhere else os.environ,
        )
    home.create()
    return await plan_here(
        requirements,
        machine,
        python=python,
        strategy=settings.strategy,
        home=home,
        settings=settings,
        environ=os.environ,
        catalog=catalog,
        model=model,
    )


def _known_here(model: ModelInfo, home: Home) -> Learned | None:
    from moondream_station.core.activation.models import known_here  # noqa: PLC0415  with --model alone

    return known_here(model, home, os.environ)


async def _requirements(
    options: _Options, home: Home, settings: Settings, *, machine: Machine
) -> tuple[Requirements, ModelInfo | None]:
    """Everything that the options name, torch where they name nothing; and the entry of the model."""
    model: ModelInfo | None = None
    texts = list(parse_requirement_args(options.requirements or ()).texts)
    warnings: list[str] = []
    for file in options.requirement_files or ():
        from_file = await anyio.to_thread.run_sync(_read, file)
        texts += from_file.texts
        warnings += from_file.warnings
    if options.model is not None:
        of_model, model = await _requirements_of(options.model, home, settings, machine)
        # A requirement by URL says nothing about torch, and its text is no argument of a command.
        pairs = zip(of_model.items, of_model.texts, strict=True)
        texts += [text for item, text in pairs if item.url is None]
    return replace(parse_requirement_args(texts or ["torch"]), warnings=tuple(warnings)), model


def _read(path: Path) -> Requirements:
    try:
        lines = decode_requirements(path.read_bytes()).splitlines()
    except OSError as error:
        raise UsageError(
            f"Can't read {path}: {error.strerror}.", hint="Give the path of a requirements file."
        ) from error
    except ValueError as error:
        raise UsageError(f"Can't read {path}: {error}.", hint="Save it as UTF-8.") from error
    try:
        return parse_requirements(lines, origin=str(path))
    except RequirementsUnsafe as error:
        if isinstance(error.__cause__, InvalidRequirement):
            raise UsageError(error.message, hint=error.hint) from error
        raise


async def _requirements_of(
    model: str, home: Home, settings: Settings, machine: Machine
) -> tuple[Requirements, ModelInfo]:
    from moondream_station.core.activation.models import check_model  # noqa: PLC0415  with --model alone
    from moondream_station.core.backends.manifest_loader import open_manifest  # noqa: PLC0415
    from moondream_station.core.backends.provide import backend_requirements  # noqa: PLC0415
    from moondream_station.core.fetch.http_client import open_client  # noqa: PLC0415

    manifest = await open_manifest(home, settings, os.environ)
    entry = check_model(manifest, model, system=machine.facts.system, machine=machine.facts.machine)
    info = manifest.backends[entry.backend]
    async with open_client(await load_packaging_config(os.environ)) as client:
        requirements = await backend_requirements(
            entry.backend, info, manifest=manifest, home=home, client=client
        )
    return requirements, entry


def _quoted(command: Sequence[str]) -> str:
    return subprocess.list2cmdline(command) if sys.platform == "win32" else shlex.join(command)
