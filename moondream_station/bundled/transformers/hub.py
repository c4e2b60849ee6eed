# ruff: noqa: INP001  a backend's folder is no package
"""Files of Hugging Face's hub at one commit, in the hub's own cache; and a sentence for each way to fail."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name, xet_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers
from safetensors import SafetensorError

if (
    int(huggingface_hub.__version__.partition(".")[0]) < 1
):  # it asks with requests until 1.0, with httpx since
    from requests import RequestException
else:
    from httpx import HTTPError as RequestException

constants.DOWNLOAD_CHUNK_SIZE = 1 << 18  # of 10 MB, a connection that breaks sooner would never get further
_wants_xet = not constants.HF_HUB_DISABLE_XET
constants.HF_HUB_DISABLE_XET = True  # by itself the client starts each file at zero with it
# Its own patience is 5 attempts with 300 s of silence each, where HTTPS could go on with what has arrived.
for _name, _value in {"RETRY_MAX_ATTEMPTS": "1", "CONNECT_TIMEOUT": "10s", "READ_TIMEOUT": "20s"}.items():
    os.environ.setdefault(f"HF_XET_CLIENT_{_name}", _value)
ANSWER_SECONDS = 15
"""How long the hub may take to describe a repository."""
PAUSES_SECONDS = (1, 2, 4, 8, 16)
"""Before a download that brought nothing is tried again; one that brought something starts from the first."""
LONGEST_PAUSE_SECONDS = 60
"""A hub that asks to wait longer is not waited for."""
_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")


class Unreachable(Exception):
    """The weights are not available; the station reports the hint, and the cause (one of its codes)."""

    def __init__(self, message: str, hint: str, *, cause: str = "weights-unreachable") -> None:
        super().__init__(message)
        self.hint = hint
        self.cause = cause


def commit_of(repository: str, revision: str | None) -> str:
    """The commit that a branch, a tag or nothing names now, or named last where the hub does not say."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    try:
        return str(HfApi().model_info(repository, revision=revision, timeout=ANSWER_SECONDS).sha)
    except (RequestException, OfflineModeIsEnabled):
        known = known_commit(repository, revision or "main")
        if known is None:
            raise
        return known


def cache_of(repository: str) -> Path:
    """The folder of the hub's cache for a repository."""
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))


def known_commit(repository: str, revision: str) -> str | None:
    """What a branch or tag named when something of it was fetched last."""
    try:
        return (cache_of(repository) / "refs" / revision).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def remember(repository: str, revision: str, commit: str) -> None:
    """Record what a branch or tag names: the hub's client, which is told commits alone, does not."""
    if _COMMIT.fullmatch(revision) or known_commit(repository, revision) == commit:
        return
    ref = cache_of(repository) / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit, encoding="utf-8")


def bring(repository: str, name: str, commit: str, *, sha256: str | None = None, size_bytes: int = 0) -> None:
    """Fetch a file, resuming where a connection broke, and once more where its content is not the hub's.

    With its `sha256` and size also what was interrupted is resumed.
    """
    cache, url = cache_of(repository), hf_hub_url(repository, name, revision=commit)

    def download() -> Path:
        if not (cache / "snapshots" / commit / name).exists():
            # Fails at once; the client's own download waits as long as a hub asks, since 1.x.
            offered = get_hf_file_metadata(url, timeout=ANSWER_SECONDS).xet_file_data
            if sha256 is not None:
                _fill(cache / "blobs" / sha256, url, size_bytes, offered)
        return Path(hf_hub_download(repository, name, revision=commit))  # links what is there

    for _ in range(2):
        if is_intact(_persistently(download, cache)):
            return
        _leave_xet(f"{name} is damaged")
    raise Unreachable(
        f"{name} of {repository} is damaged: its SHA-256 is not the one that the hub names.",
        "A proxy may change what it passes on; try another network, or let `model_id` name a folder.",
    )


