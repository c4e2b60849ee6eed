"""What is found in a home: environments, backends, the station's own files; and what is repaired."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from moondream_station.core.bus.journal import Journal
from moondream_station.core.environments.store import unfinished
from moondream_station.core.facts.errors import ErrorInfo
from moondream_station.core.facts.events import (
    ActivationFailed,
    ActivationSucceeded,
    BackendActivationRequested,
    Degraded,
    Event,
    Fact,
    Stage,
    StopReason,
    VerificationCompleted,
    VerificationReport,
    WorkerStarted,
    WorkerStopped,
)
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import activation_lock, announce_station
from moondream_station.core.home.settings import Settings
from moondream_station.core.machine.machine import Machine
from moondream_station.core.machine.record import MachineRecord
from moondream_station.doctor.examination import examine
from moondream_station.doctor.home import repair
from moondream_station.doctor.report import Report, Status
from support import machines as m
from support.environments import made_home
from support.patients import ALONE, Here, finding_of, ids_of, install, site_packages_of, words_of

pytestmark = pytest.mark.anyio

ACTIVATION = "20261123T100000Z-ab12cd"
_DEAD = {"pid": 2**22 + 1, "process_created_at": 1.0, "since": "2026-11-23T10:00:00.000000Z"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of the test's own."""
    return made_home(tmp_path)


async def examined(home: Home, record: MachineRecord | None = None, **settings: object) -> Report:
    """The report on this computer with that home."""
    machine: Machine = Here(record or m.cpu_only())
    return await examine(
        home=home,
        settings=Settings(**settings),  # type: ignore[arg-type]
        environ={**ALONE, "MOONDREAM_STATION_HOME": str(home.root)},
        machine=machine,
        offline=True,
    )


def told(home: Home, *facts: Fact, activation: str | None = ACTIVATION) -> None:
    """Write facts to the home's journal."""
    journal = Journal(home)
    for fact in facts:
        seq = 1 + sum(len(path.read_bytes().splitlines()) for path in home.root.glob("*/*.jsonl"))
        journal.record(
            Event(seq=seq, at=datetime(2026, 11, 23, 10, tzinfo=UTC), activation=activation, fact=fact)
        )


async def test_a_model_that_is_whole_is_well(home: Home) -> None:
    """An environment as it was committed is no matter of complaint."""
    await install(home)
    report = await examined(home)
    assert ids_of(report.findings, Status.ERROR) == {"backends.code"}  # its code was never put there
    assert "is whole" in finding_of(report, "environments.active").summary
    assert "2.9.0+cpu" in finding_of(report, "torch.installed").summary


async def test_an_environment_that_lost_a_file_is_an_error(home: Home) -> None:
    """The model can't be relied on; the file is named, and how to install it anew."""
    committed = await install(home)
    (site_packages_of(committed) / "torch" / "cuda.py").unlink()
    finding = finding_of(await examined(home), "environments.active")
    assert finding.status is Status.ERROR
    assert "torch/cuda.py is missing" in words_of(finding)
    assert "\nmoondream-station switch selftest" in words_of(finding)


async def test_a_file_with_other_contents_of_the_same_size_is_found(home: Home) -> None:
    """What neither size nor presence shows; a file that was only touched is nothing."""
    committed = await install(home)
    committed_at = committed.place.commit.stat().st_mtime
    for name in ("__init__.py", "cuda.py"):
        path = site_packages_of(committed) / "torch" / name
        if name == "cuda.py":
            path.write_bytes(path.read_bytes()[:-1] + b"#")
        os.utime(path, (committed_at + 5, committed_at + 5))
    finding = finding_of(await examined(home), "environments.active")
    assert finding.status is Status.WARNING
    assert "torch/cuda.py." in words_of(finding)
    assert "__init__" not in words_of(finding)


async def test_an_environment_that_is_gone_is_an_error(home: Home) -> None:
    """`active.json` names what is not there any more."""
    committed = await install(home)
    committed.place.commit.unlink()
    assert finding_of(await examined(home), "environments.active").status is Status.ERROR


async def test_a_record_of_models_that_cannot_be_read_is_an_error(home: Home) -> None:
    """One check says so; those that need to know the model are skipped."""
    home.active.write_text("{torn")
    report = await examined(home)
    assert finding_of(report, "environments.active").status is Status.ERROR
    assert "torch.installed" in ids_of(report.findings, Status.SKIPPED)


