"""Recorded machines, made from a few facts: values invented, layouts as the real tools print them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import anyio

from moondream_station.core.capabilities.detect import detect
from moondream_station.core.capabilities.probes import adapters, nvidia
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.machine.machine import CommandResult, PlatformFacts
from moondream_station.core.machine.record import MachineRecord, RecordedMachine

LINUX = PlatformFacts(
    system="Linux",
    release="6.8.0-45-generic",
    version="#45-Ubuntu SMP PREEMPT_DYNAMIC",
    machine="x86_64",
    libc=("glibc", "2.39"),
    python="3.12.3",
)
WINDOWS = PlatformFacts(
    system="Windows", release="11", version="10.0.26100", machine="AMD64", python="3.12.3"
)
MACOS = PlatformFacts(
    system="Darwin",
    release="24.1.0",
    version="Darwin Kernel Version 24.1.0",
    machine="arm64",
    mac_ver="15.1",
    python="3.12.3",
)

RULE = "+-----------------------------------------------------------------------------------------+"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU as nvidia-smi tells of it; what it would not tell is "[N/A]"."""

    name: str = "NVIDIA GeForce RTX 4090"
    capability: str = "8.9"
    memory: str = "24564"


RTX_4090 = Card()
GTX_1080 = Card(name="NVIDIA GeForce GTX 1080", capability="6.1", memory="8192")
RTX_5090 = Card(name="NVIDIA GeForce RTX 5090", capability="12.0", memory="32607")


def answer(
    *argv: str, stdout: str = "", stderr: str = "", returncode: int = 0, timed_out: bool = False
) -> CommandResult:
    """A program's answer."""
    return CommandResult(
        argv=argv, returncode=returncode, stdout=stdout, stderr=stderr, seconds=0.1, timed_out=timed_out
    )


def header(driver: str, cuda: str, *, smi: str | None = None) -> str:
    """The header of nvidia-smi's table: the new words from driver 610 on."""
    is_new = driver.partition(".")[0].isdigit() and int(driver.partition(".")[0]) >= 610
    words = ("KMD Version", "CUDA UMD Version") if is_new else ("Driver Version", "CUDA Version")
    line = f"| NVIDIA-SMI {smi or driver:<22} {words[0]}: {driver:<14} {words[1]}: {cuda:<8}"
    return f"Mon Nov 23 10:00:00 2026       \n{RULE}\n{line:<90}|\n{RULE}\n"


def table(cards: Iterable[Card], driver: str, cuda: str, *, smi: str | None = None) -> str:
    """What plain nvidia-smi prints: long names are cut."""
    lines = [
        header(driver, cuda, smi=smi).removesuffix("\n"),
        "| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |",
        "|=========================================+========================+======================|",
    ]
    for n, card in enumerate(cards):
        name = card.name if len(card.name) <= 27 else f"{card.name[:24]}..."
        memory = "Not Supported" if card.memory.startswith("[") else f"1MiB / {card.memory:>6}MiB"
        lines += [
            f"| {n:>3}  {name:<27}  Off |   00000000:{n + 1:02X}:00.0 Off |                  N/A |",
            f"| 30%   33C    P8              9W /  250W |{memory:>23} |      0%      Default |",
            RULE,
        ]
    return "\n".join(lines) + "\n"


def rows(cards: Iterable[Card], driver: str, *, with_capability: bool = True) -> str:
    """What the csv query prints."""
    return "".join(
        ", ".join(
            (
                str(n),
                card.name,
                driver,
                *((card.capability,) if with_capability else ()),
                card.memory,
            )
        )
        + "\n"
        for n, card in enumerate(cards)
    )


