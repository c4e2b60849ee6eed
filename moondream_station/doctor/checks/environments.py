"""Environments: whole, unchanged, and nothing unfinished beside them."""

from __future__ import annotations

import shlex

from moondream_station.core.environments.packages import rewritten_files
from moondream_station.core.environments.store import Committed, check_whole
from moondream_station.core.environments.store import unfinished as unfinished_in
from moondream_station.core.facts.errors import EnvironmentBroken, HomeUnusable
from moondream_station.core.home.active_file import ModelRecord, read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import activation_holder
from moondream_station.doctor.checks.findings import Remedy, Verdict, error, ok, warning
from moondream_station.doctor.checks.patient import Patient, in_thread
from moondream_station.doctor.checks.subject import committed_of

_NAMED_AT_MOST = 3


async def active(patient: Patient) -> Verdict:
    """Whether the model's environment is as it was committed, file by file."""
    try:
        await in_thread(read_active, patient.home)
    except HomeUnusable as unusable:
        return error(unusable.message, Remedy(unusable.hint or "Move the file away."))
    subject = await patient.subject.get()
    if subject.record is None:
        return ok("No model has an environment yet.")
    name = shlex.quote(subject.model or "MODEL")
    switch = f"moondream-station switch {name}"
    committed, broken = await _examined(patient.home, subject.record)
    if broken is not None or committed is None:
        # One without a record is not taken for one that is whole, so a switch makes another.
        remedy = Remedy("Make another; an environment is never repaired in place.", (switch,))
        return error(f"The environment of {subject.model} is not whole.", remedy, broken)
    if changed := await in_thread(_changed, committed):
        text = "Reinstall it; an environment is never repaired in place."
        remedy = Remedy(text, (f"moondream-station remove {name}", switch))
        return warning(f"The environment of {subject.model} changed since it was committed.", remedy, changed)
    return ok(f"The environment of {subject.model} is whole ({committed.record.file_count} files).")


def _changed(committed: Committed) -> str | None:
    place = committed.place
    names = rewritten_files(place.venv, place.commit.stat().st_mtime_ns)
    more = f", and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    named = ", ".join(names[:_NAMED_AT_MOST])
    return f"Changed since they were installed: {named}{more}." if names else None


async def others(patient: Patient) -> Verdict:
    """Whether the other models' environments are whole."""
    subject = await patient.subject.get()
    models = (await in_thread(read_active, patient.home)).models
    records = {model: record for model, record in models.items() if model != subject.model}
    examined = {model: await _examined(patient.home, record) for model, record in records.items()}
    broken = {model: why for model, (_, why) in examined.items() if why is not None}
    if broken:
        return warning(
            "A model that is not active has a broken environment; a switch to it rebuilds it.",
            Remedy(
                "Leave it, or remove the model.",
                tuple(f"moondream-station remove {shlex.quote(model)}" for model in broken),
            ),
            [f"{model}: {why}" for model, why in broken.items()],
        )
    if not records:
        return ok("No other model has an environment.")
    return ok(f"The environments of the other models are whole ({', '.join(records)}).")


async def _examined(home: Home, record: ModelRecord) -> tuple[Committed | None, str | None]:
    """The environment that a record names, and why it is not whole."""
    committed = None
    try:
        committed = await in_thread(committed_of, home, record)
        await check_whole(committed)
    except EnvironmentBroken as broken:
        return committed, broken.message
    return committed, None


async def unfinished(patient: Patient) -> Verdict:
    """Whether a killed activation left something behind."""
    if await in_thread(activation_holder, patient.home) is not None:
        return ok("An activation is running; what it makes is not finished yet.")
    await patient.subject.get()  # of an `active.json` that can't be read another check tells
    paths = await in_thread(leftovers, patient.home)
    if not paths:
        return ok("Nothing was left unfinished.")
    remedy = Remedy("The next switch removes it; to do so now:", ("moondream-station doctor --fix",))
    return warning("An earlier activation left something unfinished.", remedy, paths)


def leftovers(home: Home) -> list[str]:
    """What an activation left unfinished, by path below the home; of one that runs, too."""
    return sorted(path.relative_to(home.root).as_posix() for path in unfinished_in(home))
