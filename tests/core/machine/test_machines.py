"""One contract, held by this computer and by a recorded one."""

from __future__ import annotations

import json
import os
import platform
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from moondream_station.core.facts.errors import UsageError
from moondream_station.core.machine.machine import (
    OUTPUT_LIMIT_BYTES,
    CommandResult,
    LocalMachine,
    Machine,
    Unreadable,
)
from moondream_station.core.machine.record import (
    MachineRecord,
    RecordedMachine,
    Recorder,
    record_from_json,
    with_python,
)
from support.machines import LINUX, answer, cpu_only
from support.posix import make_fifo

pytestmark = pytest.mark.anyio


def write_program(folder: Path, name: str, script: str) -> None:
    """A shell script as a program."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is all there is on PATH, with a program, a file and a folder in it."""
    write_program(tmp_path, "teller", 'echo "told $*"; echo "and more" >&2; exit 3')
    (tmp_path / "file").write_text("text\n", encoding="utf-8")
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "b").touch()
    (tmp_path / "names" / "a").touch()
    return tmp_path


@pytest.fixture
def environ(folder: Path) -> Mapping[str, str]:
    """Variables, one of them private."""
    return {"PATH": str(folder), "CUDA_VISIBLE_DEVICES": "1", "SECRET": "s"}


@pytest.fixture(params=["local", "recorded", "recorder", "with_python"])
def machine(request: pytest.FixtureRequest, folder: Path, environ: Mapping[str, str]) -> Machine:
    """The same machine, here and as a record."""
    local = LocalMachine(environ)
    record = MachineRecord(
        platform=local.facts,
        env={"CUDA_VISIBLE_DEVICES": "1"},
        commands=(
            CommandResult(
                argv=("teller", "a"), returncode=3, stdout="told a\n", stderr="and more\n", seconds=0.1
            ),
        ),
        files={f"{folder}/file": "text\n"},
        directories={f"{folder}/names": ("a", "b")},
    )
    every: dict[str, Machine] = {
        "local": local,
        "recorded": RecordedMachine(record),
        "recorder": Recorder(RecordedMachine(record)),
        "with_python": with_python(RecordedMachine(record), "3.11"),
    }
    return every[request.param]


async def test_a_program_answers(machine: Machine) -> None:
    """Output, errors and exit status arrive; the answer carries what was asked, not where the program is."""
    result = await machine.run("teller", "a")
    assert result is not None
    assert (result.argv, result.returncode) == (("teller", "a"), 3)
    assert (result.stdout, result.stderr) == ("told a\n", "and more\n")
    assert result.seconds > 0
    assert not result.timed_out


async def test_a_program_that_is_not_installed_is_none(machine: Machine) -> None:
    """Not installed is another answer than failed."""
    assert await machine.run("no-such-program") is None


async def test_a_file_is_read(machine: Machine, folder: Path) -> None:
    """A file's text, or None where there is none."""
    assert await machine.read(f"{folder}/file") == "text\n"
    assert await machine.read(f"{folder}/other") is None
    assert await machine.read(f"{folder}/file/below") is None


async def test_a_folder_is_listed_in_order(machine: Machine, folder: Path) -> None:
    """A folder's names, or None where there is none."""
    assert await machine.list(f"{folder}/names") == ("a", "b")
    assert await machine.list(f"{folder}/other") is None


def test_only_the_recorded_variables_are_seen(machine: Machine) -> None:
    """Nothing else of the environment is part of a machine."""
    assert dict(machine.variables) == {"CUDA_VISIBLE_DEVICES": "1"}


def test_the_override_of_one_amd_gpu_is_recorded() -> None:
    """ROCm reads it by the number of the GPU's node, before the one for every GPU."""
    own = {"HSA_OVERRIDE_GFX_VERSION": "11.0.0", "HSA_OVERRIDE_GFX_VERSION_1": "10.3.0"}
    others = {"HSA_OVERRIDE_GFX_VERSION_X": "s", "HSA_OVERRIDE_GFX_VERSION_": "s"}
    assert LocalMachine({**own, **others}).variables == own


def test_this_computer_tells_its_platform(environ: Mapping[str, str]) -> None:
    """The facts are Python's own, and the Python may be another."""
    facts = LocalMachine(environ).facts
    assert (facts.system, facts.machine) == (platform.system(), platform.machine())
    threading = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    assert facts.python == f"{platform.python_version()}{threading}"
    assert LocalMachine(environ, python="3.13.1").facts.python == "3.13.1"


