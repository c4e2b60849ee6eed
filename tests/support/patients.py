"""Whom the doctor examines in tests: machines on record that count as this computer, and installed models."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from moondream_station.core.environments.packages import check_records
from moondream_station.core.environments.store import CommitRecord, Committed, commit, new_place
from moondream_station.core.facts.events import VerificationReport
from moondream_station.core.home.active_file import read_active, write_active
from moondream_station.core.home.layout import Home
from moondream_station.core.machine.machine import CommandResult, PlatformFacts
from moondream_station.core.machine.record import MachineRecord, RecordedMachine
from moondream_station.core.resolve.pylock import write_pylock
from moondream_station.doctor.report import Finding, Report, Status
from support.environments import lock_of, locked_file
from support.wheels import torch_wheel

ALONE: Mapping[str, str] = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}
"""Variables of a user whom no index concerns."""


class Here:
    """A recorded machine that counts as this computer.

    Args:
        record: What it answers.
    """

    is_local = True

    def __init__(self, record: MachineRecord) -> None:
        self._machine = RecordedMachine(record)

    @property
    def facts(self) -> PlatformFacts:
        """What Python knows of it."""
        return self._machine.facts

    @property
    def variables(self) -> Mapping[str, str]:
        """Its recorded variables."""
        return self._machine.variables

    async def run(self, *argv: str) -> CommandResult | None:
        """Give the recorded answer."""
        return await self._machine.run(*argv)

    async def read(self, path: str) -> str | None:
        """Give the recorded text."""
        return await self._machine.read(path)

    async def list(self, path: str) -> tuple[str, ...] | None:
        """Give the recorded names."""
        return await self._machine.list(path)


async def install(
    home: Home, model: str = "selftest", *, torch: str = "2.9.0", build: str = "cpu", **changes: object
) -> Committed:
    """Give a model an environment with torch in it, and make it the active one.

    Args:
        home: The home; it exists.
        model: The model's id.
        torch: The version of torch.
        build: Its build.
        changes: Other fields of the commit's record.
    """
    wheel = torch_wheel(torch, build)
    lock = lock_of([locked_file(wheel, f"https://index.example/{wheel.filename}")])
    place = new_place(home, lock.digest)
    place.pylock.write_text(write_pylock(lock))
    site_packages = place.venv / "lib" / "python3.11" / "site-packages"
    zipfile.ZipFile(io.BytesIO(wheel.data)).extractall(site_packages)
    base = home.root / "python3.11"
    base.write_text("#!/bin/sh\n")
    base.chmod(0o755)
    place.python.parent.mkdir()
    place.python.symlink_to(base)
    record = CommitRecord(
        lock_digest=lock.digest,
        request_key="k" * 64,
        model=model,
        backend="selftest",
        backend_version="1.0.0",
        build=build,
        torch=f"{torch}+{build}",
        source="index",
        index_url=f"https://download.pytorch.org/whl/{build}",
        degraded=None,
        python=str(base),
        python_version="3.11.7",
        packages=lock.packages,
        file_count=check_records(place.venv, lock.packages),
        verification=VerificationReport(torch=f"{torch}+{build}", build=build, device="cpu", compute_ok=True),
        created_at=datetime(2026, 11, 23, 10, 0, tzinfo=UTC),
    )
    committed = Committed(place=place, record=replace(record, **changes))  # type: ignore[arg-type]
    await commit(place, committed.record)
    write_active(home, read_active(home).with_active(model, environment=place.name, request_key="k" * 64))
    return committed


def site_packages_of(committed: Committed) -> Path:
    """Where an environment's packages are."""
    return committed.place.venv / "lib" / "python3.11" / "site-packages"


def finding_of(report: Report, check: str) -> Finding:
    """What one check found."""
    return next(finding for finding in report.findings if finding.id == check)


def ids_of(findings: Iterable[Finding], status: Status) -> set[str]:
    """The checks whose findings are of a status."""
    return {finding.id for finding in findings if finding.status is status}


def words_of(finding: Finding) -> str:
    """Everything that a finding says."""
    remedy = finding.remedy
    commands = remedy.commands if remedy else ()
    return "\n".join((finding.summary, finding.detail or "", remedy.text if remedy else "", *commands))
