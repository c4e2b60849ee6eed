"""The machine itself: can PyTorch run on it at all, and did every probe answer."""

from __future__ import annotations

import anyio.lowlevel

from moondream_station.core.facts.capabilities import Capabilities, Outcome
from moondream_station.doctor.patient.patient import Patient
from moondream_station.doctor.patient.shared import Unknowable
from moondream_station.doctor.report.findings import Remedy, Verdict, error, ok, warning

_UNKNOWN = {Outcome.FAILED, Outcome.TIMED_OUT}
_SURROUNDINGS = {"wsl2": "WSL2", "jetson": "NVIDIA Jetson"}


async def platform(patient: Patient) -> Verdict:
    """Whether PyTorch has wheels for this platform."""
    planned = await patient.planned.get()
    target = planned.case.target
    facts = ", ".join(_facts(planned.capabilities))
    summary = f"{target.place} ({facts})" if facts else target.place
    if target.platform is None or (target.system == "Linux" and target.glibc is None):
        remedy = Remedy("Run the station on a platform that PyTorch has wheels for.")
        return error(f"PyTorch does not run here: {summary}.", remedy, detail=planned.selection.reason)
    return ok(f"{summary}.")


def _facts(capabilities: Capabilities) -> list[str]:
    facts = [capabilities.cpu_brand, _SURROUNDINGS.get(capabilities.surroundings or "")]
    if capabilities.macos_version:
        facts.append(f"macOS {capabilities.macos_version}")
    else:
        release = f"release {capabilities.release}" if capabilities.release else None
        facts += [release, " ".join(capabilities.libc).strip()]
    return [fact for fact in facts if fact]


async def probes(patient: Patient) -> Verdict:
    """Whether every probe answered."""
    try:
        reports = (await patient.examined.get()).capabilities.probes
    except Unknowable as unknown:
        await anyio.lowlevel.checkpoint()
        remedy = Remedy("Report it: detection is built never to fail as a whole.")
        return warning("This machine could not be detected.", remedy, detail=unknown.reason)
    detail = [
        f"{probe.probe}: {probe.outcome.replace('_', ' ')}, {probe.detail} ({probe.seconds:.1f} s)"
        for probe in reports
    ]
    unanswered = [probe.probe for probe in reports if probe.outcome in _UNKNOWN]
    if unanswered:
        remedy = Remedy(
            "The build was chosen by the other probes. Run a program that does not answer by hand; a file "
            "that can't be read needs a permission."
        )
        return warning(f"Some probes found no answer: {', '.join(unanswered)}.", remedy, detail=detail)
    return ok(f"All {len(reports)} probes answered.", detail)
