"""All probes at once, none raising and none hanging."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from moondream_station.core.capabilities.detect import PROBES, detect
from moondream_station.core.capabilities.probes.nvidia import NVIDIA_DRIVER, NVIDIA_SMI
from moondream_station.core.capabilities.probes.probe import NVCC
from moondream_station.core.facts.capabilities import Capabilities, Outcome, ProbeReport
from moondream_station.core.facts.errors import ProgramMissing
from moondream_station.core.machine.machine import CommandResult, LocalMachine, Machine, PlatformFacts
from moondream_station.core.machine.record import MachineRecord, RecordedMachine, Recorder, record_from_json
from support.machines import (
    LINUX,
    MACOS,
    WINDOWS,
    cpu_only,
    mac,
    merged,
    nvidia_linux,
    pci,
    proc_version,
    windows,
    with_toolkit,
)
from support.posix import make_fifo

pytestmark = pytest.mark.anyio


async def look(machine: Machine) -> Capabilities:
    """Detection without an audience."""
    return await detect(machine, on_probe=lambda _: None)


class Meeting:
    """A machine on which a program answers once several questions wait, and never before."""

    is_local = False
    facts = LINUX
    variables: Mapping[str, str] = {}

    def __init__(self, guests: int) -> None:
        self._missing = guests
        self._all_here = anyio.Event()

    async def run(self, *argv: str) -> CommandResult | None:
        """Wait for the others."""
        del argv
        self._missing -= 1
        if self._missing == 0:
            self._all_here.set()
        await self._all_here.wait()
        return None

    async def read(self, path: str) -> str | None:
        """There is no file."""
        await anyio.lowlevel.checkpoint()
        del path
        return None

    async def list(self, path: str) -> tuple[str, ...] | None:
        """There is no folder."""
        await anyio.lowlevel.checkpoint()
        del path
        return None


class Hanging(RecordedMachine):
    """A machine on which one program hangs, or one file does."""

    def __init__(
        self,
        facts: PlatformFacts,
        *,
        hangs: str,
        files: Mapping[str, str] | None = None,
        directories: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__(replace(cpu_only(facts), files=dict(files or {}), directories=directories or {}))
        self._hangs = hangs

    async def run(self, *argv: str) -> CommandResult | None:
        """Hang, or answer."""
        if argv[0] == self._hangs:
            await anyio.sleep_forever()
        return await super().run(*argv)

    async def read(self, path: str) -> str | None:
        """Hang, or answer."""
        if path == self._hangs:
            await anyio.sleep_forever()
        return await super().read(path)


class Failing(RecordedMachine):
    """A machine that can't even start a program."""

    def __init__(self, error: Exception) -> None:
        super().__init__(with_toolkit(cpu_only()))
        self._error = error

    async def run(self, *argv: str) -> CommandResult | None:
        """Fail."""
        await anyio.lowlevel.checkpoint()
        del argv
        raise self._error


async def test_all_questions_are_put_at_once() -> None:
    """Every program waits for the last one to be asked: in turn, none would ever answer."""
    programs = 4  # nvidia-smi twice, nvcc, rocm_agent_enumerator
    assert (await look(Meeting(programs))).gpus == ()


@pytest.mark.parametrize(
    ("machine", "others"),
    [
        (RecordedMachine(cpu_only()), {"sysctl", "macos", "windows_gpus"}),
        (RecordedMachine(mac()), {"windows_gpus"}),
        (RecordedMachine(windows()), {"sysctl", "macos"}),
    ],
)
async def test_each_probe_reports_once_and_in_order(machine: Machine, others: set[str]) -> None:
    """Every probe of this system is told as it ends, and listed in the probes' order."""
    told: list[ProbeReport] = []
    found = await detect(machine, on_probe=told.append)
    names = [probe.name for probe in PROBES if probe.name not in others]
    assert [report.probe for report in found.probes] == names
    assert sorted(told, key=lambda report: names.index(report.probe)) == list(found.probes)
    assert all(report.seconds >= 0 for report in told)


async def test_a_platform_is_always_found() -> None:
    """What Python knows is in the snapshot, whatever the probes say."""
    found = await look(RecordedMachine(cpu_only()))
    assert (found.system, found.release, found.machine) == (LINUX.system, LINUX.release, LINUX.machine)
    assert (found.python, found.libc) == (LINUX.python, LINUX.libc)
    assert found.outcome_of("platform") is Outcome.FOUND
    assert found.outcome_of("nvidia_smi") is Outcome.ABSENT


async def test_a_hang_costs_its_deadline_and_nothing_else() -> None:
    """The slow probe is timed out, the others answer, and the kernel's file stands in."""
    machine = Hanging(LINUX, hangs="nvidia-smi", files=proc_version("550.54.14"))
    hasty = (replace(NVIDIA_SMI, deadline_seconds=0.05), NVIDIA_DRIVER, NVCC)
    found = await detect(machine, on_probe=lambda _: None, probes=hasty)
    assert found.outcome_of("nvidia_smi") is Outcome.TIMED_OUT
    assert found.outcome_of("nvcc") is Outcome.ABSENT
    assert (found.nvidia_driver, found.nvidia_driver_source) == ("550.54.14", "proc")
    assert [gpu.architecture for gpu in found.gpus] == [None]


CARD, OTHER_CARD = (0x030000, 0x10DE, 0x2684), (0x030000, 0x10DE, 0x1B80)


