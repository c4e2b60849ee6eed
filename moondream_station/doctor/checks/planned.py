"""Which build the machine would get, by the catalog or by the indexes, and what would change it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.naming import Build, Kind, parse_build
from moondream_station.core.builds.offers import Offer
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.selection import Selection
from moondream_station.core.resolve.interpreter import OLDEST_PYTHON
from moondream_station.core.selection.advice import ANY_DRIVER, doubts, idle_gpu_warnings, lowest_driver
from moondream_station.core.selection.request import OVERRIDABLE, BuildRequest, Case
from moondream_station.core.selection.select import select
from moondream_station.core.selection.verdicts import judge


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A choice, with the case that it was made from."""

    case: Case
    selection: Selection

    @property
    def request(self) -> BuildRequest:
        """What the build was chosen for."""
        return self.case.request

    @property
    def capabilities(self) -> Capabilities:
        """The machine."""
        return self.request.capabilities

    @property
    def build(self) -> Build | None:
        """The build that would be installed, None where none could be."""
        return parse_build(self.selection.build) if self.selection.build else None

    @property
    def kind(self) -> Kind | None:
        """What it would compute on."""
        return self.build.kind if self.build else None

    @property
    def forced(self) -> Build | None:
        """The build that the strategy names, None where it leaves the choice."""
        return parse_build(self.request.strategy)

    @property
    def refusal(self) -> str | None:
        """What speaks against a build that was chosen by name, None where nothing does."""
        refusal = judge(self.forced, self.case).refusal if self.forced else None
        return refusal.reason if refusal and refusal.obstacle in OVERRIDABLE else None

    @property
    def idle_gpus(self) -> tuple[str, ...]:
        """A sentence about each GPU that will not be used, with what would change it."""
        if self.build is None or self.forced is not None:
            return ()
        return idle_gpu_warnings(judge(self.build, self.case), self.case)

    @property
    def doubts(self) -> tuple[str, ...]:
        """A sentence about each kind of GPU that could not be detected for certain."""
        return doubts(self.case) if self.kind is Kind.CPU and self.forced is None else ()

    @property
    def needed_driver(self) -> str | None:
        """The NVIDIA driver that the build needs, None where that is not known."""
        gpus = self.case.hardware.of_kind(Kind.CUDA).gpus
        return self.case.hardware.needed_driver(self.build, gpus) if self.build else None

    def with_newest_driver(self) -> Planned:
        """The choice if the NVIDIA driver were the newest that there could be."""
        capabilities = replace(self.capabilities, nvidia_driver=ANY_DRIVER)
        return plan_for(replace(self.request, capabilities=capabilities))

    def lowest_driver(self) -> str | None:
        """The lowest NVIDIA driver with which a CUDA build is possible here, None where none makes it so."""
        needed = lowest_driver(self.case)
        return needed[0] if needed else None

    def other_pythons(self) -> tuple[str, ...]:
        """The Pythons that the station runs on and something could be installed for, oldest first."""
        known = {python for row in load_catalog().rows for python in row.pythons if not python.endswith("t")}
        return tuple(
            python
            for python in sorted(known, key=_numbers)
            if _numbers(python) >= OLDEST_PYTHON
            and plan_for(replace(self.request, python=python)).selection.build
        )


def plan_for(request: BuildRequest, offers: Iterable[Offer] | None = None) -> Planned:
    """Choose a build, without asking anybody; from the catalog unless offers are given."""
    offers = request.catalog_offers() if offers is None else tuple(offers)
    return Planned(case=Case.of(request, offers), selection=select(request, offers).selection)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
