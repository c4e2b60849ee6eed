"""Lets this interpreter's torch compute, in a process of its own: this one stays free to change torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from moondream_station.core.facts.events import VerificationReport
from moondream_station.core.in_place.running_python import RunningPython
from moondream_station.core.processes.child_environment import child_environment
from moondream_station.core.processes.run import CompletedProcess, run
from moondream_station.core.worker import torch_check
from moondream_station.core.worker.verification import Verification, WorkerPlan, compare, report_from

_SECONDS = 300.0

# Torch, and what it loads, may print: the answer is the last line.
_PROGRAM = """
import json, runpy, sys
report, detail = runpy.run_path(sys.argv[1])["check_torch"](sys.argv[2])
print()
print(json.dumps({"report": report, "detail": detail}))
"""


async def verify_here(python: RunningPython, plan: WorkerPlan, *, environ: Mapping[str, str]) -> Verification:
    """What torch itself reports in this interpreter, held against what should be installed.

    Args:
        python: The interpreter; what it imports from now is what is checked.
        plan: The build, and the torch.
        environ: The user's variables.
    """
    env = child_environment(environ, PYTHONPATH=os.pathsep.join(python.paths))
    argv = [str(python.executable), "-P", "-c", _PROGRAM, torch_check.__file__, plan.build or "cpu"]
    completed = await run(argv, env=env, timeout_seconds=_SECONDS)
    try:
        answer = json.loads(completed.stdout.splitlines()[-1])
        report, detail = report_from(answer["report"]), answer["detail"]
    except (IndexError, KeyError, TypeError, ValueError):
        report, detail = VerificationReport(), _how_it_ended(completed)
    return Verification(report=report, mismatches=compare(plan, report), detail=detail)


def _how_it_ended(completed: CompletedProcess) -> str:
    words = completed.stderr.decode(errors="replace").strip().splitlines()
    ending = f"did not end within {_SECONDS:.0f} s" if completed.timed_out else "ended its process"
    said = f": {words[-1]}" if words else ""
    return f"Importing torch {ending} (exit code {completed.returncode}){said}"