def test_a_free_threaded_python_is_called_so(
    environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version alone does not tell, and it needs wheels of its own."""
    monkeypatch.setitem(sysconfig.get_config_vars(), "Py_GIL_DISABLED", 1)
    assert LocalMachine(environ).facts.python == f"{platform.python_version()}t"


async def test_a_program_in_the_current_folder_is_never_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an empty nor a relative entry of PATH leads to a program."""
    monkeypatch.chdir(folder)
    machine = LocalMachine({"PATH": f"{os.pathsep}.{os.pathsep}names/.."})
    assert await machine.run("teller", "a") is None


async def test_a_program_that_can_not_be_started_fails(folder: Path, environ: Mapping[str, str]) -> None:
    """It is there, so it is not absent; what the system says about it is the answer."""
    broken = folder / "broken"
    broken.write_bytes(b"\x7fELF and nothing more")
    broken.chmod(0o755)
    result = await LocalMachine(environ).run("broken")
    assert result is not None
    assert result.returncode == 126
    assert result.stderr


async def test_what_a_program_gets_of_the_environment(folder: Path, environ: Mapping[str, str]) -> None:
    """A probe's program answers in English and sees no secret."""
    write_program(folder, "shower", 'echo "$LC_ALL [$SECRET]"')
    result = await LocalMachine(environ).run("shower")
    assert result is not None
    assert result.stdout == "C []\n"


async def test_undecodable_bytes_do_no_harm(folder: Path, environ: Mapping[str, str]) -> None:
    """Programs and files in another encoding are read with replacements."""
    (folder / "latin").write_bytes(b"caf\xe9")
    write_program(folder, "latin-teller", "printf 'caf\\351'")
    machine = LocalMachine(environ)
    assert await machine.read(f"{folder}/latin") == "caf\ufffd"
    result = await machine.run("latin-teller")
    assert result is not None
    assert result.stdout == "caf\ufffd"


async def test_answers_are_capped(folder: Path, environ: Mapping[str, str]) -> None:
    """Neither a file nor an output is kept beyond the limit."""
    with (folder / "long").open("wb") as file:
        file.truncate(OUTPUT_LIMIT_BYTES + 5)
    write_program(folder, "talker", f"head -c {OUTPUT_LIMIT_BYTES + 5} /dev/zero")
    machine = LocalMachine({**environ, "PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"})
    text = await machine.read(f"{folder}/long")
    result = await machine.run("talker")
    assert text is not None
    assert result is not None
    assert len(text) == len(result.stdout) == OUTPUT_LIMIT_BYTES


async def test_what_can_not_be_read_says_why(folder: Path, environ: Mapping[str, str]) -> None:
    """A path that exists and can't be read is neither a text nor absent."""
    machine = LocalMachine(environ)
    with pytest.raises(Unreadable, match="is a directory"):
        await machine.read(f"{folder}/names")
    recorded = RecordedMachine(MachineRecord(platform=LINUX, unreadable={"/dev/kfd": "permission denied"}))
    with pytest.raises(Unreadable, match="permission denied"):
        await recorded.read("/dev/kfd")
    with pytest.raises(Unreadable, match="permission denied"):
        await recorded.list("/dev/kfd")


async def test_a_known_program_with_other_arguments_exits_1() -> None:
    """A record is asked something else than it holds."""
    machine = RecordedMachine(MachineRecord(platform=LINUX, commands=(answer("nvcc", "--version"),)))
    assert await machine.run("nvcc") == CommandResult(argv=("nvcc",), returncode=1)


async def test_a_recorded_time_out_does_not_take_its_time() -> None:
    """A recorded hang is told as one, at once."""
    machine = RecordedMachine(
        MachineRecord(platform=LINUX, commands=(answer("nvidia-smi", timed_out=True, returncode=-9),))
    )
    result = await machine.run("nvidia-smi")
    assert result is not None
    assert result.timed_out


def test_another_python_is_the_only_difference() -> None:
    """`--python` replaces one fact."""
    machine = with_python(RecordedMachine(cpu_only()), "3.11")
    assert machine.facts.python == "3.11"
    assert machine.facts.system == "Linux"
    assert not machine.is_local
    with pytest.raises(UsageError, match="not a Python version"):
        with_python(machine, "three")


async def test_a_record_of_this_computer_answers_like_it(folder: Path, environ: Mapping[str, str]) -> None:
    """What a recorder kept, written and read again, gives the same answers."""
    recorder = Recorder(LocalMachine(environ))
    told = await recorder.run("teller", "a")
    missing = await recorder.run("no-such-program")
    text = await recorder.read(f"{folder}/file")
    names = await recorder.list(str(folder))
    with pytest.raises(Unreadable):
        await recorder.read(f"{folder}/names")
    again = RecordedMachine(record_from_json(json.loads(json.dumps(recorder.record.to_json()))))
    assert await again.run("teller", "a") == told
    assert await again.run("no-such-program") is missing is None
    assert await again.read(f"{folder}/file") == text
    assert await again.list(str(folder)) == names
    with pytest.raises(Unreadable, match="is a directory"):
        await again.read(f"{folder}/names")


async def test_a_cancelled_question_is_recorded_as_a_hang(folder: Path, environ: Mapping[str, str]) -> None:
    """A record shows which program hangs; ending it leaves nothing behind."""
    make_fifo(folder / "pid")
    write_program(folder, "hanger", f"echo $$ > {folder}/pid; exec sleep 60")
    recorder = Recorder(LocalMachine({**environ, "PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"}))
    async with anyio.create_task_group() as group:
        group.start_soon(recorder.run, "hanger")
        pid = int(await anyio.Path(folder / "pid").read_text())  # waits until the program opens it too
        group.cancel_scope.cancel()
    (result,) = recorder.record.commands
    assert result.argv == ("hanger",)
    assert result.timed_out
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_python_of_32_bits_is_no_64_bit_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """`platform.machine()` names the CPU; no 64-bit wheel fits, and a record says so as well."""
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert LocalMachine({}).facts.machine in {"i686", "armv7l", "arm", "x86"}
    monkeypatch.undo()
    assert LocalMachine({}).facts.machine == platform.machine()