def _fill(blob: Path, url: str, size_bytes: int, offered: Any) -> None:
    """Download what a file of the cache lacks. The hub's client itself starts again at zero since 1.x.

    `offered` is what Xet's protocol needs to know of the file, None where the hub does not have it.
    """
    lock = Path(constants.HF_HUB_CACHE, ".locks", blob.parent.parent.name, f"{blob.name}.lock")
    for folder in (lock.parent, blob.parent):
        folder.mkdir(parents=True, exist_ok=True)
    unfinished = blob.with_name(f"{blob.name}.incomplete")
    with WeakFileLock(lock):
        if blob.exists():
            return
        if _wants_xet and offered is not None and not (unfinished.exists() and unfinished.stat().st_size):
            _begin_by_xet(unfinished, offered, size_bytes)
        with unfinished.open("ab") as file:
            if file.tell() > size_bytes:
                file.truncate(file.seek(0))
            http_get(url, file, resume_size=file.tell(), headers=build_hf_headers(), expected_size=size_bytes)
        unfinished.replace(blob)


def _begin_by_xet(unfinished: Path, offered: Any, size_bytes: int) -> None:
    """Fetch a file by Xet's protocol, as far as that gets: it writes from the front, so HTTPS can go on."""
    try:
        xet_get(
            incomplete_path=unfinished,
            xet_file_data=offered,
            headers=build_hf_headers(),
            expected_size=size_bytes,
        )
    except Exception as error:  # noqa: BLE001  Xet's client raises what it likes
        _leave_xet(re.sub(r"\?\S+", "", _reason(error)))  # without the signatures of its URLs


def _leave_xet(reason: str) -> None:
    global _wants_xet  # noqa: PLW0603  as the client's own switch, it holds for the process
    if _wants_xet:
        sys.stderr.write(f"Xet failed ({reason}); HTTPS is used instead\n")  # the model's log
    _wants_xet = False


def _persistently(download: Callable[[], Path], cache: Path) -> Path:
    """Try again after failures that pass, until the pauses are over without a byte more."""
    pauses, seen = iter(PAUSES_SECONDS), _stored_bytes(cache)
    while True:
        try:
            return download()
        except RequestException as error:
            asked_seconds = _retry_after(error)
            if not _is_passing(error) or asked_seconds > LONGEST_PAUSE_SECONDS:
                raise
            size = _stored_bytes(cache)
            if size > seen:
                pauses, seen = iter(PAUSES_SECONDS), size
            pause = next(pauses, None)
            if pause is None:
                raise
            pause = max(pause, asked_seconds)
            sys.stderr.write(f"{_reason(error)}; trying again in {pause} s\n")  # the model's log
            time.sleep(pause)


