"""An environment as an installation leaves it: filled and whole, committed or not yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from moondream_station.core.activation.prepare import Prepared
from moondream_station.core.environments.place import Place
from moondream_station.core.environments.store import CommitRecord, Committed
from moondream_station.core.facts.events import Degraded
from moondream_station.core.facts.report import VerificationReport
from moondream_station.core.facts.selection import Source
from moondream_station.core.fetch.lock import Lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An environment that is filled and whole, committed or not yet.

    Args:
        place: Where it is.
        build: Its PyTorch build, None for a backend without torch.
        torch: Its torch, with the local part.
        source: Where that came from.
        index_url: The index that has it, None unless `source` is "index".
        degraded: What the machine should have had instead.
        lock: What it was made from; None for one that was committed before.
        file_count: How many files its records name.
        committed: Its record, for one that was committed before.
    """

    place: Place
    build: str | None
    torch: str | None
    source: Source | None
    index_url: str | None
    degraded: Degraded | None = None
    lock: Lock | None = None
    file_count: int = 0
    committed: Committed | None = None

    @classmethod
    def of(cls, committed: Committed) -> Installed:
        """One that was committed before."""
        record = committed.record
        return cls(
            place=committed.place,
            build=record.build,
            torch=record.torch,
            source=record.source,
            index_url=record.index_url,
            degraded=record.degraded,
            file_count=record.file_count,
            committed=committed,
        )

    def record(self, prepared: Prepared, report: VerificationReport) -> CommitRecord:
        """What is, or was, committed of it, once torch was verified in it."""
        if self.committed is not None:
            return self.committed.record
        lock = self.lock
        assert lock is not None  # noqa: S101  it is what a new environment is made from
        return CommitRecord(
            lock_digest=lock.digest,
            request_key=prepared.request_key,
            model=prepared.model_id,
            backend=prepared.code.id,
            backend_version=prepared.code.version,
            build=self.build,
            torch=self.torch,
            source=self.source,
            index_url=self.index_url,
            degraded=self.degraded,
            python=str(prepared.interpreter.path),
            python_version=prepared.interpreter.version,
            packages=lock.packages,
            file_count=self.file_count,
            verification=report,
            created_at=datetime.now(UTC),
        )
