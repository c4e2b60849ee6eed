"""What verification has learned of builds on this machine, and for how long it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Build, Capability, Kind, parse_capability
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.events import Mismatch

Format = Literal["moondream-station/trials/1"]

_MOST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What has to change before a build that failed may be worth another try, besides its torch.

    Args:
        nvidia_driver: The NVIDIA driver's version, None without one.
        kernel: The kernel's release, with which the drivers of AMD and Intel come.
        gpus: Each GPU by vendor, name, architecture and driver.
        variables: The variables that choose among them, as NAME=VALUE.
        catalog: Which catalog of builds the station had, by a digest.
    """

    nvidia_driver: str | None
    kernel: str
    gpus: tuple[str, ...]
    variables: tuple[str, ...]
    catalog: str

    @classmethod
    def of(cls, capabilities: Capabilities, catalog: Catalog) -> Circumstances:
        """Those of a machine."""
        gpus = (
            " ".join(filter(None, (gpu.vendor, gpu.name, gpu.architecture, gpu.driver)))
            for gpu in capabilities.gpus
        )
        return cls(
            nvidia_driver=capabilities.nvidia_driver,
            kernel=capabilities.release,
            gpus=tuple(gpus),
            variables=tuple(f"{name}={value}" for name, value in sorted(capabilities.variables.items())),
            catalog=catalog.identity,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What torch reported of itself on this machine, the last time that a build was verified.

    Args:
        build: The build's tag.
        torch: Its version, without a local part.
        at: When, in UTC.
        failure: Why torch did not compute as planned, None where it did.
        device: The device it used.
        arch_list: What it has compiled code for, as torch lists it.
        mismatches: Where its report differs from what was planned or concluded.
        circumstances: What the machine was then.
    """

    build: str
    torch: str
    at: str
    failure: str | None
    device: str | None
    arch_list: tuple[str, ...]
    mismatches: tuple[Mismatch, ...]
    circumstances: Circumstances

    @property
    def day(self) -> str:
        """When, for a sentence."""
        return self.at.partition("T")[0]


@dataclass(frozen=True)
class Trials:
    """The trials of a home, the last one of each build and torch, oldest first."""

    format: Format = "moondream-station/trials/1"
    trials: tuple[Trial, ...] = ()

    def failure(self, build: str, torch: str, circumstances: Circumstances) -> Trial | None:
        """The trial of a build and torch that failed, while nothing has changed since."""
        trial = self._by_wheel.get((build, torch))
        stands = trial is not None and trial.failure is not None and trial.circumstances == circumstances
        return trial if stands else None

    def codes(self, build: Build, torch: Version) -> tuple[Capability, ...]:
        """What a CUDA build of a torch has code for by its own word; empty where that is not known."""
        trial = self._by_wheel.get((build.name, str(torch)))
        names = trial.arch_list if trial is not None and build.kind is Kind.CUDA else ()
        parsed = (parse_capability(_dotted(name)) for name in names if name.startswith("sm_"))
        return tuple(capability for capability in parsed if capability is not None)

    def with_trial(self, trial: Trial) -> Trials:
        """The same with another one; itself where that says nothing new of the build.

        What worked under the same circumstances and does not now is another matter: a damaged environment.
        """
        before = self._by_wheel.get((trial.build, trial.torch))
        if before is not None and before.circumstances == trial.circumstances:
            is_known = replace(before, at=trial.at) == trial
            if is_known or (before.failure is None and trial.failure is not None):
                return self
        others = tuple(other for other in self.trials if other is not before)
        return Trials(trials=(*others, trial)[-_MOST:])

    @cached_property
    def _by_wheel(self) -> Mapping[tuple[str, str], Trial]:
        return {(trial.build, trial.torch): trial for trial in self.trials}


NO_TRIALS: Final = Trials()


def _dotted(name: str) -> str:
    """The capability that torch calls "sm_90a", as "9.0"."""
    digits = name.removeprefix("sm_").rstrip("af")
    return f"{digits[:-1]}.{digits[-1:]}"
