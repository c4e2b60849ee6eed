"""How checks are run: all at once, each for itself, whatever one of them does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import pytest

from moondream_station.core.facts.errors import DownloadFailed
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.machine.machine import CommandResult
from moondream_station.doctor.examination import CHECKS, Check, examine
from moondream_station.doctor.patient import Patient, Unknowable
from moondream_station.doctor.report import (
    SECTIONS,
    Finding,
    Report,
    Status,
    error,
    ok,
    report_to_json,
)
from support.machines import cpu_only
from support.patients import ALONE, Here, finding_of, ids_of

pytestmark = pytest.mark.anyio


Examine = Callable[..., Awaitable[Report]]


@pytest.fixture
def examine_by(tmp_path: Path) -> Examine:
    """The report of some checks on a computer without a GPU and without a home."""
    home = Home(root=tmp_path / "home")
    return partial(examine, home=home, settings=Settings(), environ=ALONE, machine=Here(cpu_only()))


def check_that(look: object, name: str = "station.it", **options: object) -> Check:
    """A check that does this."""
    fields = {"id": name, "title": "It", "examine": look, **options}
    return Check(**fields)  # type: ignore[arg-type]


async def is_well(_: Patient) -> Finding:
    """A check that finds nothing."""
    await anyio.lowlevel.checkpoint()
    return ok("All is well.")


async def hangs(_: Patient) -> Finding:
    """A check that never ends."""
    await anyio.sleep_forever()
    return ok("never")


async def raises(_: Patient) -> Finding:
    """A check with a fault of its own."""
    await anyio.lowlevel.checkpoint()
    raise ZeroDivisionError("by nought")


async def fails(_: Patient) -> Finding:
    """A check that could not do what it has to."""
    await anyio.lowlevel.checkpoint()
    raise DownloadFailed("It broke.", hint="Mend it.")


async def does_not_know(_: Patient) -> Finding:
    """A check that lacks what another one reports on."""
    await anyio.lowlevel.checkpoint()
    raise Unknowable("the moon", ValueError("clouds"))


async def test_a_check_that_raises_or_hangs_changes_nothing_for_the_others(examine_by: Examine) -> None:
    """Each becomes a finding of its own, which says so; the others say what they would have said."""
    checks = [
        check_that(hangs, "station.hangs", limit_seconds=0.05),
        check_that(raises, "station.raises"),
        check_that(fails, "station.fails"),
        check_that(does_not_know, "station.unknown"),
        check_that(is_well, "station.well"),
    ]
    report = await examine_by(checks=checks)
    assert [(finding.status, finding.summary) for finding in report.findings] == [
        (Status.WARNING, "It could not be checked: no answer within 0.05 s."),
        (Status.WARNING, "It could not be checked: ZeroDivisionError: by nought"),
        (Status.WARNING, "It could not be checked: It broke."),
        (Status.SKIPPED, "It: not checked, because the moon could not be read."),
        (Status.OK, "All is well."),
    ]
    remedy = finding_of(report, "station.fails").remedy
    assert remedy is not None
    assert remedy.text == "Mend it."


async def test_findings_come_as_their_checks_end_and_stand_in_order(examine_by: Examine) -> None:
    """A slow first check holds back nobody's finding; the report has the registry's order."""
    seen: list[str] = []
    others_done = anyio.Event()

    async def waits(_: Patient) -> Finding:
        await others_done.wait()
        return ok("At last.")

    def note(finding: Finding) -> None:
        seen.append(finding.id)
        others_done.set()

    checks = [check_that(waits, "station.slow"), check_that(is_well, "station.quick")]
    report = await examine_by(checks=checks, on_finding=note)
    assert seen == ["station.quick", "station.slow"]
    assert [finding.id for finding in report.findings] == ["station.slow", "station.quick"]


async def test_what_needs_the_network_is_skipped_offline(tmp_path: Path) -> None:
    """It is marked so; everything else is looked at."""
    report = await examine(
        home=Home(root=tmp_path), settings=Settings(), environ=ALONE, machine=Here(cpu_only()), offline=True
    )
    needing = {check.id for check in CHECKS if check.needs_network}
    assert needing
    assert ids_of(report.findings, Status.SKIPPED) == needing


class Exploding(Here):
    """A machine whose door itself is broken."""

    async def run(self, *argv: str) -> CommandResult | None:
        """Fail in a way that no probe expects."""
        await anyio.lowlevel.checkpoint()
        raise RuntimeError(f"no {argv[0]}")


async def test_a_machine_that_cannot_be_looked_at_is_one_finding(tmp_path: Path) -> None:
    """What follows from it is skipped with the reason; what does not is looked at; nothing is an error."""
    report = await examine(
        home=Home(root=tmp_path), settings=Settings(), environ=ALONE, machine=Exploding(cpu_only())
    )
    assert finding_of(report, "machine.probes").status is Status.WARNING
    assert {"gpu.devices", "gpu.driver", "gpu.build"} <= ids_of(report.findings, Status.SKIPPED)
    assert finding_of(report, "station.settings").status is Status.OK
    assert report.is_ok


async def test_an_error_and_nothing_else_makes_the_report_bad(examine_by: Examine) -> None:
    """`ok` is false if and only if a finding is an error."""

    async def is_ill(_: Patient) -> Finding:
        await anyio.lowlevel.checkpoint()
        return error("It is broken.", "Mend it.")

    assert (await examine_by(checks=[check_that(raises)])).is_ok
    report = await examine_by(checks=[check_that(is_well), check_that(is_ill, "station.ill")])
    assert report_to_json(report)["ok"] is False


def test_the_registry_is_in_order() -> None:
    """Ids are unique and begin with their section; sections stand together, in their order."""
    ids = [check.id for check in CHECKS]
    assert len(set(ids)) == len(ids)
    sections = [check.id.partition(".")[0] for check in CHECKS]
    assert sections == sorted(sections, key=list(SECTIONS).index)
    assert set(sections) == set(SECTIONS)


async def test_nothing_is_changed_by_looking(tmp_path: Path) -> None:
    """A home that does not exist is not made, one that does is left as it is."""
    home = Home(root=tmp_path / "home")
    await examine(home=home, settings=Settings(), environ=ALONE, machine=Here(cpu_only()))
    assert not home.root.exists()
    home.create()
    before = sorted(path for path in home.root.rglob("*"))
    await examine(home=home, settings=Settings(), environ=ALONE, machine=Here(cpu_only()))
    assert sorted(path for path in home.root.rglob("*")) == before
