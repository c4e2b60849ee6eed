"""Which GPUs count: visibility variables, integrated GPUs beside discrete ones, unknown lists.

The snapshot holds every GPU of the machine; which of them a backend will see is decided here, so that a
snapshot stays true when a variable changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

from moondream_station.core.builds.catalog import Catalog
from moondream_station.core.builds.naming import Kind, last_driver, listed, parse_capability
from moondream_station.core.facts.capabilities import BUS_ALONE, UNSUPPORTED, Capabilities, Gpu, Outcome

_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+)*")
_INDEX = re.compile(r"[0-9]+")
_UUID = re.compile(r"(GPU|MIG)-")
_ENTRY = re.compile(r"[0-9]+\Z|(GPU|MIG)-")
"""What CUDA_VISIBLE_DEVICES may name a GPU by."""
_GFX = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)")
_JETSON_CAPABILITY = "8.7"
_VENDORS = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel", "apple": "Apple"}
_WITHOUT_KFD = {
    False: (
        "the kernel offers no compute on it (no KFD): ROCm needs amdgpu, and a container "
        "`--device=/dev/kfd --device=/dev/dri`"
    ),
    True: (
        "WSL2 has no /dev/kfd, by which PyTorch's ROCm builds reach it; AMD's own wheels for WSL2, which the "
        "station does not install, can use it, and so can Linux without Windows"
    ),
}
_VGPU_WITHOUT_CUDA = re.compile(r"-(\d{1,2}[AB]\d?)$")
"""Virtual Applications and Virtual PC, also "-1B4": Q and C profiles alone have CUDA (vGPU user guide)."""
_CUDA_LIST = "CUDA_VISIBLE_DEVICES"
_BUS_ORDER = "PCI_BUS_ID"
_ON_WINDOWS = "windows_gpus"
INTEGRATED_GFX = frozenset({
    "gfx700", "gfx801", "gfx810", "gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036",
    "gfx1037", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153",
})  # fmt: skip
"""Those that LLVM lists as APU (llvm.org/docs/AMDGPUUsage.html, "Processors"); gfx942 is either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """The GPUs of one vendor that a backend will see.

    `integrated` are those that the runtime lists beside discrete ones, and that decide nothing. Where there
    are none, `absence` says why, as a clause without a full stop. `hidden` are those not to be seen, where
    that holds of every one, and `hidden_by` the variable that hides them; `beside` those that variables hide
    beside the visible (`hiding`). `unknown`: there are some that could not be listed; `uncertain`: it could
    not be detected if there are any. The runtime numbers them as they are listed, or by speed. `carries_as`
    is the driver whose builds cuda-compat lets this one carry.
    """

    gpus: tuple[Gpu, ...] = ()
    absence: str | None = None
    integrated: tuple[Gpu, ...] = ()
    hidden: tuple[Gpu, ...] = ()
    beside: tuple[Gpu, ...] = ()
    hiding: str = ""
    hidden_by: str | None = None
    driver: str | None = None
    carries_as: str | None = None
    unknown: bool = False
    uncertain: bool = False
    fastest_first: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def is_there(self) -> bool:
        """Whether the machine has a GPU of this vendor that PyTorch may support, or its driver."""
        return bool(self.gpus or self.hidden or self.unknown or self.driver)

    @property
    def runtime_order(self) -> tuple[int, ...]:
        """Positions of the GPUs as the runtime numbers them: by capability, then memory."""
        places = tuple(range(len(self.gpus)))
        by_speed = sorted(places, key=lambda place: _speed(self.gpus[place]), reverse=True)
        return tuple(by_speed) if self.fastest_first else places


def hiding_all_but(gpus: Iterable[Gpu], kind: Kind) -> str:
    """What to set so that builds of a kind see these GPUs alone: CUDA's own order is not nvidia-smi's."""
    places = ",".join("?" if gpu.index is None else str(gpu.index) for gpu in gpus)
    if kind is Kind.ROCM:
        return f"HIP_VISIBLE_DEVICES={places}"
    return f"CUDA_DEVICE_ORDER={_BUS_ORDER} and CUDA_VISIBLE_DEVICES={places}"


def describe(gpu: Gpu) -> str:
    """A GPU as people call it."""
    return gpu.name or f"{_VENDORS[gpu.vendor]} GPU"


def _speed(gpu: Gpu) -> tuple[tuple[int, int], int]:
    return (parse_capability(gpu.architecture or "") or (0, 0), gpu.memory_bytes or 0)


