"""Whole activations against a loopback index, on machines on record: which build they end on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from moondream_station.core.environments.store import load_commit, place_of
from moondream_station.core.facts.activation_state import WorkerState
from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.events import (
    ActivationFailed,
    ActivationSucceeded,
    BuildSelected,
    EnvironmentBuilt,
    FallbackChosen,
    RequirementsLocked,
    Stage,
    StageProgressed,
    StageStarted,
    VerificationCompleted,
    WorkerStarted,
)
from moondream_station.core.machine.record import MachineRecord
from support.machines import MACOS, cpu_only, kfd, mac, merged, nvidia_linux, pci, with_toolkit
from support.stations import HERE, Premises, failed, switched
from support.wheels import TorchBehaviour, module_wheel, native_tags, torch_wheel

pytestmark = pytest.mark.anyio

CUDA_12 = nvidia_linux(driver="560.35.03", cuda="12.6", platform=HERE)
CUDA_13 = nvidia_linux(driver="580.65.06", cuda="13.0", platform=HERE)
CPU = cpu_only(HERE)
RADEON = merged(
    cpu_only(HERE), kfd({"gfx_target_version": 110000, "device_id": 29772, "local_mem_size": 25753026560})
)
ARC = merged(cpu_only(HERE), pci((0x030000, 0x8086, 0xE20B)))


@pytest.mark.parametrize(
    ("machine", "build", "torch", "device"),
    [
        pytest.param(CUDA_12, "cu128", "2.9.1", "cuda", id="driver-560"),
        pytest.param(CUDA_13, "cu130", "2.9.1", "cuda", id="driver-580"),
        pytest.param(RADEON, "rocm6.4", "2.9.0", "cuda", id="amd"),
        pytest.param(ARC, "xpu", "2.9.0", "xpu", id="intel"),
        pytest.param(with_toolkit(CPU), "cpu", "2.9.1", "cpu", id="toolkit-without-driver"),
    ],
)
async def test_a_machine_gets_its_build(
    premises: Premises, machine: MachineRecord, build: str, torch: str, device: str
) -> None:
    """Every vendor's machine ends on the newest torch it can run, verified on its own device."""
    async with premises.station(machine) as station:
        course = await switched(station, "colours")
        selected = course.only(BuildSelected)
        assert (selected.build, selected.torch, selected.source) == (build, torch, "index")
        assert selected.index_url == f"{premises.index.torch_url}/{build}"
        verified = course.only(VerificationCompleted)
        assert verified.ok
        assert (verified.report.torch, verified.report.device) == (f"{torch}+{build}", device)
        succeeded = course.only(ActivationSucceeded)
        assert (succeeded.build, succeeded.degraded) == (build, None)
        active = station.bus.state.active
        assert active is not None
        assert (active.model, active.build, active.environment) == ("colours", build, succeeded.environment)


@pytest.mark.parametrize("machine", [CPU, CUDA_12], ids=["no GPU", "an older driver"])
async def test_pypis_own_wheel_is_installed_for_the_cpu_and_reused(
    premises: Premises, machine: MachineRecord
) -> None:
    """Nothing else satisfies torch 2.15, which is cu132 on PyPI; its own report is no mismatch."""
    behaviour = TorchBehaviour(cuda="13.2", arch_list=("sm_75", "sm_90"))
    premises.index.add_simple(torch_wheel("2.15.0", None, behaviour=behaviour))
    premises.add_model("colours", requirements="torch>=2.15\n")
    async with premises.station(machine) as station:
        course = await switched(station, "colours")
        again = await switched(station, "colours")
    selected = course.only(BuildSelected)
    assert (selected.build, selected.torch, selected.source) == ("cpu", "2.15.0", "default")
    verified = course.only(VerificationCompleted)
    assert (verified.ok, verified.mismatches) == (True, ())
    assert (verified.report.torch, verified.report.device) == ("2.15.0", "cpu")
    succeeded = course.only(ActivationSucceeded)
    assert (succeeded.build, succeeded.degraded) == ("cpu", None)
    assert again.only(ActivationSucceeded).environment == succeeded.environment


async def test_every_stage_in_order(premises: Premises) -> None:
    """A first activation enters each stage once, in the contract's order."""
    async with premises.station(CUDA_12) as station:
        course = await switched(station, "colours")
    assert [fact.stage for fact in course.every(StageStarted)] == list(Stage)


