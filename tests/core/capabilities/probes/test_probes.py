"""What each probe asks, and what it makes of the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import anyio.lowlevel
import pytest
from hypothesis import given

from moondream_station.core.capabilities.detect import PROBES
from moondream_station.core.capabilities.probes import adapters, nvidia
from moondream_station.core.capabilities.probes.adapters import AMD, INTEL, QUERY, WINDOWS_GPUS, IntelReading
from moondream_station.core.capabilities.probes.nvidia import NVIDIA_DRIVER, NVIDIA_SMI, NvidiaSmiReading
from moondream_station.core.capabilities.probes.probe import (
    BRAND,
    DETAIL_LIMIT,
    MACOS,
    NVCC,
    SYSCTL,
    Probe,
    Reading,
    SysctlReading,
)
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.machine.machine import CommandResult
from moondream_station.core.machine.record import MachineRecord, RecordedMachine, Recorder
from support.fuzzed_records import RECORDS
from support.machines import (
    GTX_1080,
    LINUX,
    RTX_4090,
    WINDOWS,
    Card,
    answer,
    cpu_only,
    intel_mac,
    kfd,
    mac,
    merged,
    nvidia_linux,
    pci,
    proc_version,
    rosetta,
    rows,
    smi_fails,
    smi_hangs,
    table,
    windows,
    with_toolkit,
)
from support.machines import (
    MACOS as MACOS_FACTS,
)

pytestmark = pytest.mark.anyio

CSV = "--format=csv,noheader,nounits"
R = TypeVar("R", bound=Reading)


async def questions(probe: Probe, record: MachineRecord) -> MachineRecord:
    """Everything a probe asks of a machine."""
    asked = Asked(record)
    await probe.ask(asked)
    return asked.seen


class Asked(RecordedMachine):
    """A recorded machine that keeps the questions, also those without an answer."""

    def __init__(self, record: MachineRecord) -> None:
        super().__init__(record)
        self.commands: list[tuple[str, ...]] = []
        self.paths: list[str] = []

    @property
    def seen(self) -> MachineRecord:
        """The questions in a record's form."""
        return MachineRecord(
            platform=self.facts,
            commands=tuple(answer(*argv) for argv in self.commands),
            files=dict.fromkeys(self.paths, ""),
        )

    async def run(self, *argv: str) -> CommandResult | None:
        """Note the question."""
        self.commands.append(argv)
        return await super().run(*argv)

    async def read(self, path: str) -> str | None:
        """Note the question."""
        self.paths.append(path)
        return await super().read(path)

    async def list(self, path: str) -> tuple[str, ...] | None:
        """Note the question."""
        self.paths.append(path)
        return await super().list(path)


async def read(probe: Probe, record: MachineRecord) -> Reading:
    """A probe's reading of a machine."""
    recorder = Recorder(RecordedMachine(record))
    await probe.ask(recorder)
    return probe.read(recorder.record)


async def read_as(kind: type[R], probe: Probe, record: MachineRecord) -> R:
    """A probe's reading of a machine, as the kind that it is."""
    reading = await read(probe, record)
    assert isinstance(reading, kind)
    return reading