def nvidia_in_use(capabilities: Capabilities, catalog: Catalog) -> InUse:
    """The NVIDIA GPUs in use, after `CUDA_VISIBLE_DEVICES`."""
    driver = capabilities.nvidia_driver
    gpus = capabilities.gpus_of("nvidia")
    if driver is None:
        return _without_driver(capabilities, gpus)
    if not _NUMBERS.match(driver):
        return InUse(gpus=gpus, absence=f"the NVIDIA driver's version can't be read ({driver!r})")
    if not gpus:
        return _without_list(capabilities, driver)
    if absence := _without_cuda(gpus, driver):
        return InUse(absence=absence, hidden=gpus, driver=driver)
    visible, warnings = _visible_to_cuda(gpus, capabilities.variables)
    if not visible:
        value = capabilities.variables["CUDA_VISIBLE_DEVICES"]
        absence = f"{_CUDA_LIST}={value!r} hides every NVIDIA GPU"
        return InUse(absence=absence, hidden=gpus, driver=driver, hidden_by=_CUDA_LIST)
    beside = tuple(gpu for gpu in gpus if gpu not in visible)
    if unreadable := [gpu for gpu in visible if not parse_capability(gpu.architecture or "")]:
        if capabilities.surroundings == "jetson":
            visible = tuple(_as_jetson(gpu) for gpu in visible)
        else:
            unknown = (
                f"The compute capability of {', '.join(map(describe, unreadable))} could not be detected"
            )
            later = "whether the build has code for it is checked after installation"
            warnings = (*warnings, f"{unknown}, so only the driver decides; {later}.")
    fastest_first = capabilities.variables.get("CUDA_DEVICE_ORDER", "").strip() != _BUS_ORDER
    in_use = InUse(
        gpus=visible,
        beside=beside,
        hiding=f"CUDA_VISIBLE_DEVICES={capabilities.variables.get('CUDA_VISIBLE_DEVICES')!r}",
        driver=driver,
        fastest_first=fastest_first,
        warnings=warnings,
    )
    return _with_compat(in_use, capabilities, catalog)


def _without_cuda(gpus: tuple[Gpu, ...], driver: str) -> str | None:
    if all(gpu.architecture_source == UNSUPPORTED for gpu in gpus):
        ended = f"driver {driver} no longer supports compute capability {gpus[0].architecture}"
        return f"{ended}; install driver {last_driver(gpus[0].architecture)}, the last that does"
    profiles = [_VGPU_WITHOUT_CUDA.search(gpu.name or "") for gpu in gpus]
    named = listed(profile[1] for profile in profiles if profile)
    wanted = "a Q or C profile, which the host assigns, has"
    return f"the vGPU profile {named} has no CUDA; {wanted}" if all(profiles) else None


def _with_compat(in_use: InUse, capabilities: Capabilities, catalog: Catalog) -> InUse:
    """The same, where a header newer than the driver's own CUDA shows that cuda-compat is there.

    Data-centre GPUs alone support it (docs.nvidia.com/deploy/cuda-compatibility, "Forward Compatibility").
    """
    driver, header = in_use.driver or "", capabilities.nvidia_cuda or ""
    branch = catalog.branch_beyond(driver, header)
    is_jetson = capabilities.surroundings == "jetson"  # their drivers have branches of their own
    if branch is None or is_jetson or not all(gpu.name for gpu in in_use.gpus):
        return in_use
    others = [gpu for gpu in in_use.gpus if not catalog.is_data_centre(gpu.name or "")]
    if not others:
        warning = f"NVIDIA's cuda-compat gives driver {driver} CUDA {header}; without it newer builds fail."
        return replace(in_use, carries_as=f"{branch}.999", warnings=(*in_use.warnings, warning))
    compat = f"NVIDIA's cuda-compat is installed, which {describe(others[0])} does not support"
    shows = f"nvidia-smi shows CUDA {header}, which driver {driver} does not have by itself"
    warning = f"{shows}: {compat}. CUDA fails with error 804 until it is removed."
    return replace(in_use, warnings=(*in_use.warnings, warning))