def _is_passing(error: Exception) -> bool:
    """Whether the same request may be answered later: nobody answered, or with 429 or 5xx."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    if response is None:
        return not constants.HF_HUB_OFFLINE
    status: int = response.status_code
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _retry_after(error: Exception) -> int:
    """How long the hub asks to wait; 0 where it does not say, or names a date."""
    asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return int(asked) if asked.isdecimal() else 0


def is_intact(path: Path) -> bool:
    """Whether a file of the cache has the SHA-256 that its content is stored under; if not it is removed.

    Only large files are stored under one (in Git LFS). Each is read once. What is stored may itself be a link
    into a store that repositories share (1.33 makes one); files have other names there, and stay.
    """
    blob = path.parent / path.readlink() if path.is_symlink() else path
    if not _SHA256.fullmatch(blob.name):
        return True
    status, mark = blob.stat(), blob.parent.parent / "checked" / blob.name
    state = f"{status.st_size} {status.st_mtime_ns}"
    if mark.is_file() and mark.read_text(encoding="utf-8") == state:
        return True
    with blob.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == blob.name:
            with suppress(OSError):  # in a cache that is read-only it is read each time
                mark.parent.mkdir(exist_ok=True)
                mark.write_text(state, encoding="utf-8")
            return True
    path.unlink()
    blob.unlink(missing_ok=True)
    return False


def _stored_bytes(cache: Path) -> int:
    total = 0
    for path in (cache / "blobs").glob("*"):
        with suppress(FileNotFoundError):  # finished meanwhile, by another program
            total += path.lstat().st_size
    return total


@contextmanager
def explained(model_id: str, revision: str | None, *, kind: str = "model") -> Iterator[None]:
    """Translate every way in which weights can be missing into what failed and what to do.

    `kind` is what the repository `model_id` is: a model, or the tokenizer that one needs.
    """
    try:
        yield
    except (OSError, RequestException, EntryNotFoundError, HFValidationError, SafetensorError) as error:
        raise _in_words(error, model_id, revision, kind) from error


def _in_words(  # noqa: C901  one case a way to fail
    error: Exception, model_id: str, revision: str | None, kind: str
) -> Unreachable:
    hub = urlsplit(constants.ENDPOINT).hostname
    page = f"{constants.ENDPOINT}/{model_id}"
    if isinstance(error, LocalEntryNotFoundError) and isinstance(
        error.__cause__, (OSError, RequestException)
    ):
        error = error.__cause__  # why it looked for a copy here
    response = getattr(error, "response", None)
    is_local = isinstance(error, LocalEntryNotFoundError)
    match error:
        case GatedRepoError():
            message = f"{hub} gives {model_id} only to accounts that have accepted its terms."
            hint = f"Accept them at {page}, and set HF_TOKEN to a token of that account."
        case RevisionNotFoundError():
            message = f"{model_id} has no revision {revision} on {hub}."
            hint = "The manifest's args name the revision."
        case _ if isinstance(error, OfflineModeIsEnabled) or (is_local and constants.HF_HUB_OFFLINE):
            message = f"{model_id} is not downloaded, and HF_HUB_OFFLINE is set."
            hint = f"Unset it once, or copy the model into the cache, {constants.HF_HUB_CACHE}."
        case EntryNotFoundError() if not is_local:
            path = model_id if response is None else urlsplit(str(response.url)).path
            message = f"{hub} does not have {path.strip('/')}, which {model_id} needs."
            hint = "Check `model_id` and `revision` in the manifest, or the mirror that HF_ENDPOINT names."
        case RepositoryNotFoundError() | HFValidationError():
            message = f"There is no {kind} {model_id} on {hub}, or it is private."
            hint = "Check `model_id` in the manifest; for a private one set HF_TOKEN."
        case SafetensorError():
            message = f"The weights of {model_id} are damaged: {error}."
            hint = "Remove that file, and switch again."
        case OSError(strerror=str(why)) if not isinstance(error, RequestException):
            is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            where = error.filename or constants.HF_HOME
            message = f"{model_id} can't be stored or read: {why}: {where}."
            hint = "Make room, or set HF_HOME to a folder that you can write to."
            return Unreachable(message, hint, cause="no-space" if is_full else "weights-unreachable")
        case _:
            status = getattr(response, "status_code", None)
            reason = _reason(error) if status is None else f"it answered {status}"
            hint = "Check the network and the proxy; or set HF_ENDPOINT to a mirror,"
            hint += " or let `model_id` name a folder."
            if status == HTTPStatus.TOO_MANY_REQUESTS:
                seconds = _retry_after(error)
                reason += ": too many requests"
                wait = f"{seconds} s, as it asks," if seconds else "some minutes"
                hint = f"Wait {wait} and switch again; a token in HF_TOKEN raises the limit."
            elif status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                reason += ": the token is not accepted, or may not read this model"
                hint = f"Check HF_TOKEN, and your access at {page}."
            message = f"{model_id} is not available from {hub}: {reason}."
    return Unreachable(message, hint)


def _reason(error: BaseException) -> str:
    """The innermost cause of a network error: requests and urllib3 wrap it several times."""
    for inner in (*error.args, getattr(error, "reason", None), error.__cause__):
        if isinstance(inner, BaseException):
            return _reason(inner)
    reason = getattr(error, "strerror", None) or str(error)
    return str(reason).strip().partition("\n")[0].rstrip(".")