async def test_the_questions_are_the_documented_ones() -> None:
    """Records stay comparable: the argument lists and paths are those of the interface, to the letter."""
    query = f"--query-gpu=index,name,driver_version,compute_cap,memory.total {CSV}".split()
    old_query = f"--query-gpu=index,name,driver_version,memory.total {CSV}".split()
    bus = "/sys/bus/pci/devices"
    nodes = "/sys/class/kfd/kfd/topology/nodes"
    selected = "Select-Object Name,PNPDeviceID,DriverVersion"
    line = f"Get-CimInstance Win32_VideoController | {selected} | ConvertTo-Json"
    machine = merged(nvidia_linux(is_old=True), pci((0x030000, 0x8086, 0x56A0)), kfd({}))
    asked: dict[str, tuple[set[tuple[str, ...]], set[str]]] = {
        "platform": (set(), set()),
        "nvidia_smi": ({("nvidia-smi",), ("nvidia-smi", *query), ("nvidia-smi", *old_query)}, set()),
        "nvidia_driver": (set(), {"/proc/driver/nvidia/version", "/sys/module/nvidia/version"}),
        "nvcc": ({("nvcc", "--version")}, set()),
        "sysctl": (
            {
                ("sysctl", "-n", "machdep.cpu.brand_string"),
                ("sysctl", "-n", "hw.optional.arm64"),
                ("sysctl", "-n", "sysctl.proc_translated"),
                ("sysctl", "-n", "hw.memsize"),
            },
            set(),
        ),
        "macos": ({("sw_vers", "-productVersion")}, set()),
        "amd": (
            {("rocm_agent_enumerator",)},
            {nodes, f"{nodes}/0/properties", f"{nodes}/1/properties"},
        ),
        "intel": (set(), {bus, *(f"{bus}/0000:00:00.0/{name}" for name in ("class", "vendor", "device"))}),
        "windows_gpus": ({("powershell", "-NoProfile", "-Command", line)}, set()),
    }
    for probe in PROBES:
        seen = await questions(probe, machine)
        assert ({result.argv for result in seen.commands}, set(seen.files)) == asked[probe.name]
        assert {result.argv[0] for result in seen.commands} == set(probe.programs)
    assert {probe.name for probe in PROBES} == set(asked)
    await anyio.lowlevel.checkpoint()


def test_deadlines_and_systems_are_the_documented_ones() -> None:
    """Five seconds, fifteen for the two that start drivers; three probes belong to one system."""
    assert {probe.name for probe in PROBES if probe.deadline_seconds == 15} == {"nvidia_smi", "windows_gpus"}
    assert {probe.deadline_seconds for probe in PROBES} == {5, 15}
    assert {probe.name: probe.system for probe in PROBES if probe.system} == {
        "sysctl": "Darwin",
        "macos": "Darwin",
        "windows_gpus": "Windows",
    }


async def test_a_new_driver_is_not_asked_the_old_question() -> None:
    """The shorter query is only for drivers that refuse the longer one."""
    asked = await questions(NVIDIA_SMI, nvidia_linux())
    assert {result.argv for result in asked.commands} == {nvidia.QUERY, nvidia.PLAIN}


@pytest.mark.parametrize("record", [smi_hangs(), smi_fails("No devices were found", 6)])
async def test_a_tool_in_trouble_is_not_asked_again(record: tuple[CommandResult, ...]) -> None:
    """Another query would hang or fail like the first."""
    asked = await questions(NVIDIA_SMI, MachineRecord(platform=LINUX, commands=record))
    assert nvidia.OLD_QUERY not in {result.argv for result in asked.commands}


async def test_nvidia_smi_finds_gpus() -> None:
    """Every GPU with its capability and its own memory, the driver, and the highest CUDA."""
    reading = await read_as(NvidiaSmiReading, NVIDIA_SMI, nvidia_linux(RTX_4090, GTX_1080))
    assert reading.outcome is Outcome.FOUND
    assert [(gpu.index, gpu.architecture, gpu.architecture_source) for gpu in reading.gpus] == [
        (0, "8.9", "nvidia-smi"),
        (1, "6.1", "nvidia-smi"),
    ]
    assert [gpu.memory_bytes for gpu in reading.gpus] == [24564 << 20, 8192 << 20]
    assert (reading.version, reading.cuda) == ("550.54.14", "12.4")


async def test_an_old_driver_tells_the_capability_by_the_name() -> None:
    """Where `compute_cap` is refused, the name tells, and the GPU says so."""
    reading = await read_as(NvidiaSmiReading, NVIDIA_SMI, nvidia_linux(GTX_1080, is_old=True))
    (gpu,) = reading.gpus
    assert (gpu.architecture, gpu.architecture_source) == ("6.1", "name")
    assert reading.outcome is Outcome.FOUND


