"""What verification has learned, kept in the home: `trials.json`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import get_args

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.builds.trials import NO_TRIALS, Circumstances, Format, Trial, Trials
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.codec import time_to_text, to_json
from moondream_station.core.facts.errors import StationError
from moondream_station.core.facts.printable import printable
from moondream_station.core.home.layout import Home
from moondream_station.core.home.log import Log
from moondream_station.core.home.storage import read_record, write_record
from moondream_station.core.worker.verification import Verification, WorkerPlan

_FAILURE_CHARACTERS = 500

_log = Log()


def read_trials(home: Home) -> Trials:
    """What was learned; nothing where the file is missing or damaged, which the doctor tells."""
    try:
        return load_trials(home)
    except (OSError, ValueError) as error:
        _log.debug("trials_ignored", path=str(home.trials), reason=str(error))
        return NO_TRIALS


def load_trials(home: Home) -> Trials:
    """What was learned; OSError or ValueError where the file can't be used."""
    return read_record(home.trials, Trials, get_args(Format)[0]) or NO_TRIALS


def learn(
    home: Home,
    plan: WorkerPlan,
    verification: Verification | None,
    failure: str | None,
    capabilities: Capabilities,
    catalog: Catalog,
) -> None:
    """Keep what a verification came to, None for one that did not answer; of the CPU's builds nothing."""
    parsed = parse_build(plan.build or "")
    if parsed is None or parsed.kind is Kind.CPU or plan.torch is None:
        return
    report = verification.report if verification else None
    trial = Trial(
        build=parsed.name,
        torch=plan.torch.partition("+")[0],
        at=time_to_text(datetime.now(UTC)),
        failure=printable(failure)[:_FAILURE_CHARACTERS] if failure else None,
        device=report.device if report else None,
        arch_list=report.arch_list if report else (),
        mismatches=verification.mismatches if verification else (),
        circumstances=Circumstances.of(capabilities, catalog),
    )
    before = read_trials(home)
    after = before.with_trial(trial)
    if after is before:
        return
    try:
        write_record(home, home.trials, f"{json.dumps(to_json(after), indent=2)}\n")
    except (OSError, StationError) as error:  # without it, the next choice is the same as this one
        _log.warning("trial_not_kept", path=str(home.trials), reason=str(error))
