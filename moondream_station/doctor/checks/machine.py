"""The machine itself: can PyTorch run on it at all, and did every probe answer."""

from __future__ import annotations

import anyio.lowlevel

from moondream_station.core.facts.capabilities import Capabilities, Outcome, ProbeReport
from moondream_station.doctor.patient.check import Check
from moondream_station.doctor.patient.patient import Patient
from moondream_station.doctor.patient.shared import Unknowable
from moondream_station.doctor.report.findings import Remedy, Section, Verdict, error, ok, warning

_UNKNOWN = {Outcome.FAILED, Outcome.TIMED_OUT}
_SURROUNDINGS = {"wsl2": "WSL2", "jetson": "NVIDIA Jetson"}


async def _platform(patient: Patient) -> Verdict:
    planned = await patient.planned.get()
    target, capabilities = planned.case.target, planned.capabilities
    facts = ", ".join(_facts(capabilities))
    summary = f"{target.place} ({facts})" if facts else target.place
    if target.platform is None or (target.system == "Linux" and target.glibc is None):
        remedy = Remedy(text="Run the station on a platform that PyTorch has wheels for.")
        return error(f"PyTorch does not run here: {summary}.", detail=planned.selection.reason, remedy=remedy)
    return ok(f"{summary}.")


def _facts(capabilities: Capabilities) -> list[str]:
    facts = [capabilities.cpu_brand, _SURROUNDINGS.get(capabilities.surroundings or "")]
    if capabilities.macos_version:
        facts.append(f"macOS {capabilities.macos_version}")
    else:
        release = f"release {capabilities.release}" if capabilities.release else None
        facts += [release, " ".join(capabilities.libc).strip()]
    return [fact for fact in facts if fact]


async def _probes(patient: Patient) -> Verdict:
    try:
        looked = await patient.looked.get()
    except Unknowable as unknown:
        await anyio.lowlevel.checkpoint()
        remedy = Remedy(text="Report it: the probes are made never to fail as a whole.")
        return warning("The machine could not be looked at.", detail=unknown.reason, remedy=remedy)
    probes = looked.capabilities.probes
    detail = "\n".join(map(_line, probes))
    unanswered = [probe.probe for probe in probes if probe.outcome in _UNKNOWN]
    if unanswered:
        text = (
            "The choice of a build rests on the other probes. Run a program that does not answer by hand; "
            "what can't be read needs a permission."
        )
        summary = f"Not every probe could find out what it asks: {', '.join(unanswered)}."
        return warning(summary, detail=detail, remedy=Remedy(text=text))
    return ok(f"All {len(probes)} probes answered.", detail=detail)


def _line(probe: ProbeReport) -> str:
    return f"{probe.probe}: {probe.outcome.replace('_', ' ')}, {probe.detail} ({probe.seconds:.1f} s)"


CHECKS = (
    Check(id="machine.platform", section=Section.MACHINE, title="The platform", look=_platform),
    Check(id="machine.probes", section=Section.MACHINE, title="What the machine answers", look=_probes),
)
