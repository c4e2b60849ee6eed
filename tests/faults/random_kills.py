"""Kills at random instants, and what was left of them: `python tests/faults/random_kills.py --kills 500`.

Each round a switch to a newer torch begins, and after a random time the station, or one of the processes that
it has started, is killed (or interrupted, or terminated). Then no process may be left, what `active.json`
names must be whole. In every tenth round and in the last one the whole of `support/survival.py` is gone
through: the model answers, the next switch succeeds and fetches little, `prune` leaves nothing. A tally by
stage is printed at the end; the first thing that does not hold ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import logging
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import anyio
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from moondream_station.core.bus.journal import activations, read_activation
from moondream_station.core.environments.store import Committed, check_whole, load_commit, place_of
from moondream_station.core.facts.errors import StationError
from moondream_station.core.facts.events import ActivationSucceeded, StageStarted
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.log import set_up_logging
from support.commands import command, switch
from support.index_traffic import Fault
from support.posix import SIGKILL
from support.stations import Premises, open_premises, processes_naming
from support.survival import Survival, descendants, gone

_SIGNALS = (SIGKILL, SIGKILL, SIGKILL, signal.SIGTERM, signal.SIGINT)
_SIZE = 3_000_000
_THOROUGH = 10
_END_SECONDS = 60


class Rounds:
    """Rounds of kills on one home.

    Args:
        premises: Where.
        choice: Makes every choice, so that a seed repeats it.
    """

    def __init__(self, premises: Premises, choice: random.Random) -> None:
        self._premises = premises
        self._choice = choice
        self.tally: Counter[tuple[str, str, str]] = Counter()
        self._seconds = self._measured()

    def _measured(self) -> float:
        """How long a switch takes that is not disturbed."""
        self._offer(0)
        began = time.monotonic()
        self._run_until(None)
        return time.monotonic() - began

    def _offer(self, number: int) -> None:
        """A newer torch, at a pace that makes a fifth of a second of its download."""
        wheel = self._premises.index.add_torch(f"2.10.{number}", "cpu", filler_bytes=_SIZE)
        self._premises.index.faults.append(Fault(match=f"*/{wheel.filename}", bytes_per_second=_SIZE * 5))

    def one(self, number: int, *, is_last: bool) -> None:
        """Kill something at a random instant, and look at what is left.

        Raises:
            AssertionError: Something does not hold.
        """
        premises = self._premises
        self._offer(number)
        survival = Survival.of(premises)
        stage, victim, code = self._run_until(self._choice.uniform(self._seconds * 0.1, self._seconds))
        assert gone(premises.folder), processes_naming(premises.folder)
        anyio.run(check_active_whole, premises)
        survival.check_active()
        outcome = "new one active" if read_active(premises.home) != survival.before else "old one active"
        if number % _THOROUGH == 0 or is_last:
            survival.check(fetched_again_at_most=2 * _SIZE)
        self.tally[stage, victim, f"{outcome}, exit {code}"] += 1

    def _run_until(self, seconds: float | None) -> tuple[str, str, int]:
        """Switch, and kill somebody after that time; gives the stage, whom, and the exit code."""
        argv = command("switch", "colours", "--upgrade")
        victim, before = "nobody", set(activations(self._premises.home))
        with subprocess.Popen(
            argv,
            env=self._premises.environ,
            cwd=self._premises.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            if seconds is not None:
                try:
                    process.wait(seconds)
                except subprocess.TimeoutExpired:
                    victim = self._kill_one(process)
            code = process.wait(_END_SECONDS)
        return stage_since(self._premises, before), victim, code

    def _kill_one(self, process: subprocess.Popen[bytes]) -> str:
        number = self._choice.choice(_SIGNALS)
        others = descendants(process.pid)
        if others and self._choice.random() < 0.4:
            child = self._choice.choice(others)
            try:
                name = child.name()
                child.send_signal(number)
            except psutil.NoSuchProcess:
                return "one just gone"
            return f"{name} {number.name}"
        process.send_signal(number)
        return f"station {number.name}"


async def check_active_whole(premises: Premises) -> None:
    """What `active.json` names is whole.

    Raises:
        EnvironmentBroken: It is not.
    """
    for name in read_active(premises.home).environments:
        place = place_of(premises.home, name)
        record = load_commit(place)
        assert record is not None, f"{name} is named and not committed"
        await check_whole(Committed(place=place, record=record))


def stage_since(premises: Premises, before: set[str]) -> str:
    """The stage that a new activation has come to, by its journal; "before" where none has begun."""
    new = set(activations(premises.home)) - before
    if not new:
        return "before"
    facts = [event.fact for event in read_activation(premises.home, new.pop())]
    if isinstance(facts[-1], ActivationSucceeded):
        return "after"
    return next((str(fact.stage) for fact in reversed(facts) if isinstance(fact, StageStarted)), "before")


def main() -> int:
    """Run the rounds, and print their tally; returns the exit code."""
    set_up_logging(logging.WARNING, lambda: None)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument(
        "--seed", type=int, default=None, help="repeats the choices, not the instants' effect"
    )
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    choice = random.Random(seed)  # noqa: S311  a seed must repeat it
    with tempfile.TemporaryDirectory() as folder, open_premises(Path(folder)) as premises:
        premises.add_model("colours")
        assert switch(premises, "colours")[-1]["event"] == "ActivationSucceeded"
        rounds = Rounds(premises, choice)
        failure = None
        for number in range(1, arguments.kills + 1):
            try:
                rounds.one(number, is_last=number == arguments.kills)
            except (AssertionError, StationError) as error:
                failure = f"round {number}: {''.join(traceback.format_exception(error))}"
                break
        sys.stdout.write(_table(rounds.tally, seed))
    if failure is not None:
        sys.stdout.write(failure)
    return 0 if failure is None else 1


def _table(tally: Counter[tuple[str, str, str]], seed: int) -> str:
    rows = [
        f"{count:>5}  {stage:<9} {victim:<28} {outcome}"
        for (stage, victim, outcome), count in sorted(tally.items())
    ]
    return "\n".join([*rows, f"{tally.total():>5}  in all, seed {seed}", ""])


if __name__ == "__main__":
    raise SystemExit(main())
