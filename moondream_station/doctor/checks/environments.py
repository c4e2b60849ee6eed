"""Environments: whole, unchanged, and nothing left half done beside them."""

from __future__ import annotations

import shlex

import anyio.lowlevel

from moondream_station.core.environments.store import Committed, check_whole
from moondream_station.core.facts.errors import EnvironmentBroken, HomeUnusable
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.locks import activation_holder
from moondream_station.doctor.checks.contents import changed_files
from moondream_station.doctor.checks.leftovers import leftovers
from moondream_station.doctor.patient.check import Check
from moondream_station.doctor.patient.patient import Patient, in_thread
from moondream_station.doctor.patient.subject import committed_of
from moondream_station.doctor.report.findings import Remedy, Section, Verdict, error, ok, warning

_LIMIT_SECONDS = 30.0
_NAMED_AT_MOST = 3


async def _active(patient: Patient) -> Verdict:
    try:
        await in_thread(read_active, patient.home)
    except HomeUnusable as unusable:
        await anyio.lowlevel.checkpoint()
        return error(unusable.message, remedy=Remedy(text=unusable.hint or "Move the file away."))
    subject = await patient.subject.get()
    if subject.record is None:
        return ok("No model has an environment yet.")
    if subject.committed is None:
        summary = f"The environment of {subject.words.lower()} is gone."
        return error(summary, remedy=_anew(subject.model))
    try:
        await check_whole(subject.committed)
    except EnvironmentBroken as broken:
        summary = f"The environment of {subject.model} changed since it was committed: it is not whole."
        return error(summary, detail=broken.message, remedy=_anew(subject.model))
    changed = await in_thread(changed_files, subject.committed.place)
    if changed:
        summary = f"The environment of {subject.model} changed since it was committed."
        return warning(summary, detail=_named(changed), remedy=_anew(subject.model))
    files = f"{subject.committed.record.file_count} files"
    return ok(f"The environment of {subject.model} is whole ({files}).")


def _named(changed: tuple[str, ...]) -> str:
    more = len(changed) - _NAMED_AT_MOST
    named = ", ".join(changed[:_NAMED_AT_MOST])
    return f"Other contents than were installed: {named}" + (f", and {more} more." if more > 0 else ".")


def _anew(model: str | None) -> Remedy:
    name = shlex.quote(model or "MODEL")
    return Remedy(
        text="Install it anew; an environment is never repaired in its place.",
        commands=(f"moondream-station remove {name}", f"moondream-station switch {name}"),
    )


async def _others(patient: Patient) -> Verdict:
    subject = await patient.subject.get()
    active = await in_thread(read_active, patient.home)
    others = {model: record for model, record in active.models.items() if model != subject.model}
    broken: dict[str, str] = {}
    for model, record in others.items():
        committed = await in_thread(committed_of, patient.home, record)
        why = f"The environment {record.environment} is gone." if committed is None else await _why(committed)
        if why is not None:
            broken[model] = why
    if broken:
        summary = (
            "A model that is not active has a broken environment; it is made anew when it is switched to."
        )
        remedy = Remedy(
            text="Leave it so, or forget it.",
            commands=tuple(f"moondream-station remove {shlex.quote(model)}" for model in broken),
        )
        detail = "\n".join(f"{model}: {why}" for model, why in broken.items())
        return warning(summary, detail=detail, remedy=remedy)
    if not others:
        return ok("No other model has an environment.")
    return ok(f"The environments of the other models are whole ({', '.join(others)}).")


async def _why(committed: Committed) -> str | None:
    try:
        await check_whole(committed)
    except EnvironmentBroken as broken:
        await anyio.lowlevel.checkpoint()
        return broken.message
    return None


async def _leftovers(patient: Patient) -> Verdict:
    if await in_thread(activation_holder, patient.home) is not None:
        return ok("An activation is running; what it makes is not finished yet.")
    found = await in_thread(leftovers, patient.home)
    if not found:
        return ok("Nothing was left half done.")
    remedy = Remedy(
        text="The next switch removes it; to do so now:", commands=("moondream-station doctor --fix",)
    )
    shown = "\n".join(found)
    return warning("An earlier activation left something half done.", detail=shown, remedy=remedy)


CHECKS = (
    Check(
        id="environments.active",
        section=Section.ENVIRONMENTS,
        title="The model's environment",
        look=_active,
        limit_seconds=_LIMIT_SECONDS,
        needs_home=True,
    ),
    Check(
        id="environments.others",
        section=Section.ENVIRONMENTS,
        title="The other models' environments",
        look=_others,
        limit_seconds=_LIMIT_SECONDS,
        needs_home=True,
    ),
    Check(
        id="environments.leftovers",
        section=Section.ENVIRONMENTS,
        title="What was left half done",
        look=_leftovers,
        needs_home=True,
    ),
)
