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
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

# Read at import. Xet's client starts every file again at zero; over plain HTTP a download resumes.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

import requests
from huggingface_hub import HfApi, constants, hf_hub_download
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
from huggingface_hub.file_download import repo_folder_name
from safetensors import SafetensorError

ANSWER_SECONDS = 15
"""How long the hub may take to describe a repository."""
PAUSES_SECONDS = (1, 2, 4, 8, 16)
"""Before a download that brought nothing is tried again; one that brought something starts from the first."""
_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")


class Unreachable(Exception):
    """The weights are not available; the station reports the hint, and the cause (one of its codes)."""

    def __init__(self, message: str, hint: str, *, cause: str = "weights-unreachable") -> None:
        super().__init__(message)
        self.hint = hint
        self.cause = cause


def commit_of(repository: str, revision: str | None) -> str:
    """The commit that a branch, a tag or nothing names now; without an answer, what it named last."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    try:
        return str(HfApi().model_info(repository, revision=revision, timeout=ANSWER_SECONDS).sha)
    except (requests.RequestException, OfflineModeIsEnabled) as error:
        known = known_commit(repository, revision or "main")
        if known is None or (isinstance(error, HfHubHTTPError) and not _is_passing(error)):
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


def bring(repository: str, name: str, commit: str) -> None:
    """Fetch a file, resuming where a connection broke, and once more where its content is not the hub's."""
    for attempt in (1, 2):
        path = Path(
            _persistently(partial(hf_hub_download, repository, name, revision=commit), cache_of(repository))
        )
        if is_intact(path):
            return
        if attempt == 2:  # noqa: PLR2004
            raise Unreachable(
                f"{name} of {repository} is damaged: its SHA-256 is not the one that the hub names.",
                "A proxy may change what it passes on; try another network, or let `model_id` name a folder.",
            )


def _persistently(download: Callable[[], str], cache: Path) -> str:
    """Try again after failures that pass, until the pauses are over without a byte more."""
    pauses, seen = iter(PAUSES_SECONDS), _stored_bytes(cache)
    while True:
        try:
            return download()
        except requests.RequestException as error:
            if not _is_passing(error):
                raise
            size = _stored_bytes(cache)
            if size > seen:
                pauses, seen = iter(PAUSES_SECONDS), size
            pause = next(pauses, None)
            if pause is None:
                raise
            sys.stderr.write(f"{_reason(error)}; trying again in {pause} s\n")  # the model's log
            time.sleep(pause)


def _is_passing(error: requests.RequestException | OfflineModeIsEnabled) -> bool:
    """Whether the same request may be answered later: nobody answered, or with 429 or 5xx."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    if response is None:
        return not constants.HF_HUB_OFFLINE
    status: int = response.status_code
    return status == 429 or status >= 500  # noqa: PLR2004


def is_intact(path: Path) -> bool:
    """Whether a file of the cache has the SHA-256 that its content is stored under; if not it is removed.

    Only large files are stored under one (in Git LFS). Each is read once.
    """
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        return True
    status, mark = blob.stat(), blob.parent.parent / "checked" / blob.name
    state = f"{status.st_size} {status.st_mtime_ns}"
    if mark.is_file() and mark.read_text(encoding="utf-8") == state:
        return True
    with blob.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == blob.name:
            mark.parent.mkdir(exist_ok=True)
            mark.write_text(state, encoding="utf-8")
            return True
    path.unlink()
    blob.unlink(missing_ok=True)
    return False


def _stored_bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in (cache / "blobs").glob("*"))


@contextmanager
def explained(model_id: str, revision: str | None) -> Iterator[None]:
    """Translate every way in which weights can be missing into what failed and what to do."""
    hub = urlsplit(constants.ENDPOINT).hostname
    try:
        yield
    except GatedRepoError as error:
        raise Unreachable(
            f"{hub} gives {model_id} only to accounts that have accepted its terms.",
            f"Accept them at {constants.ENDPOINT}/{model_id}, and set HF_TOKEN to a token of that account.",
        ) from error
    except RevisionNotFoundError as error:
        raise Unreachable(
            f"{model_id} has no revision {revision} on {hub}.", "The manifest's args name the revision."
        ) from error
    except LocalEntryNotFoundError as error:
        raise _from_system(error, model_id, hub) from error
    except EntryNotFoundError as error:
        path = urlsplit(error.response.url).path if error.response is not None else model_id
        raise Unreachable(
            f"{hub} does not have {path.strip('/')}, which {model_id} needs.",
            "Check `model_id` and `revision` in the manifest, or the mirror that HF_ENDPOINT names.",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise Unreachable(
            f"There is no model {model_id} on {hub}, or it is private.",
            "Check `model_id` in the manifest; for a private one set HF_TOKEN.",
        ) from error
    except SafetensorError as error:
        raise Unreachable(
            f"The weights of {model_id} are damaged: {error}.", "Remove that file, and switch again."
        ) from error
    except OSError as error:  # what requests, the hub's client and transformers raise is one
        raise _from_system(error, model_id, hub) from error


def _from_system(error: OSError, model_id: str, hub: str | None) -> Unreachable:
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, OSError):
        error = error.__cause__  # why it looked for a copy here
    if isinstance(error, OfflineModeIsEnabled) or (
        isinstance(error, LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE
    ):
        return Unreachable(
            f"{model_id} is not downloaded, and HF_HUB_OFFLINE is set.",
            f"Unset it once, or copy the model into the cache, {constants.HF_HUB_CACHE}.",
        )
    if error.strerror and not isinstance(error, requests.RequestException):
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        return Unreachable(
            f"{model_id} can't be stored or read: {error.strerror}: {error.filename or constants.HF_HOME}.",
            "Make room, or set HF_HOME to a folder that you can write to.",
            cause="no-space" if is_full else "weights-unreachable",
        )
    response = error.response if isinstance(error, HfHubHTTPError) else None
    hint = "Check the network and the proxy; or set HF_ENDPOINT to a mirror, or let `model_id` name a folder."
    if response is None:
        reason = _reason(error)
    elif response.status_code == 429:  # noqa: PLR2004
        reason = "it answered 429: too many requests"
        hint = "Wait some minutes and switch again; a token in HF_TOKEN raises the limit."
    elif response.status_code in {401, 403}:
        reason = f"it answered {response.status_code}: the token is not accepted, or may not read this model"
        hint = f"Check HF_TOKEN, and your access at {constants.ENDPOINT}/{model_id}."
    else:
        reason = f"it answered {response.status_code}"
    return Unreachable(f"{model_id} is not available from {hub}: {reason}.", hint)


def _reason(error: BaseException) -> str:
    """The innermost cause of a network error: requests and urllib3 wrap it several times."""
    for inner in (*error.args, getattr(error, "reason", None), error.__cause__):
        if isinstance(inner, BaseException):
            return _reason(inner)
    reason = getattr(error, "strerror", None) or str(error)
    return str(reason).strip().partition("\n")[0].rstrip(".")