async def test_another_model_that_is_broken_is_a_warning(home: Home) -> None:
    """The active one works all the same."""
    other = await install(home, "moondream-2", torch="2.8.0")
    await install(home)
    assert "moondream-2" in finding_of(await examined(home), "environments.others").summary
    other.place.commit.unlink()
    finding = finding_of(await examined(home), "environments.others")
    assert finding.status is Status.WARNING
    assert "moondream-2" in words_of(finding)


async def test_cpu_torch_on_a_machine_with_a_gpu_is_a_warning(home: Home) -> None:
    """It works worse than it could; unless the processor was asked for."""
    await install(home)
    finding = finding_of(await examined(home, m.nvidia_linux()), "torch.installed")
    assert finding.status is Status.WARNING
    assert "cu126" in finding.summary
    assert "moondream-station switch selftest --strategy auto --upgrade" in words_of(finding)
    wanted = finding_of(await examined(home, m.nvidia_linux(), strategy="cpu"), "torch.installed")
    assert wanted.status is Status.OK


async def test_a_degraded_model_is_a_warning(home: Home) -> None:
    """What was wanted is named, and why it was not had."""
    await install(home, degraded=Degraded(wanted="cu126", reason="The GPU was busy."))
    finding = finding_of(await examined(home), "torch.installed")
    assert finding.status is Status.WARNING
    assert "instead of cu126" in finding.summary
    assert finding.detail == "The GPU was busy."


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (
            m.nvidia_linux(m.Card(name="GeForce GTX 970", capability="5.2")),
            "no code for compute capability 5.2",
        ),
        (m.nvidia_linux(driver="450.80.02", cuda="11.0"), "needs driver"),
        (m.cpu_only(), "no NVIDIA driver was found"),
    ],
)
async def test_an_installed_build_that_the_machine_cannot_run_is_an_error(
    home: Home, machine: MachineRecord, says: str
) -> None:
    """A GPU without code in the build, a driver that is too old for it, a GPU that is gone."""
    await install(home, torch="2.9.0", build="cu128")
    finding = finding_of(await examined(home, machine), "torch.installed")
    assert finding.status is Status.ERROR
    assert says in words_of(finding)


async def test_one_gpu_of_two_without_code_is_a_warning(home: Home) -> None:
    """The model computes on the other one."""
    await install(home, torch="2.9.0", build="cu128")
    cards = (m.RTX_4090, m.Card(name="GeForce GTX 970", capability="5.2"))
    record = m.nvidia_linux(*cards, driver="580.65.06", cuda="13.0")
    finding = finding_of(await examined(home, record), "torch.installed")
    assert finding.status is Status.WARNING
    assert "GTX 970" in words_of(finding)


async def test_a_newer_torch_is_told_and_is_no_warning(home: Home) -> None:
    """Nothing is installed anew by itself."""
    await install(home, torch="2.8.0")
    finding = finding_of(await examined(home), "torch.installed")
    assert finding.status is Status.OK
    assert "--upgrade" in words_of(finding)


async def test_the_toolkit_is_held_against_the_installed_torch(home: Home) -> None:
    """What torch itself said of its CUDA counts."""
    verification = VerificationReport(
        torch="2.9.0+cu128", build="cu128", cuda_version="12.8", compute_ok=True
    )
    await install(home, build="cu128", verification=verification)
    record = m.nvidia_linux(driver="580.65.06", cuda="13.0")
    same = await examined(home, m.with_toolkit(record, "12.8"))
    assert finding_of(same, "gpu.toolkit").status is Status.OK
    other = await examined(home, m.with_toolkit(record, "13.0"))
    assert "torch's CUDA is 12.8" in finding_of(other, "gpu.toolkit").summary


async def test_a_crashed_worker_is_an_error_with_its_last_lines(home: Home) -> None:
    """Until the model ran again."""
    await install(home)
    (home.logs / "selftest.log").write_text("begin\nRuntimeError: out of cheese\n")
    crash = WorkerStopped(model="selftest", pid=7, reason=StopReason.CRASHED)
    told(home, WorkerStarted(model="selftest", pid=7), crash, activation=None)
    finding = finding_of(await examined(home), "backends.worker")
    assert finding.status is Status.ERROR
    assert "RuntimeError: out of cheese" in words_of(finding)
    assert "moondream-station logs selftest" in words_of(finding)
    told(
        home,
        VerificationCompleted(ok=True, report=VerificationReport(), mismatches=()),
        WorkerStopped(model="selftest", pid=8, reason=StopReason.SHUTDOWN),
        activation=None,
    )
    assert finding_of(await examined(home), "backends.worker").status is Status.OK