async def test_an_unknown_name_leaves_the_capability_unknown() -> None:
    """One that nobody can tell is None, and the GPU is still there."""
    card = Card(name="Graphics Device", capability="[N/A]", memory="[N/A]")
    reading = await read_as(NvidiaSmiReading, NVIDIA_SMI, nvidia_linux(card))
    (gpu,) = reading.gpus
    assert (gpu.architecture, gpu.architecture_source, gpu.memory_bytes) == (None, None, None)


async def test_the_table_alone_is_enough() -> None:
    """A record of plain nvidia-smi tells GPUs and driver."""
    record = MachineRecord(
        platform=LINUX, commands=(answer("nvidia-smi", stdout=table((RTX_4090,), "550.54.14", "12.4")),)
    )
    reading = await read_as(NvidiaSmiReading, NVIDIA_SMI, record)
    assert [(gpu.name, gpu.architecture) for gpu in reading.gpus] == [("NVIDIA GeForce RTX 4090", "8.9")]
    assert (reading.version, reading.cuda) == ("550.54.14", "12.4")


async def test_a_usable_answer_counts_whatever_the_exit_status() -> None:
    """14 says that an infoROM is corrupted, beside good rows."""
    good = nvidia_linux()
    record = replace(good, commands=tuple(replace(result, returncode=14) for result in good.commands))
    assert (await read(NVIDIA_SMI, record)).outcome is Outcome.FOUND


@pytest.mark.parametrize(
    ("commands", "outcome", "said"),
    [
        ((), Outcome.ABSENT, "not installed"),
        (smi_hangs(), Outcome.TIMED_OUT, "did not answer in time"),
        (smi_fails("No devices were found", 6), Outcome.ABSENT, "No devices were found"),
        (
            smi_fails("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9),
            Outcome.ABSENT,
            "driver not loaded",
        ),
        (
            smi_fails("Failed to initialize NVML: Driver/library version mismatch", 18),
            Outcome.FAILED,
            "out of step",
        ),
        (smi_fails("Segmentation fault", -11), Outcome.FAILED, "exited with -11, saying: Segmentation fault"),
        ((answer(*nvidia.PLAIN),), Outcome.FAILED, "without an answer"),
    ],
)
async def test_nvidia_smi_without_gpus(
    commands: tuple[CommandResult, ...], outcome: Outcome, said: str
) -> None:
    """Not there, could not find out, and too slow are three answers, each with its detail."""
    reading = await read(NVIDIA_SMI, MachineRecord(platform=LINUX, commands=commands))
    assert reading.outcome is outcome
    assert said in reading.detail


async def test_what_was_answered_before_a_hang_counts() -> None:
    """GPUs that one question told are kept when another one hangs."""
    record = MachineRecord(
        platform=LINUX,
        commands=(
            answer(*nvidia.QUERY, stdout=rows((RTX_4090,), "550.54.14")),
            answer(*nvidia.PLAIN, returncode=-9, timed_out=True),
        ),
    )
    reading = await read_as(NvidiaSmiReading, NVIDIA_SMI, record)
    assert reading.outcome is Outcome.TIMED_OUT
    assert [gpu.architecture for gpu in reading.gpus] == ["8.9"]


@pytest.mark.parametrize(
    ("files", "version", "source"),
    [
        (proc_version("550.144.03"), "550.144.03", "proc"),
        (proc_version("375.74", is_open=False), "375.74", "proc"),
        ({**proc_version("550.54.14"), nvidia.SYS: "550.54.14\n"}, "550.54.14", "proc"),
        ({nvidia.SYS: "580.00\n"}, "580.00", "sys"),
    ],
)
async def test_the_kernel_tells_the_driver(files: Mapping[str, str], version: str, source: str) -> None:
    """Open and proprietary modules, by either file."""
    record = MachineRecord(platform=LINUX, files=files)
    reading = await read(NVIDIA_DRIVER, record)
    assert (reading.outcome, reading.version, reading.source) == (Outcome.FOUND, version, source)


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (cpu_only(), Outcome.ABSENT),
        (MachineRecord(platform=LINUX, files={nvidia.PROC: "nothing of use\n"}), Outcome.FAILED),
        (MachineRecord(platform=LINUX, files={nvidia.SYS: "x.y\n"}), Outcome.FAILED),
        (MachineRecord(platform=LINUX, unreadable={nvidia.PROC: "permission denied"}), Outcome.FAILED),
    ],
)
async def test_the_kernel_without_a_driver(record: MachineRecord, outcome: Outcome) -> None:
    """No file is no driver; a file that tells nothing is "could not find out"."""
    assert (await read(NVIDIA_DRIVER, record)).outcome is outcome


