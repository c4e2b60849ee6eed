"""How long installing takes: this station, uv and pip, with the same lock from the same loopback index.

    python tests/benchmarks/install.py [--scale 0.1] [--runs 3] [--link MBIT] [--interrupt] [--real]

Every run begins with nothing: no cache, no environment. The participants take turns (A B C A B C …); medians
are printed, and the median of each turn's ratio to uv. What of this station is counted,
benchmarks/installing/participants.py says: from its lock to the environment that was checked file by file.

`--link` makes the index send no faster than that many Mbit/s over all connections together. `--interrupt`
kills every participant when 80 % of the bytes were sent, and measures the run after that. `--scale 1` is the
whole set: 190 MB, two of 50 MB and twenty small wheels; making it takes half a minute. `--real` installs the
CPU torch of pip's find-links instead. `--against` lets another checkout's station, in its `.venv`, take turns
too. Aim: at most 1.1 times uv's time on loopback, no more than uv's over 1000 Mbit/s or less; after an
interruption a quarter of uv's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a program: find `support`

from benchmarks.installing.participants import MODEL, Participant, Pip, Station, Uv, newest_pip, python_of
from benchmarks.installing.wheels import serve_real_torch, serve_torch_like

from moondream_station.core.resolve.pylock import read_stored_pylock
from support.stations import Premises
from support.torch_index import TorchIndex

_INTERRUPTED_AT = 0.8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="how often each one installs (3)")
    parser.add_argument("--scale", type=float, default=0.1, help="size of the wheels (0.1; 1 is torch's)")
    parser.add_argument("--link", type=float, default=None, metavar="MBIT", help="how fast the index sends")
    parser.add_argument("--interrupt", action="store_true", help="measure the run after a kill at 80 %%")
    parser.add_argument("--real", action="store_true", help="install the CPU torch of pip's find-links")
    parser.add_argument(
        "--without-pip", action="store_true", help="leave pip out: it takes ten times as long"
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure another checkout's too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, TorchIndex() as index:
        _compare(index, Path(name), options)


def _compare(index: TorchIndex, folder: Path, options: argparse.Namespace) -> None:
    wheels = (
        serve_real_torch(index, folder / "wheels") if options.real else serve_torch_like(index, options.scale)
    )
    if wheels is None:
        sys.exit("pip's find-links have no CPU torch for this Python")
    requirements = "\n".join([*wheels.requirements, ""])
    station = Station(premises=_premises(folder / "this", index, requirements))
    lock = station.lock()
    participants: list[Participant] = [station, Uv(folder=folder, lock=lock)]
    if options.against:
        place = _premises(folder / "other", index, requirements)
        python = python_of(options.against)
        participants.append(Station(premises=place, name="the other one", python=python))
    if not options.without_pip:
        pinned = _as_requirements(lock, folder / "requirements.txt")
        newest = newest_pip(folder / "newest-pip")
        participants.append(Pip(folder=folder, requirements=pinned, python=newest))
    index.limit(options.link * 125_000 if options.link else None)
    times: dict[str, list[float]] = {one.name: [] for one in participants}
    for _ in range(options.runs):
        for one in participants:
            one.forget()
            if options.interrupt:
                _interrupt(one, index)
            times[one.name].append(one.install())
            one.forget()
    link = f"a link of {options.link:g} Mbit/s" if options.link else "loopback"
    after = ", after a kill at 80 %" if options.interrupt else ""
    _print(f"{wheels.name}, over {link}{after}, {options.runs} runs", times, station.parts)


def _premises(folder: Path, index: TorchIndex, requirements: str) -> Premises:
    """A place for one station, and the model that it installs."""
    folder.mkdir()
    premises = Premises(folder=folder, index=index)
    premises.add_model(MODEL, requirements=requirements)
    return premises


def _interrupt(one: Participant, index: TorchIndex) -> None:
    total = sum(len(wheel.data) for wheel in index.wheels())
    index.clear_requests()
    one.install(until=lambda: sum(each.bytes_sent for each in index.requests) >= total * _INTERRUPTED_AT)


def _as_requirements(lock: Path, path: Path) -> Path:
    """The lock's wheels, as pip reads them with their hashes."""
    files = read_stored_pylock(lock.read_text()).files
    path.write_text("".join(f"{file.name} @ {file.url} --hash=sha256:{file.sha256}\n" for file in files))
    return path


def _print(title: str, times: Mapping[str, Sequence[float]], parts: Iterable[Mapping[str, float]]) -> None:
    _say(title)
    for name, found in times.items():
        ratio = statistics.median(ours / uvs for ours, uvs in zip(found, times[Uv.name], strict=True))
        spread = " ".join(f"{seconds:.2f}" for seconds in found)
        _say(f"{name:<16}{statistics.median(found):8.2f} s  {ratio:5.2f} of uv's   ({spread})")
    _say("this station's whole switch, of which only the install part is compared:")
    columns: dict[str, list[float]] = {}
    for one in parts:
        for name, seconds in one.items():
            columns.setdefault(name, []).append(seconds)
    for name, seconds_each in columns.items():
        _say(f"  {name:<22}{statistics.median(seconds_each):8.2f} s")


def _say(text: str) -> None:
    print(text)  # noqa: T201  the result


if __name__ == "__main__":
    main()
