"""The Python that environments are made from, and the installer beside it."""

from __future__ import annotations

import sys

import anyio.lowlevel

from moondream_station.core.builds.offers import in_words
from moondream_station.core.facts.errors import ProgramMissing, PythonUnsuitable
from moondream_station.core.resolve.interpreter import OLDEST_PYTHON, own_interpreter
from moondream_station.core.resolve.uv_program import OLDEST_UV, find_uv
from moondream_station.doctor.patient.check import Check
from moondream_station.doctor.patient.patient import Patient, in_thread
from moondream_station.doctor.report.findings import Remedy, Section, Verdict, error, ok, problem, warning

_BITS_32 = 2**32


async def _version(patient: Patient) -> Verdict:
    if patient.is_here:
        try:
            await in_thread(own_interpreter)
        except PythonUnsuitable as unsuitable:
            await anyio.lowlevel.checkpoint()
            # The message names the interpreter's place, which may be private; the cleaner takes it out.
            return error(unsuitable.message, remedy=Remedy(text=unsuitable.hint or "Install CPython."))
    planned = await patient.planned.get()
    target = planned.case.target
    python = f"{target.python_full}{', free-threaded' if target.free_threaded else ''}"
    if planned.selection.build is None and not target.rosetta:
        others = await in_thread(planned.other_pythons)
        if others:
            text = f"Install Python {in_words(others)}, and install the station with it."
            summary = f"PyTorch has no wheel for Python {target.python_minor} here."
            return error(summary, detail=planned.selection.reason, remedy=Remedy(text=text))
    if target.python[:2] < OLDEST_PYTHON:
        others = await in_thread(planned.other_pythons)
        newer = in_words(others) if others else f"{_oldest()} or newer"
        return warning(
            f"Python {python} is older than the station needs, which is {_oldest()}.",
            remedy=Remedy(text=f"Install Python {newer}, and install the station with it."),
        )
    return ok(f"Python {python}.")


def _oldest() -> str:
    return ".".join(map(str, OLDEST_PYTHON))


async def _architecture(patient: Patient) -> Verdict:
    planned = await patient.planned.get()
    if planned.case.target.rosetta:
        return error(
            "This Python is an x86-64 one that Rosetta translates; PyTorch has no wheel for it.",
            remedy=Remedy(
                text="Install an arm64 Python, and install the station with it.",
                commands=("/opt/homebrew/bin/brew install python@3.13",),
            ),
        )
    if patient.is_here and sys.maxsize <= _BITS_32:
        text = "Install a 64-bit Python, and install the station with it."
        return error("This Python is a 32-bit one; PyTorch has no wheel for it.", remedy=Remedy(text=text))
    return ok(f"Python and processor go together ({planned.capabilities.machine}).")


async def _uv(patient: Patient) -> Verdict:
    try:
        await find_uv(patient.environ)
    except ProgramMissing as missing:
        subject = await patient.subject.get()
        remedy = Remedy(
            text="Install it into the station's environment.",
            commands=(f"python -m pip install 'uv>={OLDEST_UV}'",),
        )
        return problem(missing.message, fatal=not subject.is_installed, remedy=remedy)
    return ok(f"uv, which resolves and installs, is there ({OLDEST_UV} or newer).")


CHECKS = (
    Check(id="python.version", section=Section.PYTHON, title="The Python version", look=_version),
    Check(id="python.architecture", section=Section.PYTHON, title="Python's processor", look=_architecture),
    Check(id="python.uv", section=Section.PYTHON, title="uv", look=_uv, needs_home=True),
)