async def test_nvcc_tells_its_release() -> None:
    """The toolkit's version, nothing where there is none, failed where it says something else."""
    found = await read(NVCC, with_toolkit(cpu_only(), "12.8"))
    assert (found.outcome, found.version) == (Outcome.FOUND, "12.8")
    assert (await read(NVCC, cpu_only())).outcome is Outcome.ABSENT
    broken = MachineRecord(platform=LINUX, commands=(answer("nvcc", "--version", stderr="oops"),))
    assert (await read(NVCC, broken)).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("record", "brand", "has_arm64", "is_translated"),
    [
        (mac("Apple M2"), "Apple M2", True, False),
        (mac("Apple processor"), "Apple processor", True, False),
        (rosetta(), "VirtualApple @ 2.50GHz", True, True),
        (intel_mac(), "Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", None, None),
    ],
)
async def test_sysctl_tells_the_processor(
    *, record: MachineRecord, brand: str, has_arm64: bool | None, is_translated: bool | None
) -> None:
    """What an older or another Mac does not know is unknown."""
    reading = await read_as(SysctlReading, SYSCTL, record)
    assert reading.outcome is Outcome.FOUND
    assert (reading.brand, reading.has_arm64, reading.is_translated) == (brand, has_arm64, is_translated)
    assert reading.memory_bytes == 16 << 30


async def test_sysctl_without_answers() -> None:
    """Not installed, refusing and hanging are three answers."""
    refusing = tuple(replace(result, returncode=1, stdout="") for result in mac().commands)
    hanging = (answer(*BRAND, timed_out=True, returncode=-9),)
    assert (await read(SYSCTL, cpu_only(MACOS_FACTS))).outcome is Outcome.ABSENT
    assert (await read(SYSCTL, replace(mac(), commands=refusing))).outcome is Outcome.FAILED
    assert (await read(SYSCTL, replace(mac(), commands=hanging))).outcome is Outcome.TIMED_OUT


async def test_macos_tells_its_version() -> None:
    """The version, or that it could not be found out."""
    assert (await read(MACOS, mac(version="14.5"))).version == "14.5"
    assert (await read(MACOS, mac(version="unknown"))).outcome is Outcome.FAILED
    assert (await read(MACOS, cpu_only(MACOS_FACTS))).outcome is Outcome.ABSENT


@pytest.mark.parametrize(
    ("version", "name"),
    [(90010, "gfx90a"), (90402, "gfx942"), (100300, "gfx1030"), (110000, "gfx1100"), (110501, "gfx1151")],
)
async def test_kfd_tells_the_architecture(version: int, name: str) -> None:
    """A target version's last two pairs are hexadecimal in the name; the processor's node is no GPU."""
    reading = await read(AMD, kfd({"gfx_target_version": version}))
    assert [(gpu.architecture, gpu.architecture_source) for gpu in reading.gpus] == [(name, "kfd")]
    assert reading.outcome is Outcome.FOUND


async def test_an_integrated_gpu_beside_a_discrete_one_is_marked() -> None:
    """Both are found, in the kernel's order, and told apart."""
    record = kfd({"gfx_target_version": 110000}, {"gfx_target_version": 100306})
    reading = await read(AMD, record)
    assert [(gpu.index, gpu.architecture, gpu.integrated) for gpu in reading.gpus] == [
        (0, "gfx1100", False),
        (1, "gfx1036", True),
    ]


