"""Where probes contradict each other, the written rules decide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.visibility import nvidia_in_use
from moondream_station.core.capabilities.probes import nvidia
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.machine.machine import CommandResult
from moondream_station.core.machine.record import MachineRecord
from support.machines import (
    GTX_1080,
    LINUX,
    MACOS,
    RTX_4090,
    WINDOWS,
    Card,
    answer,
    capabilities_of,
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
    smi_answers,
    smi_fails,
    smi_hangs,
    windows,
    with_toolkit,
    wsl2,
)

NVIDIA_CARD = (0x030000, 0x10DE, 0x2684)
NETWORK = (0x020000, 0x8086, 0x15F3)
MISMATCH = smi_fails("Failed to initialize NVML: Driver/library version mismatch", 18)


def linux(*commands: CommandResult, driver: str | None = None) -> MachineRecord:
    """A Linux machine with these answers, and a driver in the kernel if one is given."""
    files = {} if driver is None else proc_version(driver)
    return MachineRecord(platform=LINUX, commands=commands, files=files)


def nvidia_of(capabilities: Capabilities) -> tuple[list[str | None], str | None, str | None]:
    """Capabilities of NVIDIA's GPUs, the driver, and who told it."""
    gpus = [gpu.architecture for gpu in capabilities.gpus_of("nvidia")]
    return (gpus, capabilities.nvidia_driver, capabilities.nvidia_driver_source)


def said(capabilities: Capabilities, *words: str) -> bool:
    """Whether one of the notes says all of this."""
    return any(all(word in note for word in words) for note in capabilities.notes)


def test_a_toolkit_without_a_driver_is_no_gpu() -> None:
    """Nvcc is reported, and there is nothing to compute on."""
    found = capabilities_of(with_toolkit(cpu_only(), "13.0"))
    assert found.nvcc == "13.0"
    assert nvidia_of(found) == ([], None, None)
    assert found.nvidia_cuda is None
    assert said(found, "CUDA toolkit 13", "ignored")


def test_a_toolkit_beside_a_driver_needs_no_word() -> None:
    """Its version has nothing to do with the driver's."""
    found = capabilities_of(with_toolkit(nvidia_linux(), "11.8"))
    assert (found.nvcc, found.nvidia_cuda) == ("11.8", "12.4")
    assert found.notes == ()


def test_nvidia_smi_is_believed_first() -> None:
    """Several GPUs keep its order and its numbers."""
    found = capabilities_of(nvidia_linux(RTX_4090, GTX_1080))
    assert nvidia_of(found) == (["8.9", "6.1"], "550.54.14", "nvidia-smi")
    assert [gpu.index for gpu in found.gpus] == [0, 1]


def test_one_unreadable_capability_does_not_shorten_the_list() -> None:
    """Every GPU is there, also the one that nobody can tell."""
    found = capabilities_of(nvidia_linux(RTX_4090, Card(name="Graphics Device", capability="[N/A]")))
    assert nvidia_of(found)[0] == ["8.9", None]


def test_a_hanging_tool_leaves_the_answer_to_the_kernel() -> None:
    """The driver is the kernel's, the GPU is one that nobody can tell."""
    found = capabilities_of(linux(*smi_hangs(), driver="550.54.14"))
    assert nvidia_of(found) == ([None], "550.54.14", "proc")
    assert said(found, "did not answer in time", "550.54.14")


def test_a_hanging_tool_leaves_the_cards_to_the_bus() -> None:
    """As many GPUs as the bus has cards of NVIDIA's; none where it is known to have none."""
    hanging = linux(*smi_hangs(), driver="550.54.14")
    assert nvidia_of(capabilities_of(merged(hanging, pci(NVIDIA_CARD, NETWORK, NVIDIA_CARD))))[0] == [
        "8.9",
        "8.9",
    ]
    assert nvidia_of(capabilities_of(merged(hanging, pci(NETWORK))))[0] == []


def test_a_hanging_tool_without_any_driver_is_no_gpu() -> None:
    """Nothing else tells of one."""
    found = capabilities_of(linux(*smi_hangs()))
    assert nvidia_of(found) == ([], None, None)
    assert said(found, "did not answer in time")


def test_half_an_answer_of_a_hanging_tool_counts() -> None:
    """What it told before it hung is better than what the kernel knows."""
    query = answer(*nvidia.QUERY, stdout=rows((RTX_4090,), "550.54.14"))
    hanging = answer(*nvidia.PLAIN, returncode=-9, timed_out=True)
    found = capabilities_of(linux(query, hanging, driver="550.54.14"))
    assert nvidia_of(found) == (["8.9"], "550.54.14", "nvidia-smi")


