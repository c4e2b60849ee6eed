"""Every way the station can fail, by cause.

An error carries a stable `code` in kebab-case, that programs test for, a message that says what failed, on
which thing and what was seen, and a hint that says what to do next. Foreign exceptions are translated where
they arise; the command line and HTTP each have one boundary that shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """An error as data, as facts and JSON carry it."""

    code: str
    message: str
    hint: str | None = None


class StationError(Exception):
    """The root of everything the station raises on purpose.

    Args:
        message: What failed, on which thing, what was seen. One or two sentences, no trailing newline.
        hint: What to do next, or None where nothing can be done.
        log: Whole output of the tool that failed; it goes to the journal, never to the one-line message.
    """

    code: ClassVar[str] = "internal-error"

    def __init__(self, message: str, *, hint: str | None = None, log: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log

    @property
    def info(self) -> ErrorInfo:
        """The error as data."""
        return ErrorInfo(code=self.code, message=self.message, hint=self.hint)


class UsageError(StationError):
    """The command line itself is wrong; nothing was done. Exit code 2."""

    code = "usage"


class UnknownModel(StationError):
    """The manifest has no such model."""

    code = "unknown-model"


class UnsupportedModel(StationError):
    """The model can't run on this machine, or not with this version of the station."""

    code = "unsupported-model"


class NoActiveModel(StationError):
    """Nothing to act on: no model is active."""

    code = "no-active-model"


class NothingToCancel(StationError):
    """No activation is running."""

    code = "nothing-running"


class NothingToRollBack(StationError):
    """The model has no earlier environment, or is not the one that a station serves."""

    code = "nothing-to-roll-back"


class ManifestInvalid(StationError):
    """The manifest can't be read, or is not valid."""

    code = "manifest-invalid"


class ArchiveUnsafe(StationError):
    """A backend archive holds something that must not be unpacked."""

    code = "archive-unsafe"


class BackendUnavailable(StationError):
    """A backend's code is not available."""

    code = "backend-unavailable"


class RequirementsUnsafe(StationError):
    """A backend's requirements ask for something other than names, versions, markers and hashes."""

    code = "requirements-unsafe"


class NoBuild(StationError):
    """No PyTorch build satisfies the requirement on this machine."""

    code = "no-build"


class IndexUnreachable(StationError):
    """A package index did not answer, or not usefully."""

    code = "index-unreachable"


class ResolutionConflict(StationError):
    """The requirements contradict each other or the chosen build."""

    code = "resolution-conflict"


class HashMismatch(StationError):
    """A file does not match its hash in the lock, even after it was downloaded again."""

    code = "hash-mismatch"


class DownloadFailed(StationError):
    """A file can't be downloaded."""

    code = "download-failed"


class NoSpace(StationError):
    """A disk is full, or would be."""

    code = "no-space"


class EnvironmentBroken(StationError):
    """An environment is not what its lock and its records say."""

    code = "environment-broken"


class PythonUnsuitable(StationError):
    """The requested Python interpreter can't be used."""

    code = "python-unsuitable"


class BuildFailed(StationError):
    """A package that the manifest allows to be built from source can't be built."""

    code = "build-failed"


class VerificationFailed(StationError):
    """Torch itself does not report what was planned.

    `is_curable` says whether another build could do better; it can't where driver or device are at fault.
    """

    code = "verification-failed"

    def __init__(
        self, message: str, *, hint: str | None = None, log: str | None = None, is_curable: bool = True
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.is_curable = is_curable


class WorkerFailed(StationError):
    """A backend's worker exited, refused, or broke its protocol."""

    code = "worker-failed"


class WorkerTimeout(StationError):
    """A backend did not answer in time."""

    code = "worker-timeout"


class WorkerBusy(StationError):
    """Too many requests are already waiting for the worker."""

    code = "queue-full"


class WorkerLoading(StationError):
    """The worker is still loading its model."""

    code = "worker-loading"


class UnknownFunction(StationError):
    """The active backend has no such function."""

    code = "unknown-function"


class BackendError(StationError):
    """A backend's function raised, or returned what can't be passed on; its worker keeps running."""

    code = "backend-error"


class WeightsUnreachable(StationError):
    """A model's weights can't be downloaded."""

    code = "weights-unreachable"


class HomeUnusable(StationError):
    """The home can't be created, read or written."""

    code = "home-unusable"


class HomeLocked(StationError):
    """The home's file system does not support locks, so nothing may be changed in it."""

    code = "home-locked"


class StationRunning(StationError):
    """Another station already serves this home."""

    code = "station-running"


class StationUnreachable(StationError):
    """A station that should serve does not answer."""

    code = "station-unreachable"


class AddressUnusable(StationError):
    """The station can't listen on the given address."""

    code = "address-unusable"


class AddressInUse(StationError):
    """No free port to serve on."""

    code = "address-in-use"


class SettingsInvalid(StationError):
    """config.json, a variable, or pip's or uv's configuration holds an invalid value."""

    code = "settings-invalid"


class OutputUnwritable(StationError):
    """A command's output can't be written, because a disk is full, for example."""

    code = "output-unwritable"


class ProgramMissing(StationError):
    """A program that the station needs is not installed."""

    code = "program-missing"


class HistoryGone(StationError):
    """The events after one are no longer complete; a snapshot replaces them."""

    code = "history-gone"


class SubscriberOverflowed(StationError):
    """A subscriber did not read in time and was closed; it may resume after `last_seq`."""

    code = "subscriber-overflowed"

    def __init__(self, *, last_seq: int) -> None:
        super().__init__(
            f"The subscriber did not keep up with the events after {last_seq}.",
            hint="Resume after that event, or from a snapshot.",
        )
        self.last_seq = last_seq