async def test_nodes_are_taken_by_number() -> None:
    """Node 10 comes after node 2."""
    many = kfd(*({"gfx_target_version": 90402, "local_mem_size": n} for n in range(1, 12)))
    reading = await read(AMD, many)
    assert [gpu.memory_bytes for gpu in reading.gpus] == list(range(1, 12))


async def test_an_old_kernel_leaves_the_architecture_to_rocm() -> None:
    """Without a target version, the enumerator tells; the processor is none of its GPUs."""
    enumerator = answer("rocm_agent_enumerator", stdout="gfx000\ngfx906:sramecc+:xnack-\n")
    record = merged(kfd({}), MachineRecord(platform=LINUX, commands=(enumerator,)))
    (gpu,) = (await read(AMD, record)).gpus
    assert (gpu.architecture, gpu.architecture_source) == ("gfx906", "rocm_agent_enumerator")
    (alone,) = (await read(AMD, replace(cpu_only(), commands=(enumerator,)))).gpus
    assert alone.architecture == "gfx906"


async def test_an_architecture_that_nobody_tells_is_unknown() -> None:
    """Two GPUs and one name: which is whose cannot be told."""
    enumerator = answer("rocm_agent_enumerator", stdout="gfx906\n")
    record = merged(kfd({}, {}), MachineRecord(platform=LINUX, commands=(enumerator,)))
    assert [gpu.architecture for gpu in (await read(AMD, record)).gpus] == [None, None]


async def test_a_topology_that_can_not_be_read_failed() -> None:
    """No permission is another answer than no GPU; a hanging enumerator is a third."""
    refused = MachineRecord(platform=LINUX, unreadable={adapters.NODES: "permission denied"})
    hanging = replace(cpu_only(), commands=(answer("rocm_agent_enumerator", timed_out=True, returncode=-9),))
    assert (await read(AMD, refused)).outcome is Outcome.FAILED
    assert (await read(AMD, hanging)).outcome is Outcome.TIMED_OUT
    assert (await read(AMD, cpu_only())).outcome is Outcome.ABSENT


async def test_the_bus_tells_intels_gpus() -> None:
    """Display devices of Intel's only, by their device ids; others are known to be there."""
    record = pci(
        (0x060000, 0x8086, 0x4660),
        (0x030000, 0x8086, 0xA780),
        (0x038000, 0x8086, 0x56A0),
        (0x030000, 0x10DE, 0x2684),
    )
    reading = await read_as(IntelReading, INTEL, record)
    assert [(gpu.vendor, gpu.architecture) for gpu in reading.gpus] == [
        ("intel", "0xa780"),
        ("intel", "0x56a0"),
    ]
    assert [display.vendor for display in reading.displays] == [0x8086, 0x8086, 0x10DE]
    assert reading.outcome is Outcome.FOUND
    assert reading.bus_is_known


async def test_a_bus_that_does_not_tell_is_not_known() -> None:
    """A device without its files may be anything."""
    silent = MachineRecord(platform=LINUX, directories={adapters.DEVICES: ("0000:01:00.0",)})
    refused = MachineRecord(platform=LINUX, unreadable={adapters.DEVICES: "permission denied"})
    vendor = f"{adapters.DEVICES}/0000:01:00.0/vendor"
    half = replace(silent, unreadable={vendor: "permission denied"})
    assert (await read(INTEL, half)).outcome is Outcome.FAILED
    assert not (await read_as(IntelReading, INTEL, silent)).bus_is_known
    assert (await read(INTEL, silent)).outcome is Outcome.ABSENT
    assert (await read(INTEL, refused)).outcome is Outcome.FAILED