def test_driver_and_library_out_of_step() -> None:
    """The card is there, the kernel's driver is the loaded one, and a restart is asked for."""
    found = capabilities_of(merged(linux(*MISMATCH, driver="535.183.01"), pci(NVIDIA_CARD)))
    assert nvidia_of(found) == (["8.9"], "535.183.01", "proc")
    assert said(found, "out of step", "restart")


def test_a_tool_newer_than_the_kernels_driver_is_noticed() -> None:
    """Two versions at once are two sides of an unfinished update."""
    record = replace(nvidia_linux(driver="550.54.14"), files=proc_version("535.183.01"))
    assert said(capabilities_of(record), "550.54.14", "535.183.01", "restart")


def test_a_driver_without_a_device() -> None:
    """The tool reaches the driver, which has no GPU: nothing to compute on, whatever the bus shows."""
    nothing = smi_fails("No devices were found", 6)
    found = capabilities_of(merged(linux(*nothing, driver="550.54.14"), pci(NVIDIA_CARD)))
    assert nvidia_of(found) == ([], "550.54.14", "proc")
    assert said(found, "finds no GPU")


def test_a_container_without_its_gpu() -> None:
    """The host's driver and card shine through /proc and /sys; without the tool none can be used."""
    found = capabilities_of(merged(linux(driver="550.54.14"), pci(NVIDIA_CARD)))
    assert nvidia_of(found) == ([], "550.54.14", "proc")
    assert said(found, "--gpus all")


def test_a_container_that_lost_its_gpu() -> None:
    """NVML fails although the GPU is there: it is planned for, and a restart is asked for."""
    failing = smi_fails("Failed to initialize NVML: Unknown Error", 255)
    found = capabilities_of(merged(linux(*failing, driver="550.54.14"), pci(NVIDIA_CARD)))
    assert nvidia_of(found)[0] == ["8.9"]
    assert said(found, "restart the container")


def test_a_card_without_a_driver() -> None:
    """The GPU is known, without a driver, and the remedy is named."""
    found = capabilities_of(merged(cpu_only(), pci(NVIDIA_CARD)))
    assert nvidia_of(found) == (["8.9"], None, None)
    assert said(found, "install the driver")


def test_a_driver_that_is_not_loaded() -> None:
    """The tool is there, the module is not: the card has no driver."""
    text = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    found = capabilities_of(merged(linux(*smi_fails(text, 9)), pci(NVIDIA_CARD)))
    assert nvidia_of(found) == (["8.9"], None, None)
    assert said(found, "not loaded")


def test_a_tool_alone_is_nothing_to_tell() -> None:
    """An image made for GPUs, on a machine without one, is simply a machine without one."""
    text = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    found = capabilities_of(merged(linux(*smi_fails(text, 9)), pci(NETWORK)))
    assert nvidia_of(found) == ([], None, None)
    assert found.notes == ()


def test_a_lost_gpu_is_none_and_those_beside_it_count() -> None:
    """The lost one is named, and its neighbour keeps its number."""
    lost = "Unable to determine the device handle for GPU0: 0000:01:00.0: GPU is lost.  Reboot the system\n"
    beside = rows((RTX_4090, GTX_1080), "550.54.14").splitlines(keepends=True)[1]
    found = capabilities_of(
        linux(answer(*nvidia.QUERY, stdout=lost + beside, returncode=15), driver="550.54.14")
    )
    assert [(gpu.index, gpu.architecture) for gpu in found.gpus] == [(1, "6.1")]
    assert said(found, "lost", "restart")


@pytest.mark.parametrize(
    "text",
    ["Unable to determine the device handle for GPU0: GPU is lost.", "Unable to determine the device handle"],
)
def test_the_only_gpu_lost(text: str) -> None:
    """Nothing is left to compute on."""
    found = capabilities_of(merged(linux(*smi_fails(text, 15), driver="550.54.14"), pci(NVIDIA_CARD)))
    assert nvidia_of(found)[0] == []
    assert said(found, "restart")


@pytest.mark.parametrize("shown", ["N/A", "ERR!"])
def test_a_header_without_cuda(shown: str) -> None:
    """The driver is known, its CUDA is not, and why is said."""
    found = capabilities_of(linux(*smi_answers((RTX_4090,), "535.183.01", shown)))
    assert (found.nvidia_driver, found.nvidia_cuda) == ("535.183.01", None)
    assert said(found, shown, "compute,utility")


