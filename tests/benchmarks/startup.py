"""How long `moondream-station --version` takes as a whole process, beside its predecessor's.

Run it as a program: `python tests/benchmarks/startup.py`. The predecessor, 0.1, is installed from PyPI into a
temporary virtual environment. It asks a question before it answers anything, and is given no answer: its time
is that of getting there. Both run in turn; medians and ratio are printed. Aim: at most a fifth.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_RUNS = 10
_PREDECESSOR = "moondream-station==0.1.9"


def seconds(command: list[str], home: Path) -> float:
    """Wall-clock seconds of one process."""
    began = time.perf_counter()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", _PREDECESSOR]
        subprocess.run(pip, check=True)
        before = [str(folder / "venv" / "bin" / "moondream-station"), "--version"]
        ours = [sys.executable, "-m", "moondream_station", "--version"]
        times = [(seconds(ours, folder), seconds(before, folder)) for _ in range(_RUNS + 1)][1:]
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"this station  {mine:.3f} s")  # noqa: T201  the result
    print(f"predecessor   {theirs:.3f} s")  # noqa: T201
    print(f"ratio         {mine / theirs:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
