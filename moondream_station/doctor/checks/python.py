"""The Python that environments are made from, and the installer beside it."""

from __future__ import annotations

import sys

import anyio.lowlevel

from moondream_station.core.builds.offers import in_words
from moondream_station.core.facts.errors import ProgramMissing, PythonUnsuitable
from moondream_station.core.resolve.interpreter import OLDEST_PYTHON, own_interpreter
from moondream_station.core.resolve.uv_program import OLDEST_UV, find_uv
from moondream_station.doctor.patient.patient import Patient, in_thread
from moondream_station.doctor.report.findings import Remedy, Verdict, error, ok, problem, warning

_BITS_32 = 2**32


async def version(patient: Patient) -> Verdict:
    """Whether PyTorch has wheels for this Python, and whether the station runs on it."""
    if patient.is_here:
        try:
            await in_thread(own_interpreter)
        except PythonUnsuitable as unsuitable:
            await anyio.lowlevel.checkpoint()
            # The message names the interpreter's place, which may be private; the cleaner takes it out.
            return error(unsuitable.message, Remedy(unsuitable.hint or "Install CPython."))
    planned = await patient.planned.get()
    target = planned.case.target
    python = f"{target.python_full}{', free-threaded' if target.free_threaded else ''}"
    if planned.selection.build is None and not target.rosetta:
        others = await in_thread(planned.other_pythons)
        if others:
            summary = f"PyTorch has no wheel for Python {target.python_minor} here."
            return error(summary, _reinstall_with(in_words(others)), detail=planned.selection.reason)
    if target.python[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        others = await in_thread(planned.other_pythons)
        newer = in_words(others) if others else f"{oldest} or newer"
        return warning(f"Python {python} is too old; the station needs {oldest}.", _reinstall_with(newer))
    return ok(f"Python {python}.")


def _reinstall_with(pythons: str) -> Remedy:
    return Remedy(f"Install Python {pythons}, and reinstall the station with it.")


async def architecture(patient: Patient) -> Verdict:
    """Whether Python was built for this machine's CPU."""
    planned = await patient.planned.get()
    if planned.case.target.rosetta:
        return error(
            "This Python is built for x86-64 and translated by Rosetta; PyTorch has no wheel for it.",
            Remedy(
                "Install an arm64 Python, and reinstall the station with it.",
                ("/opt/homebrew/bin/brew install python@3.13",),
            ),
        )
    if patient.is_here and sys.maxsize <= _BITS_32:
        remedy = Remedy("Install a 64-bit Python, and reinstall the station with it.")
        return error("This Python is a 32-bit build; PyTorch has no wheel for it.", remedy)
    return ok(f"Python matches the CPU ({planned.capabilities.machine}).")


async def uv(patient: Patient) -> Verdict:
    """Whether the installer is there and new enough."""
    try:
        await find_uv(patient.environ)
    except ProgramMissing as missing:
        subject = await patient.subject.get()
        remedy = Remedy(
            "Install it into the station's environment.", (f"python -m pip install 'uv>={OLDEST_UV}'",)
        )
        return problem(missing.message, remedy, fatal=not subject.is_installed)
    return ok(f"uv {OLDEST_UV} or newer is installed.")
