"""What uv's messages mean, as the station's errors. Measured with uv 0.13.9; others keep uv's words."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from moondream_station.core.facts.errors import (
    BuildFailed,
    EnvironmentBroken,
    HomeUnusable,
    IndexUnreachable,
    NoSpace,
    ResolutionConflict,
    StationError,
)
from moondream_station.core.facts.redact import redact_text, redact_url
from moondream_station.core.fetch.retry import CREDENTIALS_REFUSED
from moondream_station.core.home.space import storage_failure
from moondream_station.core.resolve.lock_project import FAMILY_GROUP, PROJECT

_LOOK = "`moondream-station logs` shows all of uv's output; run the command again."
_SENTENCE_CHARACTERS = 700
_WHOLE_WHEEL = re.compile(
    r"range requests are required, but not supported for: (\S+)"
    r"|Failed to download `([^`]+)` to compute missing hashes"
)
_UNBUILT = re.compile(r"Failed to build `([^`]+)`")
_CAUSE = re.compile(r"^\s*(?:error|cause):\s*(.*)$", re.MULTILINE)
_UNWRITABLE = ("Read-only file system", "Input/output error", "Permission denied (os error")
_QUOTA = "Disk quota exceeded"
_FULL = ("No space left on device", "os error 28", "not enough space on the disk", _QUOTA)

_FETCHED = r"(?:Failed to fetch|Failed to download|error sending request for url)[:\s]+[`(]?([^\s`)]+)"
_UNREACHABLE = "The index at {what} can't be reached: {cause}"
_FAULTS: tuple[tuple[str, type[StationError], str, str], ...] = (
    (
        r"An index URL \((\S+)\) could not be queried due to a lack of valid authentication",
        IndexUnreachable,
        f"The index {{what}} {CREDENTIALS_REFUSED}.",
        "Put them into its URL, into netrc, or into uv's own variables.",
    ),
    (
        rf"{_FETCHED}[\s\S]*certificate",
        IndexUnreachable,
        _UNREACHABLE,
        "Name the certificate authority's file with PIP_CERT, or add it to the system's store.",
    ),
    (_FETCHED, IndexUnreachable, _UNREACHABLE, "Check the network, the proxy and the index's address."),
    (
        r"Received some unexpected (?:JSON|HTML) from `([^`]+)`",
        IndexUnreachable,
        "{what} is not a list of files: {cause}",
        "The index, or something on the way, answers wrongly: try another mirror.",
    ),
    (
        r"Package `([^`]+)` was included as a URL dependency",
        ResolutionConflict,
        "A required package asks for {what} by a URL; only the backend itself may do that.",
        (
            "Add that URL to the backend's requirements and to the manifest's `allow.urls`, or require"
            " another version of the package that wants it."
        ),
    ),
)
"""What of a failure to lock is somebody's fault: never ours, since what uv is given was checked before."""


def wheel_to_fetch(stderr: str) -> str | None:
    """The URL of the wheel that uv would have to fetch whole to go on: it has no metadata, or no hash."""
    match = _WHOLE_WHEEL.search(stderr)
    return match[1] or match[2] if match else None


def is_conflict(stderr: str) -> bool:
    """Whether uv says that no versions go together, rather than that something is not available."""
    return "No solution found" in stderr


def lock_failure(stderr: str, *, log: str, cache: Path) -> StationError:
    """Why uv could not lock, with a cache on some disk."""
    text = redact_text(stderr)
    if (failure := _of_the_disk(text, cache, log)) is not None:
        return failure
    if unbuilt := _UNBUILT.search(text):
        return build_failure(unbuilt[1], text, log=log)
    if is_conflict(text) and not re.search(_FAULTS[0][0], text):
        return ResolutionConflict(_sentence(text), hint=_hint(text), log=log)
    cause = _last_cause(text)
    for pattern, kind, message, hint in _FAULTS:
        if match := re.search(pattern, text):
            what = redact_url(match[1])
            return kind(message.format(what=what, cause=cause), hint=hint, log=log)
    return ResolutionConflict(f"uv could not lock the requirements: {cause}", hint=_LOOK, log=log)


def build_failure(package: str, stderr: str, *, log: str) -> BuildFailed:
    """Why a package could not be built from source."""
    lines = [
        line.strip() for line in redact_text(stderr).partition("\nhint:")[0].splitlines() if line.strip()
    ]
    cause = lines[-1][:_SENTENCE_CHARACTERS] if lines else "no output"
    return BuildFailed(
        f"{package} can't be built from source: {cause}",
        hint="Install what its build needs (a compiler, headers), or ask for a version that has a wheel.",
        log=log,
    )


def install_failure(stderr: str, *, log: str, folder: Path) -> StationError:
    """Why uv could not fill an environment, which lies below a folder."""
    text = redact_text(stderr)
    return _of_the_disk(text, folder, log) or EnvironmentBroken(
        f"uv could not fill the environment: {_last_cause(text)}", hint=_LOOK, log=log
    )


def _of_the_disk(text: str, folder: Path, log: str) -> NoSpace | HomeUnusable | None:
    """The failure, where it is that of the folder's disk."""
    if any(sign in text for sign in _FULL):
        number = errno.EDQUOT if _QUOTA in text else errno.ENOSPC
        full = storage_failure(OSError(number, os.strerror(number)), folder)
        return NoSpace(full.message, hint=full.hint, log=log)
    if not any(sign in text for sign in _UNWRITABLE):
        return None
    return HomeUnusable(
        f"uv could not read or write a file: {_last_cause(text)}",
        hint="Check the disk and its permissions, or set MOONDREAM_STATION_HOME to another folder.",
        log=log,
    )


def _sentence(text: str) -> str:
    """The explanation uv gives, on one line, with names that a user knows for the generated project's."""
    cause = text.partition("cause:")[2].partition("\nhint:")[0] or text
    words = " ".join(cause.split()).replace(f"{PROJECT}:{FAMILY_GROUP}", "the chosen PyTorch build")
    words = words.replace(PROJECT, "the backend").replace("your project", "the backend")
    return words if len(words) <= _SENTENCE_CHARACTERS else f"{words[:_SENTENCE_CHARACTERS]}…"


def _hint(text: str) -> str | None:
    hint = text.partition("\nhint:")[2].strip().partition("\n")[0]
    if "building from source is disabled" in hint:
        return (
            "No wheel fits. Another version or Python (--python) may have one; a manifest may"
            " also allow a package to be built from source, by its name in `allow.builds`."
        )
    return hint or None


def _last_cause(text: str) -> str:
    causes = _CAUSE.findall(text)
    words = str(causes[-1]).strip() if causes else " ".join(text.split())[-_SENTENCE_CHARACTERS:]
    return words or "no output"