def amd_in_use(capabilities: Capabilities, catalog: Catalog) -> InUse:
    """The AMD GPUs in use: visible ones, discrete before integrated, as HSA_OVERRIDE_GFX_VERSION says."""
    gpus = tuple(named_by_device(gpu, catalog) for gpu in capabilities.gpus_of("amd"))
    if not gpus:
        return _none_found(capabilities, "AMD GPU", "amd", _ON_WINDOWS)
    if all(gpu.architecture_source == BUS_ALONE for gpu in gpus):
        return InUse(absence=_WITHOUT_KFD[capabilities.surroundings == "wsl2"], hidden=gpus)
    every, hiding = gpus, []
    # ROCm's documentation 7.1, "HIP environment variables"; likewise torch's `_parse_visible_devices`
    hip = "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in capabilities.variables else "CUDA_VISIBLE_DEVICES"
    for name in ("ROCR_VISIBLE_DEVICES", hip):
        if (value := capabilities.variables.get(name)) is None:
            continue
        gpus = _by_position(gpus, value)
        hiding.append(f"{name}={value!r}")
        if not gpus:
            absence = f"{hiding[-1]} hides every AMD GPU"
            return InUse(absence=absence, hidden=_deciding(every), hidden_by=name)
    deciding = _deciding(gpus)
    beside = tuple(gpu for gpu in gpus if gpu not in deciding)
    seen = InUse(gpus=deciding, integrated=beside, hiding=" and ".join(hiding))
    seen = replace(seen, beside=tuple(gpu for gpu in every if gpu not in gpus))
    override = _GFX.fullmatch(capabilities.variables.get("HSA_OVERRIDE_GFX_VERSION", "").strip())
    if override is None:
        return seen
    gfx = f"gfx{int(override[1])}{int(override[2]):x}{int(override[3]):x}"
    source = "HSA_OVERRIDE_GFX_VERSION"
    overridden = tuple(replace(gpu, architecture=gfx, architecture_source=source) for gpu in seen.gpus)
    warning = f"{source} makes every AMD GPU count as {gfx}."
    own = {gpu.architecture for gpu in seen.gpus if gpu.architecture}
    if others := sorted(name for name in own if name[:-2] != gfx[:-2]):  # ROCm/rocm-systems#5686
        warning = f"{warning} That is another generation than {listed(others)}: unset it, or torch may crash."
    return replace(seen, gpus=overridden, beside=(), warnings=(warning,))


def named_by_device(gpu: Gpu, catalog: Catalog) -> Gpu:
    """A GPU of Windows' list, of which its PCI device id alone is known, by its architecture."""
    if gpu.architecture_source != "pci":
        return gpu
    gfx = catalog.gfx_of_device(gpu.architecture or "")
    return replace(gpu, architecture=gfx, integrated=gfx in INTEGRATED_GFX if gfx else None)


def intel_in_use(capabilities: Capabilities, catalog: Catalog) -> InUse:
    """The Intel GPUs in use: those that torch.xpu supports, discrete before integrated."""
    gpus = capabilities.gpus_of("intel")
    if not gpus:
        return _none_found(capabilities, "Intel GPU", "intel", _ON_WINDOWS)
    families = [(gpu, catalog.intel_family(gpu.architecture or "")) for gpu in gpus]
    supported = tuple(
        replace(gpu, name=gpu.name or family.name, integrated=family.integrated)
        for gpu, family in families
        if family is not None
    )
    if not supported:
        names = ", ".join(dict.fromkeys(f"{describe(gpu)} ({gpu.architecture or 'unknown'})" for gpu in gpus))
        return InUse(absence=f"torch.xpu supports Arc, Core Ultra and Data Center GPU Max, not {names}")
    return InUse(gpus=_deciding(supported))


