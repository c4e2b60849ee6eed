"""What the machine's driver and GPUs can run: the bounds of a build, held against the hardware."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from packaging.version import Version

from moondream_station.core.builds.catalog import Catalog, Codes
from moondream_station.core.builds.naming import Build, Kind, covers, numbers, parse_build, parse_capability
from moondream_station.core.builds.offers import Target
from moondream_station.core.builds.trials import NO_TRIALS, Trials
from moondream_station.core.builds.visibility import InUse, amd_in_use, describe, intel_in_use, nvidia_in_use
from moondream_station.core.facts.capabilities import Capabilities, Gpu

_NOTHING = InUse()


def meets(driver: str, bound: str) -> bool:
    """Whether a driver is at least a bound, in as many numbers as that has: a Thor's "580.00" meets "580"."""
    lowest = numbers(bound)
    return numbers(driver)[: len(lowest)] >= lowest


@dataclass(frozen=True)
class Hardware:
    """A machine's GPUs, asked about builds; NVIDIA's driver is Windows' on WSL2 too.

    `required` are the positions of the GPUs that a build must serve, by kind; without a kind, every one.
    """

    catalog: Catalog
    target: Target
    windows_driver: bool
    in_use: dict[Kind, InUse]
    required: dict[Kind, frozenset[int]]
    trials: Trials = NO_TRIALS
    asks_amd: bool = True

    @classmethod
    def of(
        cls,
        capabilities: Capabilities,
        target: Target,
        catalog: Catalog,
        trials: Trials = NO_TRIALS,
        *,
        asks_amd: bool = True,
    ) -> Hardware:
        """The hardware of a snapshot; `trials` are those of this machine."""
        return cls(
            catalog=catalog,
            target=target,
            windows_driver=capabilities.system == "Windows" or capabilities.surroundings == "wsl2",
            in_use={
                Kind.CUDA: nvidia_in_use(capabilities, catalog),
                Kind.ROCM: amd_in_use(capabilities, catalog),
                Kind.XPU: intel_in_use(capabilities, catalog),
            },
            required={},
            trials=trials,
            asks_amd=asks_amd,
        )

    def of_kind(self, kind: Kind) -> InUse:
        """The GPUs in use that builds of a kind could run on."""
        return self.in_use.get(kind, _NOTHING)

    def requiring(self, kind: Kind, positions: frozenset[int]) -> Hardware:
        """The same, where builds of a kind need to serve these GPUs only."""
        return replace(self, required={**self.required, kind: positions})

    def required_gpus(self, kind: Kind) -> tuple[Gpu, ...]:
        """The GPUs that a build of a kind must serve."""
        gpus = self.of_kind(kind).gpus
        positions = self.required.get(kind)
        return gpus if positions is None else tuple(gpus[place] for place in sorted(positions))

    def needed_driver(self, build: Build, gpus: Iterable[Gpu]) -> str | None:
        """The lowest driver that carries a CUDA build on these GPUs; None where there is no bound."""
        system = "windows" if self.windows_driver else "linux"
        return self.catalog.driver_bound(build, system, blackwell=any(map(_is_blackwell, gpus)))

    def served(self, build: Build, torch: Version) -> frozenset[int]:
        """Positions of the GPUs in use that a build of a torch can run on, driver included."""
        gpus = self.of_kind(build.kind).gpus
        return frozenset(place for place, gpu in enumerate(gpus) if self._serves(build, torch, gpu))

    def serves(self, build: Build, torch: Version) -> bool:
        """Whether a build of a torch runs on every GPU that it must serve."""
        return all(self._serves(build, torch, gpu) for gpu in self.required_gpus(build.kind))

    def has_code(self, build: Build, torch: Version, gpu: Gpu) -> bool:
        """Whether a build has code for a GPU; an unknown capability counts as one, an unknown gfx not."""
        known = self._codes(build, torch)
        match build.kind:
            case Kind.CUDA:
                device = parse_capability(gpu.architecture or "")
                return device is None or known is None or covers(known.codes, device, build.version)
            case Kind.ROCM:
                return known is not None and (gpu.architecture or "").split(":")[0] in known.codes
            case Kind.XPU | Kind.MPS | Kind.CPU:
                return True

    def _codes(self, build: Build, torch: Version) -> Codes[Any] | None:
        if own := self.trials.codes(build, torch):
            return Codes(own, verified=True)
        if build.kind is Kind.CUDA:
            return self.catalog.architectures(build, torch, self.target.platform or "")
        return self.catalog.gfx(build, torch) if build.kind is Kind.ROCM else None

    def _serves(self, build: Build, torch: Version, gpu: Gpu) -> bool:
        return self._carries(build, (gpu,)) and self.has_code(build, torch, gpu)

    def _carries(self, build: Build, gpus: Iterable[Gpu]) -> bool:
        """Whether the driver does, or cuda-compat beside it."""
        in_use, needed = self.of_kind(build.kind), self.needed_driver(build, gpus)
        driver = in_use.carries_as or in_use.driver
        return needed is None or driver is None or meets(driver, needed)

    def extras(self, build: Build) -> tuple[str, ...]:
        """The extras of AMD's torch that bring the code for these GPUs, also for those that only count.

        Its runtime lists integrated ones too, on Windows before the discrete (ROCm/TheRock#5543).
        """
        known = self.catalog.gfx(build) if build.is_amds else None
        if known is None:
            return ()
        in_use = self.of_kind(Kind.ROCM)
        gfx = {(gpu.architecture or "").split(":")[0] for gpu in (*in_use.gpus, *in_use.integrated)}
        # Whoever names such a build on a machine without a GPU that it has gets the code for all.
        return tuple(f"device-{name}" for name in sorted(gfx & {*known.codes})) or ("device-all",)

    def why_not_build(self, build: Build) -> str | None:
        """Why no torch of a build can run here, as a sentence; None where one may."""
        if build.kind in {Kind.CPU, Kind.MPS}:
            return None
        in_use = self.of_kind(build.kind)
        if in_use.absence:
            return f"{build.name} can't be used: {in_use.absence}."
        if build.kind is Kind.ROCM and self.catalog.gfx(build) is None:
            return f"{build.name}: the AMD GPUs that it has code for are not known."
        needed = self.needed_driver(build, ())
        if build.kind is Kind.CUDA and needed is None:
            return f"{build.name} carries CUDA {build.toolkit}; the driver that needs is not known."
        if not self._carries(build, ()):
            return f"{build.name} needs driver {needed} or newer; this machine has {in_use.driver}."
        return None

    def doubt(self, build: Build, torch: Version) -> str | None:
        """What about a build's bounds is concluded and not known, as a sentence; None where nothing is."""
        known = self._codes(build, torch)
        if build.kind not in {Kind.CUDA, Kind.ROCM} or (known is not None and known.verified):
            return None
        inferred = f"The GPUs that {build.name} supports with torch {torch} are inferred from similar builds"
        return f"{inferred}, not verified; whether it works is checked after installation."

    def why_not_torch(self, build: Build, torch: Version) -> str:
        """Why a torch of a build does not run on the GPUs that it must serve, as a sentence."""
        unserved = (gpu for gpu in self.required_gpus(build.kind) if not self._serves(build, torch, gpu))
        gpu = next(unserved, None)
        if gpu is None:
            return f"{build.name} runs on every GPU in use."
        if self.has_code(build, torch, gpu):
            needed = f"{self.needed_driver(build, (gpu,))} or newer for {describe(gpu)}"
            driver = self.of_kind(build.kind).driver
            return f"{build.name} needs driver {needed}; this machine has {driver}."
        if build.kind is Kind.ROCM and gpu.architecture is None:
            return f"{build.name}: the gfx name of {describe(gpu)} could not be detected."
        word = "compute capability " if build.kind is Kind.CUDA else ""
        has_no = f"{build.name} has no code for {word}{gpu.architecture} ({describe(gpu)})"
        return f"{has_no}{self._who_has(gpu, build)}."

    def _who_has(self, gpu: Gpu, build: Build) -> str:
        having = [
            (Version(row.torch), known)
            for row in self.catalog.rows_of(self.target.platform or "")
            if row.verified
            and (known := parse_build(row.build)) is not None
            and known.kind is build.kind
            and not self.catalog.source_builds.get(known.name)
            and (self.asks_amd or not known.is_amds)
            and self.has_code(known, Version(row.torch), gpu)
        ]
        if not having:
            return ", and no other build for this platform has"
        torch, best = max(having)
        return f"; {best.name} has, up to torch {torch}"


def _is_blackwell(gpu: Gpu) -> bool:
    return (parse_capability(gpu.architecture or "") or (0, 0)) >= (10, 0)