def listed_by_windows(stdout: str, returncode: int = 0) -> MachineRecord:
    """A Windows machine whose adapters are listed in this text."""
    command = answer("powershell", "-NoProfile", "-Command", QUERY, stdout=stdout, returncode=returncode)
    return MachineRecord(platform=WINDOWS, commands=(command,))


async def test_windows_tells_nvidias_driver_by_nvidias_number() -> None:
    """The last five digits of Windows' number are NVIDIA's; the name tells the capability."""
    record = replace(windows(RTX_4090, driver="560.94"), commands=windows(RTX_4090).commands[:1])
    reading = await read(WINDOWS_GPUS, record)
    assert reading.version == "560.94"
    assert [(gpu.architecture, gpu.architecture_source) for gpu in reading.gpus] == [("8.9", "name")]


async def test_windows_gives_one_object_or_an_array() -> None:
    """Several adapters, of several vendors, and one that is no device on the bus."""
    listed = [
        {
            "Name": "Intel(R) Arc(TM) B580 Graphics",
            "PNPDeviceID": "PCI\\VEN_8086&DEV_E20B&SUBSYS_1",
            "DriverVersion": "32.0.101.6314",
        },
        {"Name": "AMD Radeon RX 7900 XTX", "PNPDeviceID": "PCI\\VEN_1002&DEV_744C", "DriverVersion": None},
        {"Name": "Remote Display Adapter", "PNPDeviceID": "ROOT\\BASICDISPLAY", "DriverVersion": "10"},
    ]
    reading = await read(WINDOWS_GPUS, listed_by_windows(json.dumps(listed)))
    assert [(gpu.vendor, gpu.architecture) for gpu in reading.gpus] == [
        ("intel", "0xe20b"),
        ("amd", "0x744c"),
    ]
    assert [gpu.driver for gpu in reading.gpus] == ["32.0.101.6314", None]
    assert reading.version is None


async def test_windows_may_put_a_warning_in_front() -> None:
    """A profile that could not be loaded, a byte order mark: the list behind it counts."""
    listed = (
        '{"Name": "AMD Radeon RX 7600", "PNPDeviceID": "PCI\\\\VEN_1002&DEV_7480", "DriverVersion": "32"}'
    )
    for before in ("", "\ufeff", "WARNING: [1] of {2} modules is not signed\r\n", "\r\n"):
        reading = await read(WINDOWS_GPUS, listed_by_windows(f"{before}{listed}\r\n"))
        assert [gpu.vendor for gpu in reading.gpus] == ["amd"], before


async def test_a_card_under_windows_own_driver_has_none_of_nvidias() -> None:
    """Windows' basic adapter has a version that is not NVIDIA's."""
    basic = {
        "Name": "Microsoft Basic Display Adapter",
        "PNPDeviceID": "PCI\\VEN_10DE&DEV_2684",
        "DriverVersion": "10.0.19041.3636",
    }
    reading = await read(WINDOWS_GPUS, listed_by_windows(json.dumps(basic)))
    assert reading.version is None
    assert [gpu.vendor for gpu in reading.gpus] == ["nvidia"]


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (cpu_only(WINDOWS), Outcome.ABSENT),
        (listed_by_windows(""), Outcome.ABSENT),
        (listed_by_windows("Get-CimInstance : Zugriff verweigert", 1), Outcome.FAILED),
        (listed_by_windows("[" * 100_000), Outcome.FAILED),
        (listed_by_windows("", 1), Outcome.FAILED),
    ],
)
async def test_windows_without_gpus(record: MachineRecord, outcome: Outcome) -> None:
    """No adapter, a complaint in any language, and nonsense."""
    assert (await read(WINDOWS_GPUS, record)).outcome is outcome


@given(RECORDS)
def test_no_answer_breaks_a_probe(record: MachineRecord) -> None:
    """Whatever the machine answers, every probe has a reading with one short printable line."""
    for probe in PROBES:
        reading = probe.read(record)
        assert reading.outcome in Outcome
        assert len(reading.detail) <= DETAIL_LIMIT
        assert reading.detail.isprintable()