@pytest.mark.parametrize(
    ("cards", "architectures"), [([CARD], ["8.9"]), ([CARD, (0x030200, 0x10DE, 0x2702)], ["8.9", "8.9"])]
)
async def test_a_hang_whose_answer_is_not_needed_costs_little(
    cards: list[tuple[int, int, int]], architectures: list[str]
) -> None:
    """Kernel and bus tell driver and architectures, so the tool's deadline of 15 s is not waited for."""
    bus = pci(*cards)
    files = {**proc_version("550.54.14"), **bus.files}
    machine = Hanging(LINUX, hangs="nvidia-smi", files=files, directories=bus.directories)
    with anyio.fail_after(10):
        found = await detect(machine, on_probe=lambda _: None, spare_after_seconds=0.05)
    assert found.outcome_of("nvidia_smi") is Outcome.TIMED_OUT
    assert [gpu.architecture for gpu in found.gpus] == architectures
    assert (found.nvidia_driver, found.nvidia_driver_source) == ("550.54.14", "proc")


@pytest.mark.parametrize(
    "record",
    [
        MachineRecord(platform=LINUX, files=proc_version("550.54.14")),
        merged(pci(CARD, OTHER_CARD), MachineRecord(platform=LINUX, files=proc_version("550.54.14"))),
        merged(
            pci((0x030000, 0x10DE, 0xFFFE)), MachineRecord(platform=LINUX, files=proc_version("550.54.14"))
        ),
        pci(CARD),
    ],
    ids=["no bus", "two architectures", "an unknown card", "no driver"],
)
async def test_an_answer_that_could_change_the_choice_is_waited_for(record: MachineRecord) -> None:
    """Where one of the facts is missing, or the GPUs differ, the tool has its whole deadline."""
    machine = Hanging(LINUX, hangs="nvidia-smi", files=record.files, directories=record.directories)
    with anyio.move_on_after(0.5) as waited:
        await detect(machine, on_probe=lambda _: None, spare_after_seconds=0.05)
    assert waited.cancelled_caught


async def test_a_hanging_file_is_timed_out_too() -> None:
    """A broken driver holds a read of its file; the probe gets past it."""
    machine = Hanging(LINUX, hangs="/sys/module/nvidia/version", files=proc_version("550.54.14"))
    hasty = (replace(NVIDIA_DRIVER, deadline_seconds=0.05),)
    found = await detect(machine, on_probe=lambda _: None, probes=hasty)
    (report,) = found.probes
    assert report.outcome is Outcome.TIMED_OUT
    assert "so far: kernel module 550.54.14" in report.detail
    assert found.nvidia_driver == "550.54.14"


async def test_a_slow_probe_is_named() -> None:
    """Whoever waits is told for what, before the deadline."""
    named: list[str] = []
    machine = Hanging(LINUX, hangs="nvcc")
    async with anyio.create_task_group() as group:

        def stop(name: str) -> None:
            named.append(name)
            group.cancel_scope.cancel()

        await detect(machine, on_probe=lambda _: None, on_slow=stop, slow_after_seconds=0.05)
    assert named == ["nvcc"]


@pytest.mark.parametrize(
    "error",
    [BlockingIOError(11, "Resource temporarily unavailable"), ProgramMissing("nvcc can't be started.")],
)
async def test_what_can_not_be_asked_failed(error: Exception) -> None:
    """A system out of processes makes no probe raise; it could not find out."""
    found = await look(Failing(error))
    (report,) = (report for report in found.probes if report.probe == "nvcc")
    assert report.outcome is Outcome.FAILED
    assert str(error) in report.detail
    assert found.outcome_of("nvidia_driver") is Outcome.ABSENT


async def test_cancelling_detection_ends_its_programs(tmp_path: Path) -> None:
    """Whoever cancels gets away, and no program is left behind."""
    make_fifo(tmp_path / "pid")
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$1" ] && exit 1\necho $$ > {tmp_path}/pid; exec sleep 60\n')
    program.chmod(0o755)
    machine = LocalMachine({"PATH": f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin"})
    async with anyio.create_task_group() as group:
        group.start_soon(look, machine)
        pid = int(await anyio.Path(tmp_path / "pid").read_text())
        group.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_real_programs_are_understood(tmp_path: Path) -> None:
    """Programs on PATH answer as recorded ones do, also when one of them hangs."""
    text = with_toolkit(cpu_only(), "12.8").commands[0].stdout
    (tmp_path / "nvcc").write_text(f"#!/bin/sh\ncat <<'E'\n{text}\nE\n")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    for name in ("nvcc", "nvidia-smi"):
        (tmp_path / name).chmod(0o755)
    machine = LocalMachine({"PATH": f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin"})
    hasty = (replace(NVIDIA_SMI, deadline_seconds=0.5), NVCC)
    found = await detect(machine, on_probe=lambda _: None, probes=hasty)
    assert found.nvcc == "12.8"
    assert found.outcome_of("nvidia_smi") is Outcome.TIMED_OUT


@pytest.mark.parametrize("record", [nvidia_linux(), mac(), windows(), cpu_only(MACOS), cpu_only(WINDOWS)])
async def test_what_a_recorder_keeps_is_detected_again(record: MachineRecord) -> None:
    """A machine and the record that detection makes of it are one to every probe."""
    machine = Recorder(RecordedMachine(record))
    found = await look(machine)
    again = await look(RecordedMachine(record_from_json(machine.record.to_json())))
    assert replace(again, probes=()) == replace(found, probes=())
    assert [(report.probe, report.outcome) for report in again.probes] == [
        (report.probe, report.outcome) for report in found.probes
    ]
