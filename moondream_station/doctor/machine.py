"""The machine, and the Python and uv that environments are made with: can PyTorch run here at all."""

from __future__ import annotations

import shlex
from importlib import metadata

from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.builds.offers import in_words
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.facts.errors import ProgramMissing, PythonUnsuitable
from moondream_station.core.resolve.interpreter import OLDEST_PYTHON, own_interpreter
from moondream_station.core.resolve.uv_program import OLDEST_UV, find_uv
from moondream_station.doctor.patient import Patient, Unknowable, in_thread
from moondream_station.doctor.report import Finding, error, ok, problem, warning

_UNKNOWN = {Outcome.FAILED, Outcome.TIMED_OUT}
_INDEX_OPTIONS_AT = 4
"""Where options stand in `python -m pip install …`."""
_SURROUNDINGS = {"wsl2": "WSL2", "jetson": "NVIDIA Jetson"}


async def platform(patient: Patient) -> Finding:
    """Whether PyTorch has wheels for this platform."""
    planned = await patient.planned.get()
    target = planned.case.target
    machine = planned.capabilities
    system = f"macOS {machine.macos_version}" if machine.macos_version else " ".join(machine.libc).strip()
    release = f"release {machine.release}" if machine.release and not machine.macos_version else None
    known = [machine.cpu_brand, _SURROUNDINGS.get(machine.surroundings or ""), release, system]
    facts = ", ".join(fact for fact in known if fact)
    summary = f"{target.place} ({facts})" if facts else target.place
    if target.platform is None or (target.system == "Linux" and target.glibc is None):
        text = "Run the station on a platform that PyTorch has wheels for."
        return error(f"PyTorch does not run here: {summary}.", text, detail=planned.selection.reason)
    return ok(f"{summary}.")


async def probes(patient: Patient) -> Finding:
    """Whether every probe answered."""
    try:
        reports = (await patient.examined.get()).capabilities.probes
    except Unknowable as unknown:
        text = "Report it: detection is built never to fail as a whole."
        return warning("This machine could not be detected.", text, detail=unknown.reason)
    detail = [
        f"{probe.probe}: {probe.outcome.replace('_', ' ')}, {probe.detail} ({probe.seconds:.1f} s)"
        for probe in reports
    ]
    unanswered = [probe.probe for probe in reports if probe.outcome in _UNKNOWN]
    if unanswered:
        text = (
            "The build was chosen by the other probes. Run a program that does not answer by hand; a file "
            "that can't be read needs a permission."
        )
        return warning(f"Some probes found no answer: {', '.join(unanswered)}.", text, detail=detail)
    return ok(f"All {len(reports)} probes answered.", detail)


async def python_version(patient: Patient) -> Finding:
    """Whether PyTorch has wheels for this Python, and whether the station runs on it."""
    if patient.is_here:
        try:
            await in_thread(own_interpreter)
        except PythonUnsuitable as unsuitable:
            # The message names the interpreter's place, which may be private; the cleaner takes it out.
            return error(unsuitable.message, unsuitable.hint or "Install CPython.")
    planned = await patient.planned.get()
    target = planned.case.target
    python = f"{target.python_full}{', free-threaded' if target.free_threaded else ''}"
    if planned.selection.build is None and not target.rosetta:
        others = await in_thread(planned.other_pythons)
        if others:
            summary = f"PyTorch has no wheel for Python {target.python_minor} here."
            text = _with_another(f"Python {in_words(others)}")
            return error(summary, text, detail=planned.selection.reason)
    if target.python[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        others = await in_thread(planned.other_pythons)
        newer = in_words(others) if others else f"{oldest} or newer"
        return warning(
            f"Python {python} is too old; the station needs {oldest}.", _with_another(f"Python {newer}")
        )
    return ok(f"Python {python}.")


def _with_another(python: str) -> str:
    return f"Install {python}, and reinstall the station with it."


async def python_architecture(patient: Patient) -> Finding:
    """Whether Python was built for this machine's CPU."""
    planned = await patient.planned.get()
    if planned.case.target.rosetta:
        return error(
            "This Python is built for x86-64 and translated by Rosetta; PyTorch has no wheel for it.",
            _with_another("an arm64 Python"),
            "/opt/homebrew/bin/brew install python@3.13",
        )
    if planned.case.target.is_32_bit:
        summary = "This Python is a 32-bit build; PyTorch has no wheel for it."
        return error(summary, _with_another("a 64-bit Python"))
    return ok(f"Python matches the CPU ({planned.capabilities.machine}).")


async def uv(patient: Patient) -> Finding:
    """Whether the installer is there and new enough."""
    try:
        await find_uv(patient.environ)
    except ProgramMissing as missing:
        subject = await patient.subject.get()
        text = "Install it into the station's environment."
        command = f"python -m pip install 'uv>={OLDEST_UV}'"
        return problem(missing.message, text, command, fatal=not subject.is_installed)
    return ok(f"uv {OLDEST_UV} or newer is installed.")


async def own_torch(patient: Patient) -> Finding:
    """What torch this interpreter has; no model uses it."""
    try:
        version = await in_thread(metadata.version, "torch")
    except metadata.PackageNotFoundError:
        return ok("This interpreter has no torch, and needs none: each model has its own environment.")
    planned = await patient.planned.get()
    public, _, local = version.partition("+")
    platform = planned.case.target.platform
    name = local or (planned.case.catalog.pypi_build(public, platform) if platform else None)
    build = parse_build(name or "")
    words = f"torch {version}" + (f" ({name})" if name and not local else "")
    if build is None or build.kind is not Kind.CPU or planned.kind in {None, Kind.CPU}:
        return ok(f"This interpreter has {words}; the station does not use it.")
    command = planned.selection.command
    replaced = (*command[:_INDEX_OPTIONS_AT], "--force-reinstall", *command[_INDEX_OPTIONS_AT:])
    summary = f"This interpreter has {words}, although this machine can run {planned.selection.build}."
    text = "The station's models do not use it. To replace it, which can't be undone:"
    return warning(summary, text, shlex.join(replaced))
