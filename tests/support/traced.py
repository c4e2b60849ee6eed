"""A command under strace: which system calls it makes, and some of them failing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.commands import Premises, command

_SECONDS = 180


def need_strace(folder: Path) -> str:
    """The path of strace; skips the test where there is none, or where it may not trace."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    probe = [program, "-f", "--seccomp-bpf", "-o", str(folder / "probe"), "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing may be traced here")
    return program


def traced(
    premises: Premises, calls: str, *arguments: str, inject: str | None = None, paths: Sequence[Path] = ()
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a command, and give its calls in their order, as strace writes them.

    Args:
        premises: Where it runs.
        calls: Which calls ("fsync,rename").
        arguments: The command's.
        inject: What happens instead of them ("error=EIO:when=1").
        paths: Only calls about these; all of them where there is none.
    """
    out = premises.folder / "strace.out"
    line = [need_strace(premises.folder), "-f", "-y", "-s", "512", "-o", str(out)]
    line += ["-e", f"trace={calls}"]
    line += [] if inject is None else ["-e", f"inject={calls}:{inject}"]
    for path in paths:
        line += ["-P", str(path)]
    done = subprocess.run(
        [*line, *command(*arguments)],
        env=dict(premises.environ),
        cwd=premises.folder,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=_SECONDS,
    )
    return done, out.read_text(encoding="utf-8", errors="replace").splitlines()
