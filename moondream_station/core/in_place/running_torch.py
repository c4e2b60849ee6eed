"""The torch of the running interpreter: which wheel it is, and whether it computes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.builds.offers import Offer, offer_from_wheel
from moondream_station.core.environments.packages import Package
from moondream_station.core.facts.events import VerificationReport
from moondream_station.core.in_place.running_python import RunningPython
from moondream_station.core.processes.child_environment import child_environment
from moondream_station.core.processes.run import CompletedProcess, run
from moondream_station.core.worker import torch_check
from moondream_station.core.worker.verification import Verification, WorkerPlan, compare, report_from

_VERIFY_SECONDS = 300.0

# Torch, and what it loads, may print: the answer is the last line.
_PROGRAM = """
import json, runpy, sys
report, detail = runpy.run_path(sys.argv[1])["check_torch"](sys.argv[2])
print()
print(json.dumps({"report": report, "detail": detail}))
"""


def offer_of(torch: Package, catalog: Catalog) -> Offer | None:
    """An installed torch as the wheel it came from; None where its build is not known.

    A version without a local part is PyPI's wheel only if torch's own file names the same CUDA: conda's and
    home-made ones have such versions too.
    """
    offer = offer_from_wheel(torch.wheel or "", catalog=catalog, source="default")
    if offer is None or offer.local is not None:
        return offer
    build = parse_build(offer.build)
    toolkit = build.toolkit if build is not None and build.kind is Kind.CUDA else None
    return offer if _cuda_of(torch) in {None, toolkit or "None"} else None


def _cuda_of(torch: Package) -> str | None:
    """The CUDA that an installed torch was built with, as its version.py has it; None where it doesn't."""
    try:
        text = (torch.metadata.parent / "torch" / "version.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    match = re.search(r"^cuda\b[^=\n]*=\s*(?:'([^']*)'|(None))", text, re.MULTILINE)
    return (match[1] or match[2]) if match else None


async def verify_here(python: RunningPython, plan: WorkerPlan, *, environ: Mapping[str, str]) -> Verification:
    """Let torch compute in a process of its own, so that this one stays free to change torch."""
    env = child_environment(environ, PYTHONPATH=os.pathsep.join(python.paths))
    argv = [str(python.executable), "-P", "-c", _PROGRAM, torch_check.__file__, plan.build or "cpu"]
    completed = await run(argv, env=env, timeout_seconds=_VERIFY_SECONDS)
    try:
        answer = json.loads(completed.stdout.splitlines()[-1])
        report, detail = report_from(answer["report"]), answer["detail"]
    except (IndexError, KeyError, TypeError, ValueError):
        report, detail = VerificationReport(), _how_it_ended(completed)
    return Verification(report=report, mismatches=compare(plan, report), detail=detail)


def _how_it_ended(completed: CompletedProcess) -> str:
    lines = completed.stderr.decode(errors="replace").strip().splitlines()
    ending = f"did not end within {_VERIFY_SECONDS:.0f} s" if completed.timed_out else "ended its process"
    last_line = f": {lines[-1]}" if lines else ""
    return f"Importing torch {ending} (exit code {completed.returncode}){last_line}"
