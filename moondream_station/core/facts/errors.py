"""Every way the station can fail, by cause.

An error carries a stable `code` in kebab-case, that programs test for, a message that says what failed, on
which thing and what was seen, and a hint that says what to do next. Foreign exceptions are translated where
they arise; the command line and HTTP each have one boundary that shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
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

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        cls.code = code or cls.code

    def __init__(self, message: str, *, hint: str | None = None, log: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log

    @property
    def info(self) -> ErrorInfo:
        """The error as data."""
        return ErrorInfo(code=self.code, message=self.message, hint=self.hint)


class NetworkFault(StrEnum):
    """Why a place on the network gave nothing, where that is known and has a remedy of its own."""

    NAME_UNKNOWN = "name-unknown"
    NO_NETWORK = "no-network"
    REFUSED = "refused"
    SILENT = "silent"
    PROXY = "proxy"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_YET_VALID = "certificate-not-yet-valid"
    CERTIFICATE_UNTRUSTED = "certificate-untrusted"
    TLS = "tls"
    CREDENTIALS = "credentials"
    FORBIDDEN = "forbidden"
    NO_SUCH_PAGE = "no-such-page"


class UsageError(StationError, code="usage"):
    """The command line itself is wrong; nothing was done. Exit code 2."""


class UnknownModel(StationError, code="unknown-model"):
    """The manifest has no such model."""


class UnsupportedModel(StationError, code="unsupported-model"):
    """The model can't run on this machine, or not with this version of the station."""


class DoesNotFit(StationError, code="does-not-fit"):
    """Model or build need what this machine has not; a user may go on regardless."""


class NoticeNotAccepted(StationError, code="notice-not-accepted"):
    """The manifest has a notice on the model that must be accepted first."""


class NoActiveModel(StationError, code="no-active-model"):
    """Nothing to act on: no model is active."""


class NothingToCancel(StationError, code="nothing-running"):
    """No activation is running."""


class NothingToRollBack(StationError, code="nothing-to-roll-back"):
    """The model has no earlier environment, or is not the one that a station serves."""


class ManifestInvalid(StationError, code="manifest-invalid"):
    """The manifest can't be read, or is not valid."""


class ArchiveUnsafe(StationError, code="archive-unsafe"):
    """A backend archive holds something that must not be unpacked."""


class BackendUnavailable(StationError, code="backend-unavailable"):
    """A backend's code is not available."""


class RequirementsUnsafe(StationError, code="requirements-unsafe"):
    """A backend's requirements ask for something other than names, versions, markers and hashes."""


class NoBuild(StationError, code="no-build"):
    """No PyTorch build satisfies the requirement on this machine."""


class IndexUnreachable(StationError, code="index-unreachable"):
    """A package index did not answer, or not usefully."""


class ResolutionConflict(StationError, code="resolution-conflict"):
    """The requirements contradict each other or the chosen build."""


class HashMismatch(StationError, code="hash-mismatch"):
    """A file does not match its hash in the lock, even after it was downloaded again."""


class DownloadFailed(StationError, code="download-failed"):
    """A file can't be downloaded."""


class NoSpace(StationError, code="no-space"):
    """A disk is full, or would be."""


class EnvironmentBroken(StationError, code="environment-broken"):
    """An environment is not what its lock and its records say."""


class PythonUnsuitable(StationError, code="python-unsuitable"):
    """The requested Python interpreter can't be used."""


class BuildFailed(StationError, code="build-failed"):
    """A package that the manifest allows to be built from source can't be built."""


class VerificationFailed(StationError, code="verification-failed"):
    """Torch itself does not report what was planned.

    `is_curable` says whether another build could do better; it can't where driver or device are at fault.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, log: str | None = None, is_curable: bool = True
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.is_curable = is_curable


class WorkerFailed(StationError, code="worker-failed"):
    """A backend's worker exited, refused, or broke its protocol."""


class WorkerTimeout(StationError, code="worker-timeout"):
    """A backend did not answer in time."""


class WorkerBusy(StationError, code="queue-full"):
    """Too many requests are already waiting for the worker."""


class WorkerLoading(StationError, code="worker-loading"):
    """The worker is still loading its model."""


class WorkerReplaced(StationError, code="worker-replaced"):
    """The worker was ended in the middle of a call: by `stop`, or because another one needed its memory."""


class UnknownFunction(StationError, code="unknown-function"):
    """The active backend has no such function."""


class BackendError(StationError, code="backend-error"):
    """A backend's function raised, or returned what can't be passed on; its worker keeps running."""


class ArgumentInvalid(BackendError, code="argument-invalid"):
    """An argument of a backend's function is missing, of the wrong type, or no readable image."""

    argument: str | None = None
    """Its name, where the backend says it."""


class WeightsUnreachable(StationError, code="weights-unreachable"):
    """A model's weights can't be downloaded."""


class HomeUnusable(StationError, code="home-unusable"):
    """The home can't be created, read or written."""


class HomeLocked(StationError, code="home-locked"):
    """The home's file system does not support locks, so nothing may be changed in it."""


class StationRunning(StationError, code="station-running"):
    """Another station already serves this home."""


class ExtraMissing(StationError, code="extra-missing"):
    """A part of the station that is installed on request is not."""


class StationUnreachable(StationError, code="station-unreachable"):
    """A station that should serve does not answer."""


class AddressUnusable(StationError, code="address-unusable"):
    """The station can't listen on the given address."""


class AddressInUse(StationError, code="address-in-use"):
    """No free port to serve on."""


class SettingsInvalid(StationError, code="settings-invalid"):
    """config.json, a variable, or pip's or uv's configuration holds an invalid value."""


class OutputUnwritable(StationError, code="output-unwritable"):
    """A command's output can't be written, because a disk is full, for example."""


class ProgramMissing(StationError, code="program-missing"):
    """A program that the station needs is not installed."""


class HistoryGone(StationError, code="history-gone"):
    """The events after one are no longer complete; a snapshot replaces them."""


class SubscriberOverflowed(StationError, code="subscriber-overflowed"):
    """A subscriber did not read in time and was closed; it may resume after `last_seq`."""

    def __init__(self, *, last_seq: int) -> None:
        super().__init__(
            f"The subscriber did not keep up with the events after {last_seq}.",
            hint="Resume after that event, or from a snapshot.",
        )
        self.last_seq = last_seq
