"""uv, the resolver and installer: new enough, run with nothing it must not see, and what its messages mean.

The messages were measured with uv 0.13.9; where another says it differently, its own words are kept.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from packaging.version import InvalidVersion, Version
from uv import find_uv_bin

from moondream_station.core.facts.errors import (
    BuildFailed,
    EnvironmentBroken,
    HomeUnusable,
    IndexUnreachable,
    NoSpace,
    ProgramMissing,
    ResolutionConflict,
    StationError,
)
from moondream_station.core.facts.redact import redact_text, redact_url, without_credentials
from moondream_station.core.fetch.retry import CREDENTIALS_REFUSED, AttemptFailed, Patience, ask
from moondream_station.core.home.storage import storage_failure
from moondream_station.core.home.task_groups import accompanied, together
from moondream_station.core.processes.child_process import CompletedProcess, child_environment, run

if TYPE_CHECKING:
    import httpx2

OLDEST_UV = Version("0.13.9")
"""The version whose locks, installations and messages were measured."""

_QUIET = {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
_VERSION_SECONDS = 30.0
_REMEDY = f"Install it into the station's environment: python -m pip install 'uv>={OLDEST_UV}'"
LOG_VARIABLES = {"RUST_LOG": "uv_client::cached_client=debug"}
_ASKED_FOR = re.compile(r"DEBUG Sending (?:fresh GET|revalidation) request for: (\S+)")
_ARCHIVES = (".whl", ".tar.gz", ".zip")

PROJECT = "moondream-station-lock"
"""What the project that uv locks is called, and its group that pins torch: uv's messages name them."""
FAMILY_GROUP = "moondream-station-family"

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
        "A dependency asks for {what} by a URL; only the backend itself may do that.",
        (
            "Add that URL to the backend's requirements and to the manifest's `allow.urls`, or require"
            " another version of the package that wants it."
        ),
    ),
)
"""What of a failure to lock is somebody's fault: never ours, since what uv is given was checked before."""


@dataclass(frozen=True)
class Uv:
    """A uv that may be used."""

    path: Path
    environ: Mapping[str, str]

    async def run(
        self,
        *args: str,
        cwd: Path | None = None,
        variables: Mapping[str, str] | None = None,
        on_stderr_line: Callable[[str], object] = lambda _: None,
    ) -> CompletedProcess:
        """Run uv to its end, without its configuration files and variables, but for those given here.

        Its working folder is its own by default, for the station's may be gone.
        """
        env = {**child_environment(self.environ), **_QUIET, **(variables or {})}
        argv, folder = [str(self.path), *args, "--no-config"], cwd or self.path.parent
        return await run(argv, env=env, cwd=folder, on_stderr_line=on_stderr_line)

    async def fill(
        self,
        *args: str,
        folder: Path,
        variables: Mapping[str, str] | None = None,
        ran: Callable[[tuple[str, ...]], object] = lambda _: None,
    ) -> None:
        """Run uv to fill an environment, which lies below a folder; `ran` takes its command."""
        completed = await self.run(*args, variables=variables)
        ran(completed.argv)
        if completed.returncode != 0:
            stderr = completed.stderr.decode(errors="replace")
            raise install_failure(stderr, log=output_of(completed), folder=folder)


async def find_uv(environ: Mapping[str, str]) -> Uv:
    """The uv that was installed with the station."""
    try:
        path = Path(find_uv_bin())
    except FileNotFoundError as error:
        raise ProgramMissing("uv is not installed beside the station.", hint=_REMEDY) from error
    modified_ns = (await anyio.Path(path).stat()).st_mtime_ns
    if (path, modified_ns) not in _checked:
        env = child_environment(environ)
        completed = await run([str(path), "--version"], env=env, timeout_seconds=_VERSION_SECONDS)
        try:
            version = Version(completed.stdout.decode(errors="replace").split()[1])
        except (IndexError, InvalidVersion) as error:
            log = output_of(completed)
            raise ProgramMissing(f"{path} does not report its version.", hint=_REMEDY, log=log) from error
        if version < OLDEST_UV:
            raise ProgramMissing(f"uv {version} is too old; {OLDEST_UV} is needed.", hint=_REMEDY)
        _checked.add((path, modified_ns))
    return Uv(path, environ)


_checked = set[tuple[Path, int]]()
"""The programs that were asked for their version already."""


async def watched(
    run: Callable[..., Awaitable[CompletedProcess]],
    client: httpx2.AsyncClient,
    patience: Patience,
    *,
    quiet_seconds: float = 10.0,
) -> CompletedProcess:
    """Run uv with `LOG_VARIABLES`, and end it where what it waits for does not come; the log is taken out.

    Uv itself would read a listing that trickles for hours. Once it is quiet, the station asks for the pages
    that its log names. Measured with uv 0.13.9; where another words it differently, its time limits remain.
    """
    waiting, heard_at = set[str](), anyio.current_time()
    # The minute for an address: what uv waited for, and the time that it may have had for its offers.
    rest = replace(patience, silence_seconds=patience.silence_seconds - 2 * quiet_seconds)
    completed: CompletedProcess

    def hear(line: str) -> None:
        nonlocal heard_at
        heard_at = anyio.current_time()
        if (asked := _ASKED_FOR.match(line)) and not asked[1].endswith(_ARCHIVES):
            waiting.add(without_credentials(asked[1]))

    async def call() -> None:
        nonlocal completed
        completed = await run(on_stderr_line=hear)

    async def look(url: str) -> None:
        try:
            await ask(client, url, rest)
        except AttemptFailed as failure:
            raise IndexUnreachable(
                f"The index at {redact_url(url)} can't be reached: {failure}.",
                hint=failure.hint or "Check the network, the proxy and the index's address.",
            ) from failure
        waiting.discard(url)

    async def watch() -> None:
        while True:
            await anyio.sleep(quiet_seconds / 10)
            if anyio.current_time() - heard_at >= quiet_seconds:
                await together(*(partial(look, url) for url in waiting))

    await accompanied(call, watch)
    kept = (line for line in completed.stderr.splitlines(keepends=True) if not line.startswith(b"DEBUG "))
    return replace(completed, stderr=b"".join(kept))


def output_of(*runs: CompletedProcess) -> str:
    """Everything that tools said, without credentials, as the journal keeps it."""
    parts: list[str] = []
    for done in runs:
        parts.append(f"$ {' '.join(done.argv)}  [exit {done.returncode}, {done.seconds:.2f} s]")
        parts += [
            said for pipe in (done.stdout, done.stderr) if (said := pipe.decode(errors="replace").strip())
        ]
    return redact_text("\n".join(parts))


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
        f"uv could not install the packages: {_last_cause(text)}", hint=_LOOK, log=log
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
