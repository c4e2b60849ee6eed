"""uv, the resolver and installer: found by absolute path, new enough, run with nothing it must not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import anyio
from packaging.version import InvalidVersion, Version
from uv import find_uv_bin

from moondream_station.core.facts.errors import ProgramMissing
from moondream_station.core.facts.redact import redact_text
from moondream_station.core.processes.child_environment import child_environment
from moondream_station.core.processes.run import CompletedProcess, run

OLDEST_UV = Version("0.13.9")
"""The version whose locks, installations and messages were measured."""

_QUIET = {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
_VERSION_SECONDS = 30.0
_ANSWER_WORDS = 2


class Uv:
    """A uv that may be used."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = environ

    async def run(
        self, *args: str, cwd: Path | None = None, variables: Mapping[str, str] | None = None
    ) -> CompletedProcess:
        """Run uv to its end. Its configuration files and variables are left out.

        Args:
            *args: Subcommand and arguments.
            cwd: Its working folder; its own one by default, for the station's may be gone.
            variables: What it is to see beside the ordinary ones: indexes, proxies, credentials.
        """
        env = {**child_environment(self._environ), **_QUIET, **(variables or {})}
        return await run([str(self._path), *args, "--no-config"], env=env, cwd=cwd or self._path.parent)


async def find_uv(environ: Mapping[str, str]) -> Uv:
    """The uv that was installed with the station."""
    try:
        path = Path(find_uv_bin())
    except FileNotFoundError as error:
        raise ProgramMissing("uv is not installed beside the station.", hint=_remedy()) from error
    modified_ns = (await anyio.Path(path).stat()).st_mtime_ns
    if not _checked(path, modified_ns):
        await _check_version(path, environ)
        _checked(path, modified_ns).append(True)
    return Uv(path, environ)


@lru_cache(maxsize=8)
def _checked(path: Path, modified_ns: int) -> list[bool]:
    """Whether this very program was asked for its version already: filled once it was."""
    del path, modified_ns
    return []


async def _check_version(path: Path, environ: Mapping[str, str]) -> None:
    completed = await run(
        [str(path), "--version"], env=child_environment(environ), timeout_seconds=_VERSION_SECONDS
    )
    words = completed.stdout.decode(errors="replace").split()
    try:
        version = Version(words[1]) if len(words) >= _ANSWER_WORDS else None
    except InvalidVersion:
        version = None
    if version is None:
        raise ProgramMissing(f"{path} does not say its version.", hint=_remedy(), log=output_of(completed))
    if version < OLDEST_UV:
        raise ProgramMissing(f"uv {version} is too old; {OLDEST_UV} is needed.", hint=_remedy())


def output_of(*runs: CompletedProcess) -> str:
    """Everything that tools said, without credentials, as the journal keeps it."""
    parts: Sequence[str] = [
        text
        for completed in runs
        for text in (
            f"$ {' '.join(completed.argv)}  [exit {completed.returncode}, {completed.seconds:.2f} s]",
            completed.stdout.decode(errors="replace").strip(),
            completed.stderr.decode(errors="replace").strip(),
        )
        if text
    ]
    return redact_text("\n".join(parts))


def _remedy() -> str:
    return f"Install it into the station's environment: python -m pip install 'uv>={OLDEST_UV}'"
