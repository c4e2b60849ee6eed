"""What is found on machines of every kind, and that nothing else is an error there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import jsonschema
import pytest

from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.machine.record import MachineRecord, RecordedMachine
from moondream_station.doctor.examination import examine
from moondream_station.doctor.report import Report, Status, report_to_json
from support import machines as m
from support.patients import finding_of, ids_of, words_of
from tools.reference.schemas import schemas

pytestmark = pytest.mark.anyio

CARD_ON_BUS = m.pci((0x030000, 0x10DE, 0x2684))
NOT_LOADED = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
    "NVIDIA driver is installed and running."
)
OUT_OF_STEP = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.90"
K80 = m.Card(name="Tesla K80", capability="3.7", memory="11441")
GTX_970 = m.Card(name="GeForce GTX 970", capability="5.2", memory="4096")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A machine, and what must be found there.

    Args:
        record: The machine.
        errors: The checks that find an error, and no other does.
        warnings: Checks that find a warning.
        says: Words in what a check says.
        strategy: How its build is chosen.
    """

    record: MachineRecord
    errors: frozenset[str] = frozenset()
    warnings: frozenset[str] = frozenset()
    says: Mapping[str, str] = field(default_factory=dict)
    strategy: str = "auto"


def case(
    record: MachineRecord, *, errors: str = "", warnings: str = "", strategy: str = "auto", **says: str
) -> Case:
    """A case; checks are given by name, separated by blanks, and in keywords with _ for the dot."""
    return Case(
        record=record,
        errors=frozenset(errors.split()),
        warnings=frozenset(warnings.split()),
        strategy=strategy,
        says={name.replace("_", ".", 1): text for name, text in says.items()},
    )


WELL = {
    "no GPU": case(m.cpu_only(), gpu_devices="No GPU", gpu_build="cpu"),
    "a toolkit without a driver": case(m.with_toolkit(m.cpu_only()), gpu_toolkit="without a driver"),
    "RTX 4090": case(m.nvidia_linux(), gpu_driver="550.54.14", gpu_devices="RTX 4090", gpu_build="cu126"),
    "GTX 1080": case(m.nvidia_linux(m.GTX_1080), gpu_build="cu126"),
    "Tesla K80": case(m.nvidia_linux(K80, driver="470.256.02", cuda="11.4"), gpu_build="cu118"),
    "WSL2": case(m.wsl2(), machine_platform="WSL2", gpu_driver="596.36"),
    "Windows": case(m.windows(m.RTX_4090), gpu_driver="560.94"),
    "Windows without a GPU": case(m.windows()),
    "Apple silicon": case(m.mac(), gpu_build="mps", machine_platform="macOS 15.1"),
    "Intel Mac": case(m.intel_mac(), gpu_build="2.2.2"),
    "Radeon": case(m.kfd({"gfx_target_version": 110000}), gpu_build="rocm"),
    "a free-threaded Python": case(
        replace(m.cpu_only(), platform=replace(m.LINUX, python="3.14.2t")),
        python_version="Python 3.14.2, free-threaded.",
    ),
    "a CUDA toolkit of torch's version": case(
        m.with_toolkit(m.nvidia_linux(), "12.6"), gpu_toolkit="is the version that torch carries"
    ),
}

