"""How long `moondream-station --version` takes as a whole process, beside its predecessor's.

Run it as a program: `python tests/benchmarks/startup.py`. The predecessor, 0.1, is installed from PyPI into a
temporary virtual environment. It asks a question before it answers anything, and is given no answer: its time
is that of getting there. Both run in turn; medians and ratio are printed. Aim: at most a fifth. With
`--against CHECKOUT` another checkout of this repository, in its `.venv`, takes the predecessor's place.
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


def seconds(command: list[str], home: Path) -> float:
    """Wall-clock seconds of one process."""
    began = time.perf_counter()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment)
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = _installed(folder / "venv") if checkout is None else [str(_python_of(checkout)), *_MODULE]
        before.append("--version")
        ours = [sys.executable, *_MODULE, "--version"]
        times = [(seconds(ours, folder), seconds(before, folder)) for _ in range(_RUNS + 1)][1:]
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"this station  {mine:.3f} s")  # noqa: T201  the result
    print(f"{'predecessor' if checkout is None else 'the other one':<14}{theirs:.3f} s")  # noqa: T201
    print(f"ratio         {mine / theirs:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