def test_the_new_header_of_610() -> None:
    """Driver and CUDA come from the new words."""
    found = capabilities_of(nvidia_linux(driver="610.57.04", cuda="13.3"))
    assert (found.nvidia_driver, found.nvidia_cuda) == ("610.57.04", "13.3")


def test_wsl2_has_the_driver_of_windows() -> None:
    """The tool's own number is not the driver's, and the kernel's files are missing there."""
    found = capabilities_of(wsl2(driver="596.36", smi="595.71.01"))
    assert found.surroundings == "wsl2"
    assert nvidia_of(found) == (["8.9"], "596.36", "nvidia-smi")
    assert found.notes == ()


def test_a_jetson_is_one_by_its_release() -> None:
    """Thor reports driver 580.00 and no memory of its own; Orin's driver is the kernel's."""
    tegra = replace(LINUX, release="6.8.12-tegra", machine="aarch64")
    thor = capabilities_of(
        nvidia_linux(
            Card(name="NVIDIA Thor", capability="11.0", memory="[N/A]"),
            driver="580.00",
            cuda="13.0",
            platform=tegra,
        )
    )
    assert thor.surroundings == "jetson"
    assert nvidia_of(thor) == (["11.0"], "580.00", "nvidia-smi")
    assert [(gpu.integrated, gpu.memory_bytes) for gpu in thor.gpus] == [(True, None)]
    card = Card(name="Orin (nvgpu)", capability="[N/A]", memory="[N/A]")
    orin = replace(
        linux(*smi_answers((card,), "[N/A]", "12.2"), driver="540.3.0"),
        platform=replace(tegra, release="5.15.136-tegra"),
    )
    assert nvidia_of(capabilities_of(orin)) == (["8.7"], "540.3.0", "proc")


def test_an_old_jetson_has_a_gpu_without_a_tool() -> None:
    """Before its sixth generation of software there is no nvidia-smi."""
    record = cpu_only(replace(LINUX, release="5.10.120-tegra", machine="aarch64"))
    found = capabilities_of(record)
    assert [(gpu.vendor, gpu.integrated) for gpu in found.gpus] == [("nvidia", True)]
    assert found.nvidia_driver is None


def test_windows_stands_in_for_a_hanging_tool() -> None:
    """Its adapters tell name and driver; the name tells the capability."""
    adapters = windows(RTX_4090, driver="560.94").commands[0]
    found = capabilities_of(MachineRecord(platform=WINDOWS, commands=(adapters, *smi_hangs())))
    assert nvidia_of(found) == (["8.9"], "560.94", "wmi")
    assert [gpu.index for gpu in found.gpus] == [0]


def test_windows_with_a_working_tool_lists_each_card_once() -> None:
    """Both know the card, and nvidia-smi is believed."""
    found = capabilities_of(windows(RTX_4090, driver="560.94"))
    assert nvidia_of(found) == (["8.9"], "560.94", "nvidia-smi")


def test_every_vendor_of_a_mixed_machine_is_listed() -> None:
    """NVIDIA's, AMD's discrete and integrated ones, and Intel's."""
    record = merged(
        nvidia_linux(),
        kfd({"gfx_target_version": 110000}, {"gfx_target_version": 100306}),
        pci(NVIDIA_CARD, (0x030000, 0x8086, 0xA780)),
    )
    found = capabilities_of(record)
    assert [(gpu.vendor, gpu.architecture) for gpu in found.gpus] == [
        ("nvidia", "8.9"),
        ("amd", "gfx1100"),
        ("amd", "gfx1036"),
        ("intel", "0xa780"),
    ]


@pytest.mark.parametrize("brand", ["Apple M2", "Apple processor"])
def test_apple_silicon(brand: str) -> None:
    """An arm64 Python on it has the GPU."""
    found = capabilities_of(mac(brand))
    assert (found.apple_silicon, found.in_rosetta, found.macos_version) == (True, False, "15.1")
    assert [(gpu.vendor, gpu.name) for gpu in found.gpus] == [("apple", brand)]
    assert (found.cpu_brand, found.memory_bytes) == (brand, 16 << 30)


@pytest.mark.parametrize(
    "record",
    [
        rosetta(),
        mac("VirtualApple @ 2.50GHz", arm64=None, translated=None, platform=replace(MACOS, machine="x86_64")),
        mac("Apple M1", platform=replace(MACOS, machine="x86_64")),
        cpu_only(replace(MACOS, machine="x86_64", in_rosetta=True)),
    ],
)
def test_rosetta_is_seen_whoever_tells(record: MachineRecord) -> None:
    """An x86-64 Python on Apple silicon is translated, and the remedy is named."""
    found = capabilities_of(record)
    assert (found.apple_silicon, found.in_rosetta) == (True, True)
    assert said(found, "Rosetta", "arm64 Python")