async def test_building_and_verifying_tell_how_far_they_are(premises: Premises) -> None:
    """Each tells its last step as the last of all there are, of packages, files and what torch has to do."""
    async with premises.station(CUDA_12) as station:
        course = await switched(station, "colours")
    last = {(fact.stage, fact.unit): (fact.done, fact.total) for fact in course.every(StageProgressed)}
    assert {unit for stage, unit in last if stage is Stage.BUILD} == {"packages", "files"}
    assert last[Stage.VERIFY, "steps"] == (3, 3)
    assert all(done == total for done, total in last.values())


async def test_guide_names_the_build_of_its_table_and_the_one_it_takes(premises: Premises) -> None:
    """The guide's cu124 has no torch 2.8: the next higher CUDA of the same major is taken, and both named."""
    async with premises.station(CUDA_12) as station:
        course = await switched(station, "colours", "guide")
    selected = course.only(BuildSelected)
    assert selected.build == "cu126"
    assert "cu124" in selected.reason
    assert "cu126" in selected.reason


async def test_guide_installs_the_build_of_its_table(premises: Premises) -> None:
    """Where the table's build has a torch that does, it is the one."""
    premises.index.add_torch("2.6.0", "cu124")
    premises.add_model("colours", requirements="torch<2.7\n")
    async with premises.station(CUDA_12) as station:
        course = await switched(station, "colours", "guide")
    assert course.only(ActivationSucceeded).build == "cu124"


@pytest.mark.parametrize("build", ["cpu", "cu130"])
async def test_a_named_build_is_installed_whatever_auto_would_take(premises: Premises, build: str) -> None:
    """A named build overrides what the driver says, and is not called degraded."""
    async with premises.station(CUDA_12) as station:
        course = await switched(station, "colours", build)
    succeeded = course.only(ActivationSucceeded)
    assert (succeeded.build, succeeded.degraded) == (build, None)


async def test_torch_comes_from_the_chosen_index_also_through_another_package(premises: Premises) -> None:
    """Nothing names torch but a package on the ordinary index, which has a torch of its own."""
    premises.add_model("wrapped", requirements="wrapstorch\n")
    async with premises.station(CUDA_12) as station:
        course = await switched(station, "wrapped")
    succeeded = course.only(ActivationSucceeded)
    record = load_commit(place_of(premises.home, succeeded.environment))
    assert record is not None
    assert record.packages == {"numpy": "2.3.4", "torch": "2.9.1+cu128", "wrapstorch": "1.0.0"}
    assert course.only(BuildSelected).build == succeeded.build == "cu128"


async def test_the_family_stays_on_one_build(premises: Premises) -> None:
    """Torchvision is the one that belongs to torch; ordinary packages come from the ordinary index."""
    premises.add_model("family", requirements="torch\ntorchvision\nPillow\n")
    async with premises.station(CUDA_12) as station:
        course = await switched(station, "family")
    record = load_commit(place_of(premises.home, course.only(ActivationSucceeded).environment))
    assert record is not None
    assert record.packages == {
        "numpy": "2.3.4",
        "pillow": "12.0.0",
        "torch": "2.9.1+cu128",
        "torchvision": "0.24.1+cu128",
    }


@pytest.mark.parametrize("requirements", ["numpy\n", ""])
async def test_a_backend_without_torch_has_no_build(premises: Premises, requirements: str) -> None:
    """Its worker alone is verified; nothing is asked of PyTorch's index for the lock."""
    premises.add_model("plain", requirements=requirements)
    async with premises.station(CUDA_12) as station:
        course = await switched(station, "plain")
    assert course.only(BuildSelected).build is None
    assert course.only(RequirementsLocked).packages == len(requirements.split())
    verified = course.only(VerificationCompleted)
    assert (verified.ok, verified.report.torch) == (True, None)
    assert course.only(ActivationSucceeded).build is None


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("hashes", [True, False])
async def test_every_kind_of_index_will_do(
    premises: Premises, *, ranges: bool, metadata: bool, hashes: bool
) -> None:
    """With and without parts of files, metadata beside the wheels, and hashes in the links."""
    premises.index.ranges, premises.index.metadata, premises.index.hashes = ranges, metadata, hashes
    async with premises.station(CUDA_12) as station:
        course = await switched(station, "colours")
    assert course.only(ActivationSucceeded).build == "cu128"
    whole = [
        request
        for request in premises.index.requests
        if request.path.endswith(".whl") and request.method == "GET" and request.status == 200
    ]
    assert len(whole) == 1


