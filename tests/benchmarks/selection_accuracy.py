"""How many choices would work: the station, the peers that can be installed, and the guide's table.

    python tests/benchmarks/selection_accuracy.py [--wrong] [--json]

Every recorded machine of tests/machines, with three requirements each, is put to each of them;
accuracy/works.py says what would become of the choice. The peers are installed from the configured package
index into a temporary environment. It takes a few minutes. What a peer is given:

- torchruntime: the PCI ids of the display devices, as `lspci -nn` or Windows list them; then pip's newest
  from the index that it names.
- light-the-torch: a program `nvidia-smi` that tells the driver, where the recorded one does; then pip's
  newest from the first of its backends that has one, PyPI where none has.
- uv: `uv pip compile --torch-backend auto` for the recorded platform and Python against a stand-in for the
  index, with UV_CUDA_DRIVER_VERSION or UV_AMD_GPU_ARCHITECTURE as its own probes would have read them (AMD
  as if ROCm's programs were installed). It has no variable for Intel: where it would see only an Intel
  display device, it is asked for `xpu`, and where it would see nothing, for `cpu`, which is what `auto` does
  then. It can't be asked for free-threaded Pythons.
- the guide's table: the CUDA version of nvidia-smi's header; then pip's newest from the index that it names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a program: find `support`

from benchmarks.accuracy.participants import by_guide, by_light_the_torch, by_station, by_torchruntime
from benchmarks.accuracy.problems import NOT_ASKED, Choice, Problem, problems
from benchmarks.accuracy.uv_participant import NotAnsweredError, by_uv
from benchmarks.accuracy.works import Judgement, judge


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one participant's choices."""

    name: str
    judgements: tuple[tuple[Problem, Judgement], ...]

    @property
    def asked(self) -> int:
        """How many choices it was asked for."""
        return len(self.judgements)

    @property
    def works(self) -> int:
        """How many would work."""
        return sum(one.works for _, one in self.judgements)

    @property
    def newest(self) -> int:
        """How many are the newest torch that would work."""
        return sum(one.is_newest for _, one in self.judgements)


def main() -> None:
    """Ask everybody, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wrong", action="store_true", help="list every choice that would not work")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args()
    asked = problems()
    with tempfile.TemporaryDirectory() as name:
        results, missing = _results(asked, Path(name))
    if options.json:
        shown = {one.name: {"choices": one.asked, "work": one.works, "newest": one.newest} for one in results}
        _say(json.dumps({"participants": shown, "left_out": missing}))
        return
    machines = len({problem.case.name for problem in asked})
    _say(f"{machines} machines, {len(asked)} choices\n")
    _say(f"{'':<22}{'asked':>8}{'would work':>18}{'newest that works':>22}")
    for one in results:
        works, newest_ones = _share(one.works, one.asked), _share(one.newest, one.asked)
        _say(f"{one.name:<22}{one.asked:>8}{works:>18}{newest_ones:>22}")
    for peer, why in missing.items():
        _say(f"{peer:<22} is left out: {why}")
    if options.wrong:
        _print_wrong(results)


def _results(asked: Sequence[Problem], folder: Path) -> tuple[list[Result], dict[str, str]]:
    ways: dict[str, Callable[[], list[Choice]]] = {
        "the station": lambda: by_station(asked),
        "the guide's table": lambda: by_guide(asked),
        "uv": lambda: by_uv(asked, folder),
    }
    python, missing = _install_peers(folder, ("torchruntime", "light-the-torch"))
    if "torchruntime" not in missing:
        ways["torchruntime"] = lambda: by_torchruntime(python, asked)
    if "light-the-torch" not in missing:
        ways["light-the-torch"] = lambda: by_light_the_torch(python, asked, folder)
    results = []
    for name, choose in ways.items():
        try:
            choices = choose()
        except NotAnsweredError as error:
            missing[name] = str(error)
            continue
        judgements = (
            (problem, judge(choice, problem.reality, problem.requirement))
            for choice, problem in zip(choices, asked, strict=True)
            if choice != NOT_ASKED
        )
        results.append(Result(name, tuple(judgements)))
    return results, missing


def _install_peers(folder: Path, names: Sequence[str]) -> tuple[Path, dict[str, str]]:
    """An environment with the peers, and why those that are missing could not be installed."""
    venv.create(folder / "peers", with_pip=True)
    python = folder / "peers" / ("Scripts" if os.name == "nt" else "bin") / "python"
    missing = {}
    for name in names:
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", name]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            missing[name] = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    return python, missing


def _say(text: str) -> None:
    print(text)  # noqa: T201  the result


def _share(count: int, asked: int) -> str:
    return f"{count} ({count / asked:.0%})"


def _print_wrong(results: Iterable[Result]) -> None:
    for result in results:
        wrong = [(problem, one) for problem, one in result.judgements if not one.works]
        kinds = Counter(problem.case.name.split("-")[0] for problem, _ in wrong)
        _say(f"\n{result.name}: {', '.join(f'{kind} {count}' for kind, count in kinds.most_common())}")
        for problem, one in wrong:
            _say(f"  {problem.case.name}, {problem.requirement}: {one.why}")


if __name__ == "__main__":
    main()
