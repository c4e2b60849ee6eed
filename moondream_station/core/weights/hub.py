"""Asks Hugging Face's hub what a model's weights take, and whether they can be downloaded.

The backend downloads them, with the hub's own client in its environment. Here the hub is asked before that
environment exists, so that nobody installs gigabytes for weights that are out of reach.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlsplit

import anyio
import anyio.to_thread

from moondream_station.core.facts.errors import NetworkFault, WeightsUnreachable
from moondream_station.core.facts.redact import is_malformed, redact_url
from moondream_station.core.fetch.retry import Answer, AttemptFailed, Patience, ask
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import read_file
from moondream_station.core.home.task_groups import as_raised, together
from moondream_station.core.weights.contents import (
    INDEX,
    LENGTH_BYTES,
    Weights,
    WeightsFile,
    bytes_by_dtype,
    has_header,
    header_bytes,
    loaded_files,
    weights_of,
)
from moondream_station.core.weights.disk import (
    Learned,
    WeightsSource,
    hub_address,
    hub_cache,
    is_offline,
    may_be_there,
    model_cache,
    record_weights,
    recorded_weights,
    weights_on_disk,
)

if TYPE_CHECKING:
    import httpx2

Connect: TypeAlias = Callable[[], Awaitable["httpx2.AsyncClient"]]

_PATIENCE = Patience(
    connect_seconds=4.0, stall_seconds=6.0, silence_seconds=10.0, attempts=2, pause_seconds=0.3
)
"""An answer is worth a little waiting: the download that follows tries for half a minute by itself."""
_ANSWER_SECONDS = 15.0
"""For everything that is asked about a model."""
_NOTICED_SECONDS = 1.0
"""Who waits longer wants to know for what."""
_MAX_BODY_BYTES = 32 << 20
_FIRST_BYTES = 100_000
"""Enough for 97 of 100 headers, by the hub's client (`parse_safetensors_file_metadata`)."""
_AT_ONCE = 8
_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_OUT_OF_REACH = {NetworkFault.NAME_UNKNOWN, NetworkFault.NO_NETWORK, NetworkFault.REFUSED}
_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}


async def learn(
    source: WeightsSource,
    *,
    home: Home,
    environ: Mapping[str, str],
    connect: Connect,
    slow: Callable[[], object] = lambda: None,
) -> Learned:
    """What a folder, the hub's cache or the hub itself says of weights; `slow` is told where that takes long.

    A whole snapshot answers for the hub, where it is what will be loaded, and where the hub is silent.
    """
    there = await anyio.to_thread.run_sync(weights_on_disk, source, environ)
    if there is not None and (source.folder or source.is_pinned or is_offline(environ)):
        return Learned(weights=there)
    is_here = there is not None or await anyio.to_thread.run_sync(may_be_there, source, environ)
    if source.folder is not None:
        failure = None if is_here else _lacking(source.folder)
        return Learned(reason="its folder has no weights in a known form", failure=failure)
    recorded = await anyio.to_thread.run_sync(recorded_weights, source, home, environ)
    hub = await anyio.to_thread.run_sync(_Hub, source, environ)
    if is_offline(environ):
        return Learned(
            weights=recorded,
            reason=f"{_offline_by(environ)} is set",
            failure=None if is_here else hub.offline(),
        )
    try:
        hub.client = await connect()
        with as_raised():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_after_a_while, slow)
                weights = await hub.weights()
                tasks.cancel_scope.cancel()
    except WeightsUnreachable as error:
        is_certain = not is_here and "HF_OIDC_RESOURCE" not in environ  # which gets its client a token
        failure = error if is_certain else None
        return Learned(weights=there or recorded, reason=f"{hub.host} does not give it", failure=failure)
    except AttemptFailed as error:
        failure = None if is_here or not _is_out_of_reach(error) else hub.unreachable(error.reason)
        return Learned(
            weights=there or recorded, reason=f"{hub.host} can't tell: {error.reason}", failure=failure
        )
    await anyio.to_thread.run_sync(record_weights, source, weights, home, environ)
    return Learned(weights=weights)


async def _after_a_while(call: Callable[[], object]) -> None:
    await anyio.sleep(_NOTICED_SECONDS)
    call()


def _lacking(folder: Path) -> WeightsUnreachable:
    if not folder.is_dir():
        return WeightsUnreachable(
            f"The folder {folder} does not exist.", hint="Check `model_id` in the manifest."
        )
    return WeightsUnreachable(
        f"The model in {folder} is incomplete: its config.json or its weights are missing.",
        hint="Copy it again.",
    )


