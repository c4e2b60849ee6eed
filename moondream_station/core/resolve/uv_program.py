"""uv, the resolver and installer: found by absolute path, new enough, run with nothing it must not see."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from packaging.version import InvalidVersion, Version
from uv import find_uv_bin

from moondream_station.core.facts.errors import IndexUnreachable, ProgramMissing
from moondream_station.core.facts.redact import redact_text, redact_url, without_credentials
from moondream_station.core.fetch.retry import AttemptFailed, Patience, ask
from moondream_station.core.home.task_groups import accompanied, together
from moondream_station.core.processes.child_environment import child_environment
from moondream_station.core.processes.run import CompletedProcess, run

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


class Uv:
    """A uv that may be used."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ

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
        env = {**child_environment(self._environ), **_QUIET, **(variables or {})}
        argv, folder = [str(self._path), *args, "--no-config"], cwd or self._path.parent
        return await run(argv, env=env, cwd=folder, on_stderr_line=on_stderr_line)


async def find_uv(environ: Mapping[str, str]) -> Uv:
    """The uv that was installed with the station."""
    try:
        path = Path(find_uv_bin())
    except FileNotFoundError as error:
        raise ProgramMissing("uv is not installed beside the station.", hint=_REMEDY) from error
    modified_ns = (await anyio.Path(path).stat()).st_mtime_ns
    if (path, modified_ns) not in _checked:
        await _check_version(path, environ)
        _checked.add((path, modified_ns))
    return Uv(path, environ)


_checked = set[tuple[Path, int]]()
"""The programs that were asked for their version already."""


async def _check_version(path: Path, environ: Mapping[str, str]) -> None:
    completed = await run(
        [str(path), "--version"], env=child_environment(environ), timeout_seconds=_VERSION_SECONDS
    )
    try:
        version = Version(completed.stdout.decode(errors="replace").split()[1])
    except (IndexError, InvalidVersion) as error:
        log = output_of(completed)
        raise ProgramMissing(f"{path} does not say its version.", hint=_REMEDY, log=log) from error
    if version < OLDEST_UV:
        raise ProgramMissing(f"uv {version} is too old; {OLDEST_UV} is needed.", hint=_REMEDY)


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
