"""Every recorded machine gets the build that its sources call right, and is told why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.accuracy.problems import Problem, problems
from benchmarks.accuracy.works import judge

from moondream_station.core.activation.choice import plan_from_catalog
from moondream_station.core.builds.requirements import parse_requirements
from moondream_station.core.facts.selection import Selection, Verdict
from moondream_station.core.machine.record import RecordedMachine, load_record
from support.gallery import FOLDER, Answer, RecordedCase, recorded_cases

CASES = recorded_cases()
THROUGH_THE_COMMAND = (
    "linux-pascal-gtx1080-580",
    "linux-python314t-rtx4090-580",
    "amd-rx7800xt-gfx1101",
    "windows-intel-arc-a750",
    "mac-m1-rosetta",
)


@pytest.fixture
def anyio_backend() -> str:
    """One event loop is enough here: detecting and planning run on both in `tests/core`."""
    return "asyncio"


def differences(answer: Answer, selection: Selection) -> Iterator[str]:
    """What of a selection is not as it should be."""
    found, wanted = (selection.build, selection.torch), (answer.build, answer.torch)
    if found != wanted:
        yield f"{_named(wanted)} expected, {_named(found)} chosen ({selection.reason})"
    if answer.reason not in selection.reason:
        yield f"reason without {answer.reason!r}: {selection.reason}"
    if answer.warning and not any(answer.warning in warning for warning in selection.warnings):
        yield f"no warning says {answer.warning!r}: {selection.warnings}"
    told = {one.build: one for one in selection.candidates}
    for build, words in answer.rejected.items():
        candidate = told.get(build)
        if candidate is None or candidate.verdict is not Verdict.REJECTED or words not in candidate.reason:
            yield f"{build} is not rejected with {words!r}: {candidate.reason if candidate else 'not there'}"


def _named(choice: tuple[str | None, str | None]) -> str:
    return " ".join(map(str, choice)) if choice[0] else "nothing"


async def plan(case: RecordedCase, requirement: str) -> Selection:
    """What `plan --machine` selects, without the command."""
    record = load_record(case.record)
    requirements = parse_requirements([requirement], origin="the gallery")
    return await plan_from_catalog(requirements, RecordedMachine(record), python=record.platform.python)


@pytest.mark.anyio
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_recorded_machine_gets_the_right_build_and_is_told_why(case: RecordedCase) -> None:
    """Build, version and sentence for each requirement."""
    wrong = [
        f"{case.name}, {answer.requirement}: {difference}"
        for answer in case.answers
        for difference in differences(answer, await plan(case, answer.requirement))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("problem", problems(), ids=lambda it: f"{it.case.name}-{it.requirement}")
def test_the_expected_answers_would_work_by_a_rule_of_their_own(problem: Problem) -> None:
    """The benchmark's judge, written from the sources without the selection's code and data, agrees."""
    answer = next(one for one in problem.case.answers if one.requirement == problem.requirement)
    choice = (answer.build, answer.torch) if answer.build and answer.torch else None
    judgement = judge(choice, problem.reality, problem.requirement)
    assert judgement.works, judgement.why


@pytest.mark.parametrize("name", THROUGH_THE_COMMAND)
def test_the_command_answers_as_the_core_does(name: str, tmp_path: Path) -> None:
    """`plan --machine FILE --json`, exit code included."""
    case = next(case for case in CASES if case.name == name)
    answer = case.answers[0]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "moondream_station", "plan", answer.requirement),
            *("--machine", str(case.record), "--json"),
        ],
        env={**os.environ, "MOONDREAM_STATION_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
    )
    plan = json.loads(done.stdout)
    assert done.returncode == (0 if answer.build else 1)
    assert (plan["build"], plan["torch"]) == (answer.build, answer.torch)
    assert answer.reason in plan["reason"]
    assert plan["requirement"] == [answer.requirement]


def test_every_record_has_its_answers_and_nothing_else_lies_there() -> None:
    """At least 220 machines, three requirements each or more, and no file without its partner."""
    assert len(CASES) >= 220
    expected = {f"{case.name}{suffix}" for case in CASES for suffix in (".json", ".expected.json")}
    assert {path.name for path in FOLDER.iterdir()} == expected
    for case in CASES:
        assert case.about
        assert case.why
        requirements = [answer.requirement for answer in case.answers]
        assert requirements[:3] == ["torch", "torch>=2.7.0", "torch>=2.4,<2.6"]
        assert len({*requirements}) == len(requirements)


def test_no_record_names_a_person_or_a_device() -> None:
    """Neither home folders nor GPU identifiers stand in a record."""
    for case in CASES:
        text = case.record.read_text("utf-8")
        assert "/home/" not in text
        assert "/Users/" not in text
        assert "unique_id" not in text
