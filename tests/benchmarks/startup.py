"""How long commands take as whole processes: `--version` beside its predecessor's, others beside their aims.

Run it as a program: `python tests/benchmarks/startup.py`. The predecessor, 0.1, is installed from PyPI into a
temporary virtual environment. It asks a question before it answers anything, and is given no answer: its time
is that of getting there. All run in turn; medians are printed. Aim: at most a fifth of the predecessor's, and
the seconds below on a quiet machine. With `--against CHECKOUT` another checkout of this repository, in its
`.venv`, takes the predecessor's place, for every command.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_RUNS = 10
_PREDECESSOR = "moondream-station==0.1.9"
_MODULE = ("-m", "moondream_station")
_AIMS = {"--version": None, "status": 0.15, "models": 0.15, "plan --offline": 0.25, "doctor --offline": 0.5}
"""Seconds, by command."""


def seconds(command: list[str], home: Path) -> float:
    """Wall-clock seconds of one process, begun where no checkout lies: `-m` would take that one's package."""
    began = time.perf_counter()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment, cwd=home
    )
    return time.perf_counter() - began


def _installed(venv: Path) -> list[str]:
    """The predecessor's command, from PyPI."""
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", _PREDECESSOR]
    subprocess.run(pip, check=True)
    return [str(venv / "bin" / "moondream-station")]


def _python_of(checkout: Path) -> Path:
    """Its absolute path: a link that leads elsewhere is not followed."""
    return (checkout / ".venv" / "bin" / "python").absolute()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with another checkout")
    checkout = parser.parse_args().against
    print(f"{'':<18}{'this':>8}{'other':>8}{'ratio':>7}{'aim':>7}")  # noqa: T201  the result
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = _installed(folder / "venv") if checkout is None else [str(_python_of(checkout)), *_MODULE]
        for command, aim in _AIMS.items():
            words = command.split()
            ours = [sys.executable, *_MODULE, *words]
            others = [*before, *words] if checkout is not None or aim is None else None
            runs = [
                (seconds(ours, folder), seconds(others, folder) if others else 0.0) for _ in range(_RUNS + 1)
            ]
            mine, theirs = (statistics.median(column) for column in zip(*runs[1:], strict=True))
            beside = f"{theirs:>6.3f} s{mine / theirs:>7.2f}" if others else " " * 15
            print(f"{command:<18}{mine:>6.3f} s{beside}{f'{aim:>5.2f} s' if aim else '':>7}")  # noqa: T201


if __name__ == "__main__":
    main()