WORSE = {
    "a driver too old for any build": case(
        m.nvidia_linux(driver="390.157", cuda="9.1", is_old=True),
        warnings="gpu.driver gpu.build",
        gpu_driver="450.80.02 at least",
        gpu_build="`moondream-station plan --machine FILE`",
    ),
    "a GPU without a driver": case(
        CARD_ON_BUS, warnings="gpu.driver gpu.build", gpu_driver="no NVIDIA driver"
    ),
    "a driver that is not loaded": case(
        m.merged(CARD_ON_BUS, replace(m.cpu_only(), commands=m.smi_fails(NOT_LOADED, 9))),
        warnings="gpu.driver gpu.build",
        gpu_driver="not loaded",
    ),
    "a driver on Windows that is too old": case(
        m.windows(m.RTX_4090, driver="391.35", cuda="9.1"), warnings="gpu.driver", gpu_driver="nvidia.com"
    ),
    "a driver on WSL2 that is too old": case(
        m.wsl2(driver="391.35", cuda="9.1"), warnings="gpu.driver", gpu_driver="in Windows"
    ),
    "a container without its GPU": case(
        replace(m.cpu_only(), files=m.proc_version("550.54.14")),
        warnings="gpu.devices gpu.build",
        gpu_devices="docker run --gpus all",
    ),
    "hidden GPUs": case(
        m.nvidia_linux(env={"CUDA_VISIBLE_DEVICES": ""}),
        warnings="gpu.devices",
        gpu_devices="unset CUDA_VISIBLE_DEVICES",
    ),
    "hidden GPUs on Windows": case(
        replace(m.windows(m.RTX_4090), env={"CUDA_VISIBLE_DEVICES": "-1"}),
        warnings="gpu.devices",
        gpu_devices="Remove-Item Env:CUDA_VISIBLE_DEVICES",
    ),
    "a hidden Radeon": case(
        replace(m.kfd({"gfx_target_version": 110000}), env={"HIP_VISIBLE_DEVICES": ""}),
        warnings="gpu.devices",
        gpu_devices="HIP_VISIBLE_DEVICES",
    ),
    "a toolkit of another CUDA": case(
        m.with_toolkit(m.nvidia_linux()), warnings="gpu.toolkit", gpu_toolkit="CUDA toolkit 12.6"
    ),
    "a GPU that one build can't serve beside the other": case(
        m.nvidia_linux(m.RTX_5090, GTX_970, driver="580.65.06", cuda="13.0"),
        warnings="gpu.build",
        gpu_build="GTX 970",
    ),
    "an nvidia-smi that hangs": case(
        replace(m.nvidia_linux(), commands=m.smi_hangs()),
        warnings="gpu.driver machine.probes",
        gpu_driver="in time",
        machine_probes="nvidia_smi",
    ),
    "NVML failing": case(
        replace(m.nvidia_linux(), commands=m.smi_fails("Failed to initialize NVML: Unknown Error", 255)),
        warnings="gpu.driver",
        gpu_driver="restart the container",
    ),
    "a GPU off its bus": case(
        replace(
            m.nvidia_linux(),
            commands=m.smi_fails(
                "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.  "
                "Reboot the system to recover this GPU",
                15,
            ),
        ),
        warnings="gpu.devices",
        gpu_devices="no longer answers on its bus",
    ),
    "an old Python": case(
        replace(m.cpu_only(), platform=replace(m.LINUX, python="3.10.4")),
        warnings="python.version",
        python_version="Install Python 3.11 to 3.15",
    ),
    "a Jetson's driver that is too old": case(
        replace(
            m.nvidia_linux(
                m.Card(name="Orin", capability="[N/A]", memory="[N/A]"), driver="540.4.0", cuda="12.6"
            ),
            platform=replace(m.LINUX, machine="aarch64", release="5.15.148-tegra"),
        ),
        warnings="gpu.driver gpu.build",
        gpu_driver="install one whose driver is 580 or newer",
    ),
    "a folder that can't be read": case(
        replace(m.cpu_only(), unreadable={"/sys/class/kfd/kfd/topology/nodes": "permission denied"}),
        warnings="machine.probes gpu.build",
        machine_probes="needs a permission",
        gpu_build="GPUs could not be detected",
    ),
}