def smi_answers(
    cards: tuple[Card, ...], driver: str, cuda: str, *, smi: str | None = None, is_old: bool = False
) -> tuple[CommandResult, ...]:
    """All that nvidia-smi answers; an old driver refuses to tell compute capabilities."""
    plain = answer(*nvidia.PLAIN, stdout=table(cards, driver, cuda, smi=smi))
    if not is_old:
        return (answer(*nvidia.QUERY, stdout=rows(cards, driver)), plain)
    refused = 'Field "compute_cap" is not a valid field to query.\n\n'
    old_rows = rows(cards, driver, with_capability=False)
    return (
        answer(*nvidia.QUERY, stdout=refused, returncode=2),
        answer(*nvidia.OLD_QUERY, stdout=old_rows),
        plain,
    )


def smi_fails(text: str, returncode: int) -> tuple[CommandResult, ...]:
    """An nvidia-smi that answers every question with the same complaint."""
    return tuple(
        answer(*argv, stdout=f"{text}\n", returncode=returncode) for argv in (nvidia.QUERY, nvidia.PLAIN)
    )


def smi_hangs() -> tuple[CommandResult, ...]:
    """An nvidia-smi that never answers."""
    return tuple(answer(*argv, returncode=-9, timed_out=True) for argv in (nvidia.QUERY, nvidia.PLAIN))


def proc_version(driver: str, *, is_open: bool = True) -> dict[str, str]:
    """The kernel's file about its NVIDIA module."""
    kind = "Open Kernel Module for x86_64" if is_open else "x86_64 Kernel Module"
    line = f"NVRM version: NVIDIA UNIX {kind}  {driver}  Release Build  (builder@U16)  Mon Nov 23 2026"
    return {nvidia.PROC: f"{line}\nGCC version:  gcc version 13.2.0 (Ubuntu 13.2.0-4ubuntu3)\n"}


def pci(*devices: tuple[int, int, int]) -> MachineRecord:
    """A PCI bus with devices given as class, vendor and device."""
    addresses = tuple(f"0000:{n:02x}:00.0" for n in range(len(devices)))
    files = {
        f"{adapters.DEVICES}/{address}/{name}": f"0x{value:0{width}x}\n"
        for address, device in zip(addresses, devices, strict=True)
        for name, value, width in zip(("class", "vendor", "device"), device, (6, 4, 4), strict=True)
    }
    return MachineRecord(platform=LINUX, files=files, directories={adapters.DEVICES: addresses})


def kfd(*nodes: Mapping[str, int]) -> MachineRecord:
    """The kernel's compute topology; node 0 is the processor."""
    cpu = {"cpu_cores_count": 16, "simd_count": 0, "gfx_target_version": 0, "vendor_id": 0, "device_id": 0}
    usual = {"cpu_cores_count": 0, "simd_count": 96, "local_mem_size": 0, "vendor_id": 4098}
    every = (cpu, *({**usual, **node} for node in nodes))
    files = {
        f"{adapters.NODES}/{n}/properties": "".join(f"{key} {value}\n" for key, value in node.items())
        for n, node in enumerate(every)
    }
    return MachineRecord(
        platform=LINUX, files=files, directories={adapters.NODES: tuple(str(n) for n in range(len(every)))}
    )


def merged(*records: MachineRecord) -> MachineRecord:
    """One machine that has what each of these has; its platform is the first one's."""
    return replace(
        records[0],
        env={key: value for record in records for key, value in record.env.items()},
        commands=tuple(result for record in records for result in record.commands),
        files={path: text for record in records for path, text in record.files.items()},
        directories={path: names for record in records for path, names in record.directories.items()},
        unreadable={path: why for record in records for path, why in record.unreadable.items()},
    )


async def look(record: MachineRecord) -> Capabilities:
    """What detection makes of a recorded machine."""
    return await detect(RecordedMachine(record), on_probe=lambda _: None)


def capabilities_of(record: MachineRecord) -> Capabilities:
    """The same, for tests that have no event loop."""
    return anyio.run(look, record)