def _deciding(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    return tuple(gpu for gpu in gpus if not gpu.integrated) or gpus


def _without_driver(capabilities: Capabilities, gpus: tuple[Gpu, ...]) -> InUse:
    toolkit = f"; CUDA toolkit {capabilities.nvcc} is ignored" if capabilities.nvcc else ""
    if gpus:
        return InUse(gpus=gpus, absence=f"{describe(gpus[0])} has no working NVIDIA driver{toolkit}")
    probes = ("nvidia_smi", "nvidia_driver", _ON_WINDOWS)
    return _none_found(capabilities, "NVIDIA driver", *probes, besides=toolkit)


def _none_found(capabilities: Capabilities, what: str, *probes: str, besides: str = "") -> InUse:
    if (detail := _unanswered(capabilities, *probes)) is not None:
        doubt = f"whether there is an {what} could not be detected ({detail}){besides}"
        return InUse(absence=doubt, uncertain=True)
    return InUse(absence=f"no {what} was found{besides}")


def _unanswered(capabilities: Capabilities, *probes: str) -> str | None:
    """What the first of these probes saw that could not find out what it is for; None where all could."""
    reports = {report.probe: report for report in capabilities.probes}
    asked = [reports[probe] for probe in probes if probe in reports]
    unanswered = (report for report in asked if report.outcome in {Outcome.FAILED, Outcome.TIMED_OUT})
    return next((report.detail for report in unanswered), None)


def _without_list(capabilities: Capabilities, driver: str) -> InUse:
    value = capabilities.variables.get("CUDA_VISIBLE_DEVICES")
    if value is not None and not _entries(value):
        absence = f"{_CUDA_LIST}={value!r} hides every NVIDIA GPU"
        return InUse(absence=absence, driver=driver, hidden_by=_CUDA_LIST)
    if capabilities.surroundings == "jetson":
        return InUse(gpus=(_as_jetson(Gpu(vendor="nvidia", name="the Jetson's GPU")),), driver=driver)
    if capabilities.outcome_of("nvidia_smi") is not None:
        # Where one may be there, detection lists a GPU of unknown capability: none listed is none there.
        why = _unanswered(capabilities, "nvidia_smi") or "a container started without its GPU?"
        return InUse(absence=f"NVIDIA driver {driver} is installed, but has no GPU ({why})", driver=driver)
    later = "whether a build has code for them is checked after installation"
    warning = f"The NVIDIA GPUs could not be detected, so only driver {driver} decides; {later}."
    return InUse(driver=driver, unknown=True, warnings=(warning,))


def _as_jetson(gpu: Gpu) -> Gpu:
    """A Jetson's GPU as an Orin: what has code for that one has it for Thor, and for no other Jetson."""
    as_orin = replace(gpu, architecture=_JETSON_CAPABILITY, architecture_source="jetson")
    return gpu if parse_capability(gpu.architecture or "") else as_orin


def _visible_to_cuda(
    gpus: tuple[Gpu, ...], variables: Mapping[str, str]
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """What CUDA_VISIBLE_DEVICES leaves.

    Its integers follow CUDA's own order, fastest first, unless CUDA_DEVICE_ORDER=PCI_BUS_ID gives it
    nvidia-smi's; which GPUs UUIDs name is not recorded. Neither matters where all GPUs are alike.
    """
    value = variables.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return gpus, ()
    entries = _entries(value)
    if not entries:
        return (), ()
    alike = len({gpu.architecture for gpu in gpus}) == 1 and gpus[0].architecture is not None
    ordered = variables.get("CUDA_DEVICE_ORDER", "").strip() == _BUS_ORDER
    by_position = all(_INDEX.fullmatch(entry) for entry in entries)
    if by_position and (alike or ordered):
        return _by_position(gpus, value), ()
    if by_position and all(parse_capability(gpu.architecture or "") for gpu in gpus):
        visible = _by_position(tuple(sorted(gpus, key=_speed, reverse=True)), value)
        names = listed(map(describe, visible)) or "no GPU"
        meant = f"CUDA_VISIBLE_DEVICES={value!r} means {names}, because CUDA counts the fastest GPU first"
        remedy = "set CUDA_DEVICE_ORDER=PCI_BUS_ID to number them as nvidia-smi does"
        return visible, (f"{meant}; {remedy}.",)
    if alike and all(_UUID.match(entry) for entry in entries):
        return gpus, ()
    unmatched = f"CUDA_VISIBLE_DEVICES={value!r} can't be matched to the detected GPUs, so all of them count"
    remedy = "name them by position, with CUDA_DEVICE_ORDER=PCI_BUS_ID to number them as nvidia-smi does"
    return gpus, (f"{unmatched} ({remedy}).",)


def _entries(value: str) -> list[str]:
    """What a list names GPUs by, up to the first entry that names none: SLURM's "NoDevFiles" is one.

    There torch 2.13.0 ends the list too (`_parse_visible_devices`).
    """
    return list(takewhile(_ENTRY.match, (entry.strip() for entry in value.split(","))))


def _by_position(gpus: tuple[Gpu, ...], value: str) -> tuple[Gpu, ...]:
    """The GPUs that positions name, up to the first that is none; with UUIDs, every one."""
    by_place = dict(enumerate(gpus))
    chosen: dict[int, Gpu] = {}
    for entry in _entries(value):
        if _UUID.match(entry):
            return gpus
        position = int(entry)
        if position in chosen:
            return ()  # torch 2.13.0, torch/cuda/__init__.py
        if position not in by_place:
            break
        chosen[position] = by_place[position]
    return tuple(chosen.values())
