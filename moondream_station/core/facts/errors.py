"""Every way the station can fail, by cause.

An error carries a stable `code` in kebab-case, that programs test for, a message that says what failed, on
which thing and what was seen, and a hint that says what to do next. Foreign exceptions are translated at the
seam where they arise; the command line and HTTP each have one boundary that shows them.
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
    """The model is known, and can't run on this machine or under this station."""

    code = "unsupported-model"


class NoActiveModel(StationError):
    """Nothing to act on: no model is active."""

    code = "no-active-model"


class NothingToCancel(StationError):
    """No activation runs."""

    code = "nothing-running"


class NothingToRollBack(StationError):
    """The model had no environment before the one it has, or is not the one that a station serves."""

    code = "nothing-to-roll-back"


class ManifestInvalid(StationError):
    """The manifest can't be read or is none."""

    code = "manifest-invalid"


class ArchiveUnsafe(StationError):
    """A backend archive holds something that must not be unpacked."""

    code = "archive-unsafe"


class BackendUnavailable(StationError):
    """A backend's code can't be had."""

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
    """A file is not the one that the lock names, also after it was fetched once more."""

    code = "hash-mismatch"


class DownloadFailed(StationError):
    """A file can't be fetched."""

    code = "download-failed"


class NoSpace(StationError):
    """A file system is full, or would be."""

    code = "no-space"


class EnvironmentBroken(StationError):
    """An environment is not what its lock and its records say."""

    code = "environment-broken"


class PythonUnsuitable(StationError):
    """The Python interpreter that was asked for can't be used."""

    code = "python-unsuitable"


class BuildFailed(StationError):
    """A package can't be built from source, which the manifest allows for it."""

    code = "build-failed"


class VerificationFailed(StationError):
    """Torch itself does not report what was planned.

    Args:
        message: As for every error.
        hint: As for every error.
        log: As for every error.
        is_curable: Whether another build could do better; not where the driver or the device is at fault.
    """

    code = "verification-failed"

    def __init__(
        self, message: str, *, hint: str | None = None, log: str | None = None, is_curable: bool = True
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.is_curable = is_curable


class WorkerFailed(StationError):
    """A backend's worker died, refused or broke its protocol."""

    code = "worker-failed"


class WorkerTimeout(StationError):
    """A backend did not answer in time."""

    code = "worker-timeout"


class WorkerBusy(StationError):
    """Too many requests wait for the worker already."""

    code = "queue-full"


class WorkerLoading(StationError):
    """The worker still loads its model."""

    code = "worker-loading"


class UnknownFunction(StationError):
    """The active backend has no such function."""

    code = "unknown-function"


class BackendError(StationError):
    """A backend's function raised, or answered with something that can't be passed on; its worker goes on."""

    code = "backend-error"


class WeightsUnreachable(StationError):
    """A model's weights can't be had."""

    code = "weights-unreachable"


class HomeUnusable(StationError):
    """The home can't be created, read or written."""

    code = "home-unusable"


class HomeLocked(StationError):
    """The home's file system can't lock, so that nothing may be changed in it."""

    code = "home-locked"


class StationRunning(StationError):
    """Another station already serves this home."""

    code = "station-running"


class StationUnreachable(StationError):
    """A station that should serve does not answer."""

    code = "station-unreachable"


class AddressUnusable(StationError):
    """The station can't listen on the address that it was given."""

    code = "address-unusable"


class AddressInUse(StationError):
    """No port to serve on."""

    code = "address-in-use"


class SettingsInvalid(StationError):
    """config.json, a variable, or pip's or uv's set-up holds a value that can't be used."""

    code = "settings-invalid"


class OutputUnwritable(StationError):
    """What a command is to say can't be written, to a full disk, say."""

    code = "output-unwritable"


class ProgramMissing(StationError):
    """A program the station itself needs is not installed."""

    code = "program-missing"


class HistoryGone(StationError):
    """What followed an event is no longer known in full; a snapshot says where things are instead."""

    code = "history-gone"


class SubscriberOverflowed(StationError):
    """A subscriber did not read in time and was closed; it may resume after `last_seq`.

    Args:
        last_seq: The last event that it was given.
    """

    code = "subscriber-overflowed"

    def __init__(self, *, last_seq: int) -> None:
        super().__init__(
            f"The subscriber did not keep up with the events after {last_seq}.",
            hint="Subscribe again after that one, or from a snapshot.",
        )
        self.last_seq = last_seq