def cpu_only(platform: PlatformFacts = LINUX) -> MachineRecord:
    """A machine without any GPU."""
    return MachineRecord(platform=platform)


def nvidia_linux(
    *cards: Card,
    driver: str = "550.54.14",
    cuda: str = "12.4",
    platform: PlatformFacts = LINUX,
    env: Mapping[str, str] | None = None,
    is_old: bool = False,
) -> MachineRecord:
    """A Linux machine with NVIDIA's GPUs; one RTX 4090 if none is given."""
    return MachineRecord(
        platform=platform,
        env=dict(env or {}),
        commands=smi_answers(cards or (RTX_4090,), driver, cuda, is_old=is_old),
        files={**proc_version(driver), nvidia.SYS: f"{driver}\n"},
    )


def wsl2(*cards: Card, driver: str = "596.36", cuda: str = "13.2", smi: str = "595.71.01") -> MachineRecord:
    """WSL2: no kernel files, and a tool whose own number is not the driver's."""
    return MachineRecord(
        platform=replace(LINUX, release="5.15.153.1-microsoft-standard-WSL2"),
        commands=smi_answers(cards or (RTX_4090,), driver, cuda, smi=smi),
    )


def windows(*cards: Card, driver: str = "560.94", cuda: str = "12.6") -> MachineRecord:
    """A Windows machine with NVIDIA's GPUs; without one, there is Windows' own adapter."""
    digits = driver.replace(".", "")
    entries = [
        f'{{"Name": "{card.name}", "PNPDeviceID": "PCI\\\\VEN_10DE&DEV_2684&SUBSYS_16F310DE&REV_A1", '
        f'"DriverVersion": "32.0.1{digits[0]}.{digits[1:]}"}}'
        for card in cards
    ]
    listed = f"[{', '.join(entries)}]" if len(entries) > 1 else "".join(entries)
    powershell = answer("powershell", "-NoProfile", "-Command", adapters.QUERY, stdout=listed)
    smi = smi_answers(cards, driver, cuda) if cards else ()
    return MachineRecord(platform=WINDOWS, commands=(powershell, *smi))


def mac(
    brand: str = "Apple M2",
    *,
    arm64: str | None = "1",
    translated: str | None = "0",
    version: str = "15.1",
    platform: PlatformFacts = MACOS,
) -> MachineRecord:
    """A Mac; None for what its sysctl does not know."""
    told = {
        "machdep.cpu.brand_string": brand,
        "hw.optional.arm64": arm64,
        "sysctl.proc_translated": translated,
        "hw.memsize": "17179869184",
    }
    values = tuple(
        answer("sysctl", "-n", name, stdout=f"{value}\n")
        if value is not None
        else answer("sysctl", "-n", name, stderr=f"sysctl: unknown oid '{name}'\n", returncode=1)
        for name, value in told.items()
    )
    return MachineRecord(
        platform=platform, commands=(*values, answer("sw_vers", "-productVersion", stdout=f"{version}\n"))
    )


def intel_mac() -> MachineRecord:
    """A Mac with a processor of Intel's."""
    platform = replace(MACOS, machine="x86_64", release="19.6.0", mac_ver="10.15.7")
    brand = "Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz"
    return mac(brand, arm64=None, translated=None, version="10.15.7", platform=platform)


def rosetta() -> MachineRecord:
    """Apple silicon under an x86-64 Python."""
    return mac("VirtualApple @ 2.50GHz", translated="1", platform=replace(MACOS, machine="x86_64"))


def with_toolkit(record: MachineRecord, release: str = "13.0") -> MachineRecord:
    """The same machine with a CUDA toolkit."""
    text = (
        "nvcc: NVIDIA (R) Cuda compiler driver\nCopyright (c) 2005-2025 NVIDIA Corporation\n"
        f"Cuda compilation tools, release {release}, V{release}.48\n"
    )
    return replace(record, commands=(*record.commands, answer("nvcc", "--version", stdout=text)))