def _is_out_of_reach(failure: AttemptFailed) -> bool:
    """Whether the hub's client will not reach it either: a proxy and certificates it may have of its own."""
    is_mute = failure.fault is NetworkFault.SILENT and failure.is_unreachable
    return failure.fault in _OUT_OF_REACH or is_mute


class _Hub:
    """The hub, asked about one model."""

    client: httpx2.AsyncClient

    def __init__(self, source: WeightsSource, environ: Mapping[str, str]) -> None:
        self._model, self._revision, self._environ = source.repository, source.revision, environ
        self._address = hub_address(environ)
        is_usable = not is_malformed(self._address) and self._address.startswith(("http://", "https://"))
        self._host = urlsplit(self._address).hostname if is_usable else None
        self.host = self._host or "the hub"
        self._token = _token(environ)

    async def weights(self) -> Weights:
        """The files that are loaded, and what they hold.

        Raises:
            WeightsUnreachable: The hub has no such model, or gives it to others alone.
            AttemptFailed: It did not answer, or not usefully.
        """
        if self._host is None:
            raise WeightsUnreachable(
                "HF_ENDPOINT, which names the hub, is not a valid http or https address.",
                hint="Write it as https://HOST, or unset it.",
            )
        try:
            with anyio.fail_after(_ANSWER_SECONDS):
                return await self._weights()
        except TimeoutError as error:
            raise AttemptFailed("it is too slow") from error

    async def _weights(self) -> Weights:
        revision = f"/revision/{quote(self._revision, safe='')}" if self._revision else ""
        answer = await self._get(f"/api/models/{self._model}{revision}?blobs=true")
        if answer.status != HTTPStatus.OK:
            await self._refused(answer)
        commit, listed = _parsed(answer.content)
        index = None
        if INDEX in listed:
            index = (await self._file(commit, INDEX)).content
        try:
            names = loaded_files(listed, index)
        except ValueError as error:
            raise AttemptFailed(str(error)) from error
        if not names:
            raise AttemptFailed("it lists no weights")
        if absent := [name for name in names if name not in listed]:
            raise self._without(absent[0])
        files, headers = [listed[name] for name in names], dict[str, Counter[str]]()
        limiter = anyio.CapacityLimiter(_AT_ONCE)

        async def read(place: int) -> None:
            async with limiter:
                files[place], held = await self._measured(commit, files[place])
            if held is not None:
                headers[files[place].name] = held

        with anyio.move_on_after(_PATIENCE.silence_seconds):
            await together(*(partial(read, place) for place in range(len(files))))
        return weights_of(files, [headers.get(file.name) for file in files], commit)

    async def _measured(self, commit: str, file: WeightsFile) -> tuple[WeightsFile, Counter[str] | None]:
        """A file with its size, and what it holds; this also shows whether the hub gives it."""
        try:
            beginning = await self._file(commit, file.name, _FIRST_BYTES)
        except AttemptFailed:  # another server than the hub's: nothing is certain of it
            return file, None
        whole = beginning.headers.get("Content-Range", "").rpartition("/")[2]
        size_bytes = file.size_bytes or (int(whole) if whole.isdecimal() else beginning.announced_bytes or 0)
        file = WeightsFile(name=file.name, size_bytes=size_bytes, digest=file.digest)
        if not has_header(file.name):
            return file, None
        try:
            end = LENGTH_BYTES + header_bytes(beginning.content)
            content = beginning.content
            if end > len(content):
                content = (await self._file(commit, file.name, end)).content
            return file, bytes_by_dtype(content[LENGTH_BYTES:end], size_bytes)
        except (AttemptFailed, ValueError):  # the backend says what is wrong with it
            return file, None

    async def _file(self, commit: str, name: str, first_bytes: int | None = None) -> Answer:
        """A file, or its beginning."""
        path = f"/{self._model}/resolve/{commit}/{quote(name)}"
        headers = {} if first_bytes is None else {"Range": f"bytes=0-{first_bytes - 1}"}
        answer = await self._get(path, headers)
        if answer.status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            return answer
        if answer.status == HTTPStatus.NOT_FOUND:
            raise self._without(name)
        raise self._in_words(answer)

    async def _get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        own = {"Accept-Encoding": "identity", **(headers or {})}
        if self._token is not None:
            own["Authorization"] = f"Bearer {self._token}"  # taken off where a redirect leaves this host
        url = f"{self._address}{path}"
        return await ask(self.client, url, _PATIENCE, headers=own, most_bytes=_MAX_BODY_BYTES)

    async def _refused(self, answer: Answer) -> None:
        """Raise for a model that the hub does not describe.

        A mirror may have files and no descriptions: without the hub's own code for it, a file is asked for.
        """
        if answer.status not in _REFUSED:
            raise AttemptFailed(f"it answered {answer.status}")
        if "X-Error-Code" not in answer.headers:
            revision = quote(self._revision or "main", safe="")
            file = await self._get(f"/{self._model}/resolve/{revision}/config.json")
            if file.status not in _REFUSED:
                raise AttemptFailed(f"it answered {answer.status}")
        raise self._in_words(answer)

    def offline(self) -> WeightsUnreachable:
        """The error for weights that are not here, where the hub may not be asked."""
        return WeightsUnreachable(
            f"{self._model} is not downloaded, and {_offline_by(self._environ)} is set.",
            hint=f"Unset it once, or copy the model into the cache, {hub_cache(self._environ)}.",
        )

    def unreachable(self, reason: str) -> WeightsUnreachable:
        """The error for a hub that nobody reaches."""
        return WeightsUnreachable(
            f"{self._model} is not available from {self.host}: {reason}.",
            hint="Check the network and the proxy; or set HF_ENDPOINT to a mirror, or let `model_id` name"
            " a folder.",
        )

    def _without(self, name: str) -> WeightsUnreachable:
        return WeightsUnreachable(
            f"{self.host} does not have {name}, which {self._model} needs.",
            hint="Check `model_id` and `revision` in the manifest, or the mirror that HF_ENDPOINT names.",
        )

    def _in_words(self, answer: Answer) -> WeightsUnreachable:
        """What a refusal says, by the hub's code for it (huggingface_hub, `hf_raise_for_status`)."""
        code, page = answer.headers.get("X-Error-Code"), f"{redact_url(self._address)}/{self._model}"
        is_anonymous = self._token is None and answer.status == HTTPStatus.UNAUTHORIZED
        if code == "GatedRepo":
            message = f"{self.host} gives {self._model} only to accounts that have accepted its terms."
            hint = f"Accept them at {page}, and set HF_TOKEN to a token of that account."
        elif code == "RevisionNotFound":
            message = f"{self._model} has no revision {self._revision} on {self.host}."
            hint = "The manifest's args name the revision."
        elif code == "RepoNotFound" or answer.status == HTTPStatus.NOT_FOUND or is_anonymous:
            message = f"There is no model {self._model} on {self.host}, or it is private."
            hint = "Check `model_id` in the manifest; for a private one set HF_TOKEN."
        else:
            why = "the token is not accepted, or may not read this model"
            message = f"{self._model} is not available from {self.host}: it answered {answer.status}: {why}."
            hint = f"Check HF_TOKEN, and your access at {page}."
        return WeightsUnreachable(message, hint=hint)