async def test_torch_of_the_ordinary_index_will_do(premises: Premises) -> None:
    """PyPI's own wheel is the build that the catalog gives it on this platform; the index is named."""
    premises.variables["MOONDREAM_STATION_TORCH_INDEX"] = "http://127.0.0.1:9/whl"
    async with premises.station(CUDA_12) as station:
        course = await switched(station, "colours")
    selected = course.only(BuildSelected)
    assert (selected.build, selected.torch) == ("cu128", "2.9.1")
    assert (selected.source, selected.index_url) == ("default", premises.index.simple_url)
    assert f"your index {premises.index.simple_url}" in selected.reason


@pytest.mark.parametrize("requirements", ["torch>=2.8\n", "wrapstorch\n"])
async def test_the_users_constraints_bound_the_choice(premises: Premises, requirements: str) -> None:
    """As pip would have it, also where torch comes in only through another package; none left is told."""
    constraints = premises.folder / "constraints.txt"
    premises.variables["PIP_CONSTRAINT"] = str(constraints)
    premises.add_model("bounded", requirements=requirements)
    constraints.write_text("torch<2.9.1\ntorchvision<0.1\n")
    async with premises.station(CPU) as station:
        selected = (await switched(station, "bounded")).only(BuildSelected)
        assert (selected.build, selected.torch) == ("cpu", "2.9.0")
        assert "the constraint torch<2.9.1" in selected.reason
        constraints.write_text("torch<2.9.1\ntorch>=2.9.1\n")
        error = (await failed(station, "bounded", upgrade=True)).only(ActivationFailed).error
        assert "torch" in error.message


async def test_find_links_alone_will_do(premises: Premises) -> None:
    """Where PyTorch's index can't be reached, a folder of wheels that pip knows has torch."""
    folder = premises.folder / "wheels"
    folder.mkdir()
    torch_wheel("2.9.1", "cpu").write_to(folder)
    offline = replace(
        premises,
        variables={
            "PIP_FIND_LINKS": str(folder),
            "PIP_NO_INDEX": "1",
            "MOONDREAM_STATION_TORCH_INDEX": "http://127.0.0.1:9/whl",
        },
    )
    offline.add_model("colours")
    async with offline.station(CPU) as station:
        course = await switched(station, "colours")
    selected = course.only(BuildSelected)
    assert (selected.build, selected.source, selected.index_url) == ("cpu", "find-links", None)
    assert premises.index.requests == ()


@pytest.mark.parametrize(
    ("machine", "settings", "seconds"),
    [(CUDA_12, {}, 30), (CPU, {}, 600), (CPU, {"inference_timeout": 5.0}, 5)],
    ids=["gpu", "cpu", "set"],
)
async def test_a_request_has_the_time_that_its_device_needs(
    premises: Premises, machine: MachineRecord, settings: dict[str, float], seconds: float
) -> None:
    """Unless the user says how long."""
    premises.add_model("colours")
    async with premises.station(machine, serves=True, **settings) as station:
        await switched(station, "colours")
        assert station.stats()["default_timeout"] == seconds


async def test_the_active_model_shows_no_worker_that_has_gone(premises: Premises) -> None:
    """A command that only switches lets its worker go: in the end it is stopped, not ready."""
    async with premises.station(CPU) as station:
        course = await switched(station, "colours")
        pid = course.only(WorkerStarted).pid
        async with station.bus.subscribe(after=course.seen[-1].seq) as events:
            stopped = await anext(events)
        assert stopped.name == "WorkerStopped"
        assert stopped.activation is None
        active = station.bus.state.active
        assert active is not None
        assert (active.worker, active.worker_pid) == (WorkerState.STOPPED, None)
        assert pid == stopped.fact.pid  # type: ignore[union-attr]


async def test_the_environment_is_named_after_its_lock(premises: Premises) -> None:
    """Eight digits of the digest and four that make it unique; the record beside it says the same."""
    async with premises.station(CPU) as station:
        course = await switched(station, "colours")
    built = course.only(EnvironmentBuilt)
    digest, _, unique = built.environment.partition("-")
    record = load_commit(place_of(premises.home, built.environment))
    assert record is not None
    assert record.lock_digest.startswith(digest)
    assert (len(digest), len(unique)) == (8, 4)


