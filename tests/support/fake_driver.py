"""An `nvidia-smi` of a test's own: a real program that answers as a recorded one does."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from moondream_station.core.machine.machine import CommandResult
from support.machines import RTX_4090, Card, smi_answers

HANGS = "exec /bin/sleep 600"
"""What a program that never answers does."""


def install_driver(folder: Path, driver: str, cuda: str, *cards: Card, is_old: bool = False) -> Path:
    """Put an `nvidia-smi` there that tells of a driver; of one RTX 4090 where no card is given."""
    return install_program(
        folder, "nvidia-smi", _script(smi_answers(cards or (RTX_4090,), driver, cuda, is_old=is_old))
    )


def install_program(folder: Path, name: str, script: str) -> Path:
    """Put a shell script there as a program."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    return program


def _script(answers: Iterable[CommandResult]) -> str:
    cases = [
        f"  {shlex.quote(' '.join(answer.argv[1:]))})\n/bin/cat <<'END'\n{answer.stdout}END\n"
        f"exit {answer.returncode};;"
        for answer in answers
    ]
    return "\n".join(['case "$*" in', *cases, "  *) exit 1;;", "esac"])