def _offline_by(environ: Mapping[str, str]) -> str:
    return "HF_HUB_OFFLINE" if environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"


def _parsed(content: bytes) -> tuple[str, dict[str, WeightsFile]]:
    """The commit, and the files by their name, of what the hub says of a model."""
    try:
        said: dict[str, Any] = json.loads(content)
        files = [_file_of(entry) for entry in said["siblings"]]
        commit = said["sha"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AttemptFailed("it did not answer as the hub does") from error
    if not isinstance(commit, str) or not re.fullmatch(r"\w{1,64}", commit):
        raise AttemptFailed("it did not answer as the hub does")
    return commit, {file.name: file for file in files}


def _file_of(entry: Mapping[str, Any]) -> WeightsFile:
    lfs = entry.get("lfs") or {}
    size, digest = entry.get("size") or lfs.get("size"), lfs.get("sha256") or entry.get("blobId")
    return WeightsFile(
        name=str(entry["rfilename"]),
        size_bytes=size if isinstance(size, int) and size > 0 else 0,
        digest=digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else None,
    )


def _token(environ: Mapping[str, str]) -> str | None:
    """The user's token for the hub, as its client finds it (huggingface_hub, utils/_auth.py)."""
    if (environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN") or "").lower() in {"1", "on", "yes", "true"}:
        return None
    token = environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN") or ""
    if not token.strip():
        named = environ.get("HF_TOKEN_PATH")
        path = Path(named) if named else model_cache(environ)[0] / "token"
        try:
            token = read_file(path).decode()
        except (OSError, ValueError):
            return None
    token = "".join(token.split())
    return token if token.isascii() and token.isprintable() and token else None
