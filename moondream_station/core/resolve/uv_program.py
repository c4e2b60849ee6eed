"""uv, the resolver and installer: found by absolute path, new enough, run with nothing it must not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
_REMEDY = f"Install it into the station's environment: python -m pip install 'uv>={OLDEST_UV}'"


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


def output_of(*runs: CompletedProcess) -> str:
    """Everything that tools said, without credentials, as the journal keeps it."""
    parts: list[str] = []
    for done in runs:
        parts.append(f"$ {' '.join(done.argv)}  [exit {done.returncode}, {done.seconds:.2f} s]")
        parts += [
            said for pipe in (done.stdout, done.stderr) if (said := pipe.decode(errors="replace").strip())
        ]
    return redact_text("\n".join(parts))