BROKEN = {
    "driver and library out of step": case(
        replace(m.nvidia_linux(), commands=m.smi_fails(OUT_OF_STEP, 18)),
        errors="gpu.driver",
        gpu_driver="sudo reboot",
    ),
    "driver and kernel out of step": case(
        replace(m.nvidia_linux(driver="550.90.07"), files=m.proc_version("550.54.14")),
        errors="gpu.driver",
        gpu_driver="sudo reboot",
    ),
    "no permission": case(
        replace(
            m.nvidia_linux(), commands=m.smi_fails("Failed to initialize NVML: Insufficient Permissions", 4)
        ),
        errors="gpu.driver",
        gpu_driver='sudo usermod -aG video,render "$USER"',
    ),
    "Rosetta": case(m.rosetta(), errors="python.architecture gpu.build", python_architecture="arm64 Python"),
    "musl": case(
        replace(m.cpu_only(), platform=replace(m.LINUX, libc=("musl", "1.2.5"))),
        errors="machine.platform gpu.build",
        machine_platform="glibc",
    ),
    "a processor without wheels": case(
        replace(m.cpu_only(), platform=replace(m.LINUX, machine="riscv64")),
        errors="machine.platform gpu.build",
        machine_platform="riscv64",
    ),
    "a Python without wheels": case(
        replace(m.cpu_only(), platform=replace(m.LINUX, python="3.29.0")),
        errors="python.version gpu.build",
        python_version="3.13",
    ),
    "a build by name that the driver can't carry": case(
        m.nvidia_linux(driver="535.183.01", cuda="12.2"),
        strategy="cu130",
        errors="gpu.driver gpu.build",
        gpu_driver="needs driver 580",
        gpu_build="MOONDREAM_STATION_STRATEGY",
    ),
    "a build by name without code for the GPU": case(
        m.nvidia_linux(m.GTX_1080, driver="580.65.06", cuda="13.0"),
        strategy="cu130",
        errors="gpu.build",
        gpu_build="no code for compute capability 6.1",
    ),
}


async def examined(one: Case, folder: Path) -> Report:
    """The report on a recorded machine."""
    return await examine(
        home=Home(root=folder / "home"),
        settings=Settings(strategy=one.strategy),
        environ={},
        machine=RecordedMachine(one.record),
    )


@pytest.mark.parametrize("name", [*WELL, *WORSE, *BROKEN])
async def test_the_expected_is_found_and_no_other_error(name: str, tmp_path: Path) -> None:
    """Errors are exactly the expected ones; on a machine that is well, nothing is even a warning."""
    one = {**WELL, **WORSE, **BROKEN}[name]
    report = await examined(one, tmp_path)
    assert ids_of(report.findings, Status.ERROR) == one.errors
    warnings = ids_of(report.findings, Status.WARNING)
    assert one.warnings <= warnings
    if name in WELL:
        assert warnings == set()
    for check, text in one.says.items():
        assert text in words_of(finding_of(report, check))


@pytest.mark.parametrize("name", [*WORSE, *BROKEN])
async def test_whatever_is_wrong_has_a_remedy(name: str, tmp_path: Path) -> None:
    """Every warning and error tells what to do."""
    report = await examined({**WORSE, **BROKEN}[name], tmp_path)
    wrong = [one for one in report.findings if one.status in {Status.WARNING, Status.ERROR}]
    assert all(one.remedy is not None for one in wrong)


@pytest.mark.parametrize("name", [*WELL, *BROKEN])
async def test_the_report_is_of_its_public_shape(name: str, tmp_path: Path) -> None:
    """Its JSON is what docs/reference/schemas/doctor.json says."""
    report = await examined({**WELL, **BROKEN}[name], tmp_path)
    jsonschema.Draft202012Validator(schemas()["doctor"]).validate(report_to_json(report))


async def test_what_could_not_be_found_out_is_not_called_absent(tmp_path: Path) -> None:
    """Neither that there is no GPU, nor that no driver is needed."""
    refused = {
        "/proc/driver/nvidia/version": "permission denied",
        "/sys/bus/pci/devices": "permission denied",
    }
    report = await examined(case(replace(m.cpu_only(), unreadable=refused)), tmp_path)
    for check in ("gpu.devices", "gpu.driver"):
        finding = finding_of(report, check)
        assert finding.status is Status.SKIPPED
        assert "could not be detected for certain" in finding.summary


async def test_a_machine_elsewhere_is_not_asked_about_this_computer(tmp_path: Path) -> None:
    """Disk, network, environments and station are skipped; the home is not touched."""
    report = await examined(WELL["RTX 4090"], tmp_path)
    elsewhere = {"disk", "network", "environments", "station"}
    statuses = {one.status for one in report.findings if one.section in elsewhere}
    assert statuses == {Status.SKIPPED}
    assert not Home(root=tmp_path / "home").root.exists()