def test_an_intel_mac_has_no_gpu_for_torch() -> None:
    """Its sysctl does not even know the questions."""
    found = capabilities_of(intel_mac())
    assert (found.apple_silicon, found.in_rosetta, found.gpus, found.notes) == (False, False, (), ())
    assert found.macos_version == "10.15.7"


def test_a_silent_mac_is_not_judged() -> None:
    """Where nobody tells of Rosetta, it is unknown, which is said with what would follow."""
    found = capabilities_of(cpu_only(replace(MACOS, machine="x86_64")))
    assert found.in_rosetta is None
    assert said(found, "could not be detected", "arm64 Python")


def test_the_higher_version_of_macos_is_true() -> None:
    """A Python built for old systems is told 10.16."""
    old = replace(MACOS, mac_ver="10.16")
    assert capabilities_of(mac(version="14.5", platform=old)).macos_version == "14.5"
    assert capabilities_of(cpu_only(MACOS)).macos_version == "15.1"


def test_nothing_of_apples_off_macos() -> None:
    """Rosetta and macOS do not apply elsewhere."""
    found = capabilities_of(cpu_only())
    assert (found.apple_silicon, found.in_rosetta, found.macos_version, found.cpu_brand) == (
        False,
        None,
        None,
        None,
    )
    assert found.notes == ()


def test_the_variables_are_kept_and_not_applied() -> None:
    """Which GPUs a program may see is decided where a build is chosen."""
    found = capabilities_of(nvidia_linux(RTX_4090, GTX_1080, env={"CUDA_VISIBLE_DEVICES": "-1"}))
    assert found.variables == {"CUDA_VISIBLE_DEVICES": "-1"}
    assert nvidia_of(found)[0] == ["8.9", "6.1"]


def test_the_kernels_other_file_is_enough() -> None:
    """/sys tells the driver where /proc does not."""
    record = MachineRecord(platform=LINUX, commands=smi_hangs(), files={nvidia.SYS: "550.54.14\n"})
    assert nvidia_of(capabilities_of(record)) == ([None], "550.54.14", "sys")


def test_a_card_of_amds_that_the_bus_alone_shows_has_no_driver() -> None:
    """Where the kernel lists it for computing, the bus has nothing to add."""
    card = (0x030000, 0x1002, 0x744C)
    (gpu,) = capabilities_of(pci(NETWORK, card)).gpus
    assert (gpu.vendor, gpu.index, gpu.architecture, gpu.architecture_source) == ("amd", 0, None, "bus")
    (listed,) = capabilities_of(merged(pci(card), kfd({"gfx_target_version": 110000}))).gpus
    assert (listed.architecture, listed.architecture_source) == ("gfx1100", "kfd")
    assert capabilities_of(pci(NETWORK)).gpus == ()


@pytest.mark.parametrize(
    ("device", "is_said"),
    [(0x2684, True), (0x1287, False), (0x102D, True), (0x0001, True)],
    ids=["RTX 4090", "GT 730", "K80", "unknown"],
)
def test_a_driver_is_asked_for_where_it_could_help(device: int, *, is_said: bool) -> None:
    """No torch has code for compute capability 3.5."""
    found = capabilities_of(merged(linux(), pci((0x030000, 0x10DE, device))))
    assert said(found, "install the driver") is is_said


@pytest.mark.parametrize(
    ("driver", "device", "is_said"),
    [
        ("590.44.01", 0x1B80, True),  # GTX 1080
        ("580.95.05", 0x1B80, False),  # the last branch that supports it
        ("590.44.01", 0x1E84, False),  # RTX 2070 Super, which 590 supports
    ],
)
def test_a_gpu_that_the_driver_no_longer_supports_is_listed_as_that(
    driver: str, device: int, *, is_said: bool
) -> None:
    """From 590 on Maxwell, Pascal and Volta are no devices."""
    record = linux(*smi_fails("No devices were found", 6), driver=driver)
    found = capabilities_of(merged(record, pci((0x030000, 0x10DE, device))))
    assert [gpu.architecture_source for gpu in found.gpus] == (["unsupported"] if is_said else [])
    assert ("install driver 580" in (nvidia_in_use(found, load_catalog()).absence or "")) is is_said