async def test_a_worker_that_crashed_in_a_switch_is_that_switchs_matter(home: Home) -> None:
    """The environment that the model had before still works."""
    await install(home)
    why = ErrorInfo(code="worker-failed", message="The worker died.")
    requested = BackendActivationRequested(
        model="selftest", backend="selftest", requirements=("torch",), strategy="auto"
    )
    told(home, requested, WorkerStarted(model="selftest", pid=7))
    told(home, WorkerStopped(model="selftest", pid=7, reason=StopReason.CRASHED), activation=None)
    told(home, ActivationFailed(model="selftest", stage=Stage.VERIFY, error=why))
    report = await examined(home)
    assert finding_of(report, "backends.worker").status is Status.OK
    assert finding_of(report, "backends.activation").status is Status.WARNING


async def test_a_switch_that_failed_is_told(home: Home) -> None:
    """It is an error while nothing else works, and a warning where the model before it does."""
    why = ErrorInfo(code="worker-failed", message="The worker died.", hint="Look at its log.")
    requested = BackendActivationRequested(
        model="selftest", backend="selftest", requirements=("torch",), strategy="auto"
    )
    told(home, requested, ActivationFailed(model="selftest", stage=Stage.START, error=why))
    finding = finding_of(await examined(home), "backends.activation")
    assert finding.status is Status.ERROR
    assert "worker-failed" in finding.summary
    assert "Look at its log." in words_of(finding)
    await install(home)
    assert finding_of(await examined(home), "backends.activation").status is Status.WARNING
    succeeded = ActivationSucceeded(
        model="selftest", backend="selftest", build="cpu", environment="e", degraded=None, seconds=1.0
    )
    told(home, requested, succeeded, activation="20261123T110000Z-ab12cd")
    assert finding_of(await examined(home), "backends.activation").status is Status.OK


async def test_a_switch_to_an_unknown_model_is_not_to_be_retried(home: Home) -> None:
    """It would fail again; the models that there are help."""
    why = ErrorInfo(
        code="unknown-model", message="There is no model 'x'.", hint="Available models: selftest."
    )
    requested = BackendActivationRequested(model="x", backend=None, requirements=(), strategy="auto")
    told(home, requested, ActivationFailed(model="x", stage=Stage.PREPARE, error=why))
    finding = finding_of(await examined(home), "backends.activation")
    assert "Available models: selftest." in words_of(finding)
    assert "moondream-station switch x" not in words_of(finding)


async def test_an_active_model_that_nobody_knows_is_an_error(home: Home) -> None:
    """The manifest has changed, or is another one."""
    await install(home, "gone")
    finding = finding_of(await examined(home), "backends.model")
    assert finding.status is Status.ERROR
    assert "moondream-station models" in words_of(finding)


async def test_a_manifest_that_cannot_be_read_is_an_error(home: Home) -> None:
    """And what needs it is skipped."""
    report = await examined(home, manifest=str(home.root / "nothing.json"))
    assert finding_of(report, "backends.manifest").status is Status.ERROR
    assert "gpu.build" in ids_of(report.findings, Status.SKIPPED)
    assert finding_of(report, "gpu.devices").status is not Status.ERROR


async def test_settings_that_cannot_be_used_are_an_error(home: Home) -> None:
    """A value of the wrong kind, and a strategy that is none."""
    home.config.write_text(json.dumps({"service_port": "many"}))
    assert "service_port" in words_of(finding_of(await examined(home), "station.settings"))
    home.config.write_text(json.dumps({"strategy": "fastest"}))
    report = await examined(home, strategy="fastest")
    assert finding_of(report, "station.settings").status is Status.ERROR
    assert finding_of(report, "gpu.build").status is Status.OK


async def test_a_home_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    """It can't be used."""
    home = Home(root=tmp_path / "home")
    home.root.write_text("no folder")
    assert finding_of(await examined(home), "disk.home").status is Status.ERROR


def left_behind(home: Home) -> None:
    """What killed activations and stations leave."""
    (home.environments / "0badc0de-0001" / "venv").mkdir(parents=True)
    (home.environments / ".trash-0001").mkdir()
    (home.cache / "lock-abc").mkdir()
    (home.backends / "selftest" / ".new-0001").mkdir(parents=True)
    holder = {**_DEAD, "command": "switch selftest", "activation": ACTIVATION}
    home.activation_holder.write_text(json.dumps(holder))
    record = {**_DEAD, "address": "http://127.0.0.1:9", "token": "t", "instance": "i", "version": "0"}
    home.station.write_text(json.dumps(record))