async def test_a_mac_is_given_pypis_wheel_as_the_mps_build(premises: Premises) -> None:
    """Here uv takes that version's wheel for Linux: another build, also where it falls back to cpu."""
    python = native_tags()["python"]
    premises.index.add_simple(
        torch_wheel("2.9.1", None, python=python, abi=python, platform="macosx_14_0_arm64")
    )
    machine = mac(platform=replace(MACOS, python=HERE.python))
    async with premises.station(machine) as station:
        course = await failed(station, "colours")
    first, *_ = course.every(BuildSelected)
    assert (first.build, first.torch, first.source, first.index_url) == (
        *("mps", "2.9.1", "default"),
        premises.index.simple_url,
    )
    assert course.only(ActivationFailed).error.code == "verification-failed"
    verified, _ = course.every(VerificationCompleted)
    found = {mismatch.field: mismatch.found for mismatch in verified.mismatches}
    assert found["build"] == "cu128"
    fallback = course.only(FallbackChosen)
    assert (fallback.from_build, fallback.to_build) == ("mps", "cpu")


async def test_what_contradicts_the_catalog_is_kept_in_the_journal(premises: Premises) -> None:
    """Torch computes, so the model is active; both sides stand where a wrong row can be found."""
    async with premises.station(CUDA_12) as station:
        course = await switched(station, "colours")
    verified = course.only(VerificationCompleted)
    assert verified.ok
    (difference,) = verified.mismatches
    assert difference.field == "arch_list"
    assert difference.found == "sm_75, sm_80, sm_86, sm_90"
    journal = (premises.home.activations / f"{course.activation}.jsonl").read_text(encoding="utf-8")
    events = map(json.loads, journal.splitlines())
    kept = next(event for event in events if event.get("event") == "VerificationCompleted")
    assert kept["mismatches"] == [to_json(difference)]


async def test_the_processor_contradicts_nothing(premises: Premises) -> None:
    """The catalog says nothing about it that torch would tell."""
    async with premises.station(CPU) as station:
        course = await switched(station, "colours")
    assert course.only(VerificationCompleted).mismatches == ()


@pytest.mark.parametrize(
    ("machine", "build"),
    [
        pytest.param(CUDA_13, "cu134", id="nvidia"),
        pytest.param(RADEON, "rocm7.3", id="amd"),
        pytest.param(CUDA_12, "cu128", id="driver-560"),
    ],
)
async def test_a_tag_that_only_the_index_knows_is_used_by_rule(
    premises: Premises, machine: MachineRecord, build: str
) -> None:
    """A torch and a tag from after this version: the driver's bound is that of the CUDA major."""
    for tag in ("cu134", "rocm7.3"):
        premises.index.add_torch("2.16.0", tag)
    async with premises.station(machine) as station:
        course = await switched(station, "colours")
    selected = course.only(BuildSelected)
    assert selected.build == build
    assert course.only(ActivationSucceeded).build == build
    told = {candidate.build: candidate.reason for candidate in selected.candidates}
    if build == "cu128":
        assert told["cu134"] == "cu134 needs driver 580 or newer; this machine has 560.35.03."


async def test_torch_and_its_companions_from_the_future_go_together(premises: Premises) -> None:
    """All newer than the catalog: what fits torch they say themselves, torchaudio by a bound alone."""
    needs = {"torchaudio": ("2.12.0", "torch>=2.16"), "torchvision": ("0.31.0", "torch==2.16.0")}
    premises.index.add_torch("2.16.0", "cu134")
    for name, (version, torch) in needs.items():
        premises.index.add("cu134", module_wheel(name, f"{version}+cu134", requires=[torch]))
    premises.add_model("future", requirements="torch>=2.8\ntorchaudio\ntorchvision\n")
    async with premises.station(CUDA_13) as station:
        course = await switched(station, "future")
    assert course.only(BuildSelected).torch == "2.16.0"
    record = load_commit(place_of(premises.home, course.only(ActivationSucceeded).environment))
    assert record is not None
    assert {name: record.packages[name] for name in ("torch", *needs)} == {
        "torch": "2.16.0+cu134",
        **{name: f"{version}+cu134" for name, (version, _) in needs.items()},
    }