async def test_left_overs_are_found_and_repaired(home: Home) -> None:
    """Each is a warning before, and nothing is left of it after; what is in use stays."""
    await install(home)
    left_behind(home)
    report = await examined(home)
    stale = {"environments.leftovers", "station.serving", "station.activation"}
    assert stale <= ids_of(report.findings, Status.WARNING)
    assert "0badc0de-0001" in words_of(finding_of(report, "environments.leftovers"))
    done = await repair(home)
    assert len(done) == 6
    assert all(text.startswith("Removed ") for text in done)
    assert unfinished(home) == ()
    again = await examined(home)
    assert not stale & ids_of(again.findings, Status.WARNING)
    assert finding_of(again, "environments.active").status is Status.OK
    assert await repair(home) == ()


async def test_nothing_is_repaired_while_an_activation_runs(home: Home) -> None:
    """What it makes looks unfinished, and is not."""
    (home.environments / "0badc0de-0001").mkdir()
    async with activation_lock(home, activation=ACTIVATION, command="switch m", on_wait=lambda _: None):
        (sentence,) = await repair(home)
        assert "an activation is running" in sentence
        report = await examined(home)
        assert finding_of(report, "environments.leftovers").status is Status.OK
        assert "switch m" in finding_of(report, "station.activation").summary
    assert unfinished(home) == (home.environments / "0badc0de-0001",)


async def test_nothing_is_repaired_where_there_is_no_home(tmp_path: Path) -> None:
    """And none is made for it."""
    home = Home(root=tmp_path / "home")
    assert await repair(home) == ()
    assert not home.root.exists()


async def test_a_station_that_does_not_answer_is_an_error(home: Home) -> None:
    """Its process lives, and nothing listens at its address."""
    announce_station(home, address="http://127.0.0.1:9", instance="i", version="0")
    finding = finding_of(await examined(home), "station.serving")
    assert finding.status is Status.ERROR
    assert str(os.getpid()) in finding.summary


async def test_too_little_disk_is_told_before_anything_is_fetched(home: Home) -> None:
    """An accelerator's build needs seven times what the processor's does."""
    small = finding_of(await examined(home), "disk.space").summary
    large = finding_of(await examined(home, m.nvidia_linux()), "disk.space").summary
    assert "cpu needs about 1.2 GB" in small
    assert "cu126 needs about 8.3 GB" in large
    await install(home)
    assert "needs about" not in finding_of(await examined(home), "disk.space").summary
    assert read_active(home).model == "selftest"


async def test_a_python_that_is_gone_is_an_error(home: Home) -> None:
    """The environment's base interpreter was uninstalled; where it was is nobody's business."""
    await install(home, python="/srv/ann/python3.11")
    finding = finding_of(await examined(home), "environments.active")
    assert finding.status is Status.ERROR
    assert "ann" not in words_of(finding)


async def test_this_interpreters_torch_is_read_from_its_metadata(home: Home) -> None:
    """Without one, that is in order: models have environments of their own."""
    record = replace(m.nvidia_linux())
    assert finding_of(await examined(home, record), "torch.interpreter").status is Status.OK


async def test_a_model_that_requires_a_package_by_url_is_planned_for(tmp_path: Path, home: Home) -> None:
    """That package says nothing about torch; the build for the others is found as ever."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "requirements.txt").write_text("our @ https://example.org/our-1.0-py3-none-any.whl\ntorch\n")
    backend = {"name": "b", "download_url": str(code), "entry_module": "backend", "functions": []}
    manifest = {
        "version": "1",
        "models": {"ours": {"name": "o", "description": "o", "backend": "b", "is_default": True}},
        "backends": {"b": {**backend, "allow": {"urls": ["our"]}}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    report = await examined(home, manifest=str(tmp_path / "manifest.json"))
    assert finding_of(report, "gpu.build").status is Status.OK


async def test_a_damaged_memory_of_failed_builds_is_told(home: Home) -> None:
    """It is ignored, and the remedy removes it; without one nothing has failed."""
    home.create()
    assert finding_of(await examined(home), "gpu.trials").status is Status.OK
    home.trials.write_text("{")
    finding = finding_of(await examined(home), "gpu.trials")
    assert finding.status is Status.WARNING
    assert "trials.json can't be used" in finding.summary
    assert f"rm {home.trials}" in words_of(finding)
