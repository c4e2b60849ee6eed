"""Activations that end otherwise than meant: on another build, in an error, cancelled; never half done."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

import anyio
import pytest

from moondream_station.core.activation.activation import ask_to_cancel
from moondream_station.core.activation.choice import plan_here
from moondream_station.core.activation.trials_file import load_trials, read_trials
from moondream_station.core.builds.requirements import parse_requirement_args
from moondream_station.core.builds.trials import NO_TRIALS
from moondream_station.core.bus.journal import read_activation
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    ActivationWaiting,
    BuildSelected,
    CancelReason,
    Degraded,
    DownloadProgressed,
    EnvironmentBuilt,
    FallbackChosen,
    Stage,
    StageStarted,
    VerificationCompleted,
)
from moondream_station.core.home.active_file import read_active
from moondream_station.core.machine.record import RecordedMachine
from support.backends import ECHO
from support.fake_driver import install_program
from support.index_traffic import Fault
from support.machines import cpu_only, nvidia_linux
from support.stations import HERE, Course, Premises, caption, course_of, failed, switched
from support.wheels import TorchBehaviour, Wheel, behaviour_of, module_wheel

pytestmark = pytest.mark.anyio

CUDA = nvidia_linux(driver="560.35.03", cuda="12.6", platform=HERE)
CPU = cpu_only(HERE)
BLIND = TorchBehaviour(cuda="12.8", arch_list=("sm_90",))
"""A CUDA build that sees no device."""


def replace_torch(premises: Premises, *builds: str, behaviour: TorchBehaviour) -> None:
    """Offer a newer torch on these builds, which behaves so."""
    for build in builds:
        premises.index.add_torch("2.9.5", build, behaviour=behaviour)


async def test_another_accelerator_is_tried_once(premises: Premises) -> None:
    """Torch that does not compute gives way to the next build, which is no degradation."""
    replace_torch(premises, "cu128", behaviour=BLIND)
    async with premises.station(CUDA) as station:
        course = await switched(station, "colours")
    fallback = course.only(FallbackChosen)
    assert fallback.from_build == "cu128"
    assert fallback.to_build != "cpu"
    first, second = course.every(BuildSelected)
    assert (first.build, second.build) == ("cu128", fallback.to_build)
    assert [verified.ok for verified in course.every(VerificationCompleted)] == [False, True]
    assert course.only(ActivationSucceeded).degraded is None
    assert len(premises.environments()) == 1


async def test_what_failed_is_not_tried_first_again(premises: Premises) -> None:
    """Until the driver changes: then it has another try. A damaged memory of it is none."""
    replace_torch(premises, "cu128", behaviour=BLIND)
    async with premises.station(CUDA) as station:
        first = await switched(station, "colours")
        again = await switched(station, "colours", upgrade=True)
    other = first.only(FallbackChosen).to_build
    assert again.every(FallbackChosen) == []
    chosen = again.only(BuildSelected)
    assert chosen.build == other
    assert "cu128 with torch 2.9.5 failed on this machine" in chosen.reason
    kept = {(trial.build, trial.failure is None) for trial in load_trials(premises.home).trials}
    assert kept == {("cu128", False), (other, True)}
    newer = nvidia_linux(driver="565.57.01", cuda="12.7", platform=HERE)
    async with premises.station(newer) as station:
        changed = await switched(station, "colours", upgrade=True)
    assert changed.every(BuildSelected)[0].build == "cu128"
    premises.home.trials.write_text('{"format": "moondream-station/trials/1", "trials": [')
    assert read_trials(premises.home) == NO_TRIALS
    with pytest.raises(ValueError, match="not JSON"):
        load_trials(premises.home)


async def test_the_processor_is_the_last_resort_and_says_so(premises: Premises) -> None:
    """Two builds that see no device end on the processor, degraded, also in what is active afterwards."""
    builds = ("cu126", "cu128", "cu129", "cu118", "cu124")
    replace_torch(premises, *builds, behaviour=BLIND)
    async with premises.station(CUDA) as station:
        course = await switched(station, "colours")
        active = station.bus.state.active
    degraded = course.only(ActivationSucceeded).degraded
    assert isinstance(degraded, Degraded)
    assert len(course.every(FallbackChosen)) == 2
    assert degraded.wanted == course.every(BuildSelected)[0].build
    assert active is not None
    assert (active.build, active.degraded) == ("cpu", degraded)


async def test_a_torch_that_takes_the_worker_down_is_fallen_back_from(premises: Premises) -> None:
    """A crash on an accelerator is one more way of not computing there."""
    replace_torch(premises, "cu128", behaviour=TorchBehaviour(cuda="12.8", exit_on_import=-11))
    async with premises.station(CUDA) as station:
        course = await switched(station, "colours")
    assert course.only(FallbackChosen).from_build == "cu128"


async def test_a_worker_that_was_killed_says_nothing_of_its_build(premises: Premises) -> None:
    """Memory ran out, or somebody ended it: the next switch tries that build first again."""
    replace_torch(premises, "cu128", behaviour=TorchBehaviour(cuda="12.8", exit_on_import=-9))
    async with premises.station(CUDA) as station:
        course = await switched(station, "colours")
    assert course.only(FallbackChosen).from_build == "cu128"
    assert "cu128" not in {trial.build for trial in load_trials(premises.home).trials}


async def test_a_named_build_never_falls_back(premises: Premises) -> None:
    """What was asked for by name fails, with what torch said."""
    replace_torch(premises, "cu128", behaviour=BLIND)
    async with premises.station(CUDA) as station:
        course = await failed(station, "colours", "cu128")
    assert course.every(FallbackChosen) == []
    error = course.only(ActivationFailed).error
    assert error.code == "verification-failed"
    assert "device should be cuda" in error.message
    assert premises.environments() == set()


async def test_what_no_build_cures_fails_at_once(premises: Premises) -> None:
    """A driver out of step with its libraries: the remedy is a restart, not another gigabyte."""
    said = "Error 803: system has unsupported display driver / cuda driver combination"
    behaviour = behaviour_of("cu128")
    replace_torch(
        premises,
        "cu128",
        behaviour=TorchBehaviour(**{**vars(behaviour), "compute_errors": {"cuda": said}}),
    )
    async with premises.station(CUDA) as station:
        course = await failed(station, "colours")
    assert course.every(FallbackChosen) == []
    assert "restart the computer" in (course.only(ActivationFailed).error.hint or "")


async def test_a_model_that_needs_a_gpu_is_not_run_without(premises: Premises) -> None:
    """The error says so before anything is fetched, and nothing stays behind."""
    premises.add_model("large", requires_gpu=True)
    async with premises.station(CPU) as station:
        course = await failed(station, "large")
    failure = course.only(ActivationFailed)
    assert (failure.error.code, failure.stage) == ("unsupported-model", Stage.SELECT)
    assert [request.path for request in premises.index.requests if request.path.endswith(".whl")] == []


async def test_a_model_that_needs_a_gpu_does_not_fall_back_to_the_processor(premises: Premises) -> None:
    """When the builds for its GPU do not compute, the error names the need and what happened."""
    for build in ("cu126", "cu128"):
        premises.index.add_torch("2.9.5", build, behaviour=BLIND)
    premises.add_model("large", requires_gpu=True)
    async with premises.station(CUDA) as station:
        course = await failed(station, "large")
    error = course.only(ActivationFailed).error
    assert error.code == "unsupported-model"
    assert "device should be cuda" in error.message


async def test_a_model_for_another_system_is_refused_at_once(premises: Premises) -> None:
    """That is known before anything is looked at."""
    premises.add_model("foreign", supported_os=["plan9"])
    async with premises.station(CPU) as station:
        course = await failed(station, "foreign")
    _, failure = course.facts
    assert isinstance(failure, ActivationFailed)
    assert (failure.stage, failure.error.code) == (Stage.PREPARE, "unsupported-model")
    assert "it runs on plan9" in failure.error.message


@pytest.mark.parametrize(
    ("requirements", "code", "stage"),
    [
        ("torch>=99\n", "no-build", Stage.SELECT),
        ("torch>=2.8\nnumpy>=99\n", "resolution-conflict", Stage.LOCK),
        ("--index-url https://evil.example/simple\ntorch\n", "requirements-unsafe", Stage.PREPARE),
        ("torch @ https://evil.example/torch.whl\n", "requirements-unsafe", Stage.PREPARE),
    ],
)
async def test_requirements_that_can_not_be_met(
    premises: Premises, requirements: str, code: str, stage: Stage
) -> None:
    """Each cause has its code; what was active before still is."""
    async with premises.station(CPU) as station:
        await switched(station, "colours")
        before = read_active(premises.home)
        premises.add_model("other", requirements=requirements)
    async with premises.station(CPU) as station:
        failure = (await failed(station, "other")).only(ActivationFailed)
    assert failure.error.code == code
    assert failure.stage is stage
    assert read_active(premises.home) == before


async def test_nothing_to_be_had_says_what_was_tried(premises: Premises) -> None:
    """Each place stands in the message, with what it said."""
    premises.index.faults.append(Fault(match="*", status=503))
    async with premises.station(CPU) as station:
        error = (await failed(station, "colours")).only(ActivationFailed).error
    assert error.code == "index-unreachable"
    assert premises.index.torch_url in error.message
    assert "503" in error.message


async def test_a_place_that_did_not_answer_is_named_where_the_others_have_no_build(
    premises: Premises,
) -> None:
    """What is missing may be there: the error names it, in `plan` too, with the reason for the rest."""
    premises.variables["MOONDREAM_STATION_TORCH_INDEX"] = "http://127.0.0.1:9/whl"
    async with premises.station(CPU) as station:
        error = (await failed(station, "colours")).only(ActivationFailed).error
        plan = await plan_here(
            parse_requirement_args(["torch>=2.8"]),
            RecordedMachine(CPU),
            python=HERE.python,
            home=premises.home,
            settings=station.settings,
            environ=premises.environ,
        )
    assert error.code == "no-build"
    for told in (error.message, plan.reason):
        assert "not every index answered: http://127.0.0.1:9/whl: the connection is refused." in told
    assert "Check the network" in (error.hint or "")
    assert "`--strategy cpu` takes PyPI's own wheel" in (error.hint or "")
    async with premises.station(CPU) as station:
        chosen = (await switched(station, "colours", "cpu")).only(BuildSelected)
    assert (chosen.build, chosen.source) == ("cpu", "default")


async def test_another_python_that_has_a_build_is_named(premises: Premises) -> None:
    """Where this one has none: by its path, if it runs."""
    premises.index.add_torch("2.99.0", "cpu", python="cp320", abi="cp320")
    premises.add_model("colours", requirements="torch==2.99\n")
    folder = premises.folder / "bin"
    premises.variables["PATH"] = f"{folder}:{os.environ['PATH']}"
    answer = {"version": "3.20.0", "implementation": "cpython", "path": "p", "markers": {}, "tags": []}
    install_program(folder, "python3.20", f"echo '{json.dumps(answer)}'")
    async with premises.station(CPU) as station:
        error = (await failed(station, "colours")).only(ActivationFailed).error
        assert error.code == "no-build"
        assert (error.hint or "").startswith(f"python3.20 is installed and has a build: `--python {folder}/")
        install_program(folder, "python3.20", "exit 127")  # as pyenv's are, of Pythons that are not chosen
        error = (await failed(station, "colours")).only(ActivationFailed).error
    assert "--python" not in (error.hint or "")


async def test_a_full_disk_says_what_pruning_would_free(premises: Premises) -> None:
    """Before a byte is fetched; what an earlier switch left unused is counted, what this one needs is not."""
    async with premises.station(CPU) as station:
        await switched(station, "colours")
        (premises.home.cache / "unused").write_bytes(bytes(5_000_000))
        premises.index.clear_requests()
        vast = premises.index.add_simple(module_wheel("vast", "1.0"))
        premises.index.claimed_bytes[vast.filename] = 1 << 50
        premises.add_model("large", requirements="torch>=2.8\nvast\n")
    async with premises.station(CPU) as station:
        failure = (await failed(station, "large")).only(ActivationFailed)
    assert (failure.stage, failure.error.code) == (Stage.DOWNLOAD, "no-space")
    assert re.search(r"`moondream-station prune` would free [5-9] MB", failure.error.hint or "")
    gets = [request.path for request in premises.index.requests if request.method == "GET"]
    assert [path for path in gets if path.endswith(vast.filename)] == []


async def test_a_backend_that_can_not_start_leaves_the_old_model_active(premises: Premises) -> None:
    """Its environment goes, its words stay, and the model before it is untouched."""
    premises.add_model(
        "broken", source="def init_backend(**args):\n    raise RuntimeError('no weights here')\n"
    )
    async with premises.station(CPU) as station:
        await switched(station, "colours")
        error = (await failed(station, "broken")).only(ActivationFailed).error
        assert error.code == "worker-failed"
        assert "no weights here" in error.message
    assert read_active(premises.home).model == "colours"
    assert len(premises.environments()) == 1


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.COMMIT])
async def test_cancelled_at_any_stage(premises: Premises, stage: Stage) -> None:
    """The terminal fact comes within two seconds; what was active still is, and nothing half done stays."""
    async with premises.station(CPU) as station:
        await switched(station, "colours")
        before = read_active(premises.home)
        async with course_of(station, "colours", upgrade=True) as course:
            await course.until(StageStarted, stage=stage)
            station.request_cancel()
            with anyio.fail_after(2):
                cancelled = await course.end(ActivationCancelled)
        assert (cancelled.reason, cancelled.stage) == (CancelReason.USER, stage)
    assert read_active(premises.home) == before
    premises.check_tidy()


async def test_cancelled_while_it_commits(premises: Premises) -> None:
    """It is told as what it is: cancelled with the old model active, or too late with the new one."""
    premises.add_model("shapes")
    async with premises.station(CPU) as station:
        await switched(station, "colours")
        async with course_of(station, "shapes") as course:
            await course.until(StageStarted, stage=Stage.COMMIT)
            station.request_cancel()
            with anyio.fail_after(2):
                end = await course.end(object)
    assert isinstance(end, ActivationSucceeded | ActivationCancelled)
    is_active = isinstance(end, ActivationSucceeded)
    assert read_active(premises.home).model == ("shapes" if is_active else "colours")
    assert len(premises.environments()) == (2 if is_active else 1)


def hang_listings(premises: Premises) -> None:
    """No page of an index ends."""
    premises.index.faults.append(Fault(match="*/torch/", hang_after_bytes=1))


def hang_metadata(premises: Premises) -> None:
    """The resolver waits for what a wheel requires."""
    premises.index.faults.append(Fault(match="*.metadata", hang_after_bytes=1))


def hang_wheels(premises: Premises) -> None:
    """Downloads begin and do not end."""
    premises.index.faults.append(Fault(match="*.whl", hang_after_bytes=100))


def hang_torch(premises: Premises) -> None:
    """Torch is imported for ever."""
    premises.index.add_torch("2.9.5", "cpu", behaviour=TorchBehaviour(import_seconds=3600))


def hang_backend(premises: Premises) -> None:
    """The backend loads for ever."""
    premises.add_model("new", source="import time\ndef init_backend(**args):\n    time.sleep(3600)\n")


def hang_archive(premises: Premises) -> None:
    """The backend's archive does not come."""
    premises.index.faults.append(Fault(match="*/numpy-*.whl", hang_after_bytes=1))
    premises.add_model("new", code_url=f"{premises.index.simple_url}/files/numpy-2.3.4-py3-none-any.whl")


@pytest.mark.parametrize(
    ("hang", "stage"),
    [
        (hang_archive, Stage.DETECT),
        (hang_listings, Stage.SELECT),
        (hang_metadata, Stage.LOCK),
        (hang_wheels, Stage.DOWNLOAD),
        (hang_torch, Stage.VERIFY),
        (hang_backend, Stage.VERIFY),
    ],
)
async def test_cancelled_while_something_hangs(
    premises: Premises, hang: Callable[[Premises], None], stage: Stage
) -> None:
    """Nothing that does not answer holds up the end."""
    premises.add_model("new")
    hang(premises)
    async with premises.station(CPU) as station, course_of(station, "new") as course:
        await course.until(StageStarted, stage=stage)
        if hang is hang_backend:
            await course.until(VerificationCompleted)
        await anyio.wait_all_tasks_blocked()
        station.request_cancel()
        with anyio.fail_after(2):
            cancelled = await course.end(ActivationCancelled)
    assert cancelled.stage == stage
    assert read_active(premises.home).model is None
    assert premises.environments() == set()


async def test_two_stations_of_one_home_wait_for_each_other(premises: Premises) -> None:
    """The second says who has the home, can be cancelled meanwhile, and goes on once it is free."""
    premises.add_model("shapes")
    premises.index.faults.append(Fault(match="*.whl", times=1, hang_after_bytes=100))
    async with (
        premises.station(CPU) as one,
        premises.station(CPU) as other,
        course_of(one, "colours") as first,
    ):
        await first.until(StageStarted, stage=Stage.DOWNLOAD)
        async with course_of(other, "shapes") as second:
            waiting = await second.until(ActivationWaiting)
            assert (waiting.holder_pid, waiting.holder_command) == (os.getpid(), "switch colours")
            other.request_cancel()
            with anyio.fail_after(2):
                assert (await second.end(ActivationCancelled)).stage is Stage.PREPARE
        async with course_of(other, "shapes") as third:
            await third.until(ActivationWaiting)
            one.request_cancel()
            await first.end(ActivationCancelled)
            await third.end(ActivationSucceeded)
    assert read_active(premises.home).model == "shapes"


async def test_another_wish_supersedes_the_running_one(premises: Premises) -> None:
    """The same wish joins; a different one takes its place, and succeeds."""
    premises.add_model("shapes")
    premises.index.faults.append(Fault(match="*torch-*.whl", times=1, hang_after_bytes=10))
    async with premises.station(CPU) as station, course_of(station, "colours") as first:
        await first.until(StageStarted, stage=Stage.DOWNLOAD)
        assert station.request_switch("colours") == (first.activation, True)
        async with course_of(station, "shapes") as second:
            assert (await first.end(ActivationCancelled)).reason is CancelReason.SUPERSEDED
            await second.end(ActivationSucceeded)
    assert read_active(premises.home).model == "shapes"


async def test_a_file_asks_it_to_end(premises: Premises) -> None:
    """Another process cancels by a file beside the journal, which is taken away."""
    premises.index.faults.append(Fault(match="*torch-*.whl", hang_after_bytes=10))
    async with premises.station(CPU) as station, course_of(station, "colours") as course:
        await course.until(StageStarted, stage=Stage.DOWNLOAD)
        ask_to_cancel(premises.home, course.activation)
        await course.end(ActivationCancelled)
    assert list(premises.home.activations.glob("*.cancel")) == []


async def test_a_station_that_ends_cancels_what_runs(premises: Premises) -> None:
    """Leaving it publishes the terminal fact, with shutdown as the reason; bytes that arrived are kept."""
    premises.index.add_torch("2.9.9", "cpu", filler_bytes=2_000_000)
    fault = Fault(match="*torch-2.9.9*.whl", bytes_per_second=400_000)
    premises.index.faults.append(fault)
    async with premises.station(CPU) as station, course_of(station, "colours") as course:
        while (await course.until(DownloadProgressed)).received_bytes < 100_000:
            pass
        activation = course.activation
    *_, last = read_activation(premises.home, activation)
    assert isinstance(last.fact, ActivationCancelled)
    assert last.fact.reason is CancelReason.SHUTDOWN
    (size,) = premises.partial_downloads().values()
    assert size > 0
    premises.index.faults.remove(fault)
    async with premises.station(CPU) as station:
        again = await switched(station, "colours")
        assert max(fact.resumed_from for fact in again.every(DownloadProgressed)) > 0
        history = station.bus.state
    assert again.activation != activation
    assert history.active is not None


async def test_reuse_asks_nobody_and_upgrade_asks_again(premises: Premises) -> None:
    """The second switch sends no request; --upgrade takes what is newer."""
    async with premises.station(CPU) as station:
        first = await switched(station, "colours")
        premises.index.clear_requests()
        second = await switched(station, "colours")
        assert premises.index.requests == ()
        assert second.only(EnvironmentBuilt).reused
        assert second.only(EnvironmentBuilt).environment == first.only(EnvironmentBuilt).environment
        premises.index.add_torch("2.9.7", "cpu")
        third = await switched(station, "colours", upgrade=True)
        assert third.only(BuildSelected).torch == "2.9.7"
        assert not third.only(EnvironmentBuilt).reused


async def test_an_older_torch_of_the_same_build_is_taken_before_another_build(premises: Premises) -> None:
    """Another package bounds torch: the best build stays, with the newest torch that goes, and says so."""
    premises.index.add_torch("2.9.5", "cu128")
    premises.index.add_simple(module_wheel("bounded", "1.0.0", requires=["torch<2.9"]))
    premises.add_model("bounded", requirements="torch>=2.7\nbounded\n")
    async with premises.station(CUDA) as station:
        course = await switched(station, "bounded")
        assert (await switched(station, "bounded")).only(EnvironmentBuilt).reused
    first, second = course.every(BuildSelected)
    assert (first.build, first.torch) == ("cu128", "2.9.5")
    assert (second.build, second.torch) == ("cu128", "2.8.0")
    fallback = course.only(FallbackChosen)
    assert (fallback.from_build, fallback.to_build) == ("cu128", "cu128")
    assert "torch 2.8.0 is used" in fallback.reason
    report = course.only(VerificationCompleted)
    assert (report.ok, report.report.torch) == (True, "2.8.0+cu128")
    assert course.only(ActivationSucceeded).degraded is None


async def test_an_older_torch_that_another_package_brings_in_is_the_one_that_is_told(
    premises: Premises,
) -> None:
    """No requirement names torch: the choice is told once, after the lock, as it is there."""
    premises.index.add_torch("2.9.5", "cu128")
    premises.index.add_simple(module_wheel("bounded", "1.0.0", requires=["torch<2.9"]))
    premises.add_model("bounded", requirements="bounded\n")
    async with premises.station(CUDA) as station:
        course = await switched(station, "bounded")
    assert (course.only(BuildSelected).build, course.only(BuildSelected).torch) == ("cu128", "2.8.0")
    assert course.every(FallbackChosen) == []


@pytest.mark.parametrize(
    ("requirements", "source", "stage"),
    [
        ("torch>=99\n", ECHO.replace("small ", "large "), Stage.SELECT),
        ("torch>=2.8\n", "raise RuntimeError('broken')\n", Stage.VERIFY),
    ],
)
async def test_a_switch_that_fails_leaves_the_active_models_code(
    premises: Premises, requirements: str, source: str, stage: Stage
) -> None:
    """The same version with other content: neither the next start nor a way back runs it."""
    async with premises.station(CPU, serves=True) as station:
        await switched(station, "colours")
        await switched(station, "colours", upgrade=True)
        premises.add_model("colours", requirements=requirements, source=source)
    async with premises.station(CPU) as station:
        failure = (await failed(station, "colours")).only(ActivationFailed)
        assert failure.stage is stage
    async with premises.station(CPU, serves=True) as station:
        await station.start_active()
        assert await caption(station) == "a small caption"
    async with premises.station(CPU) as station, station.bus.subscribe() as events:
        course = Course(events, *station.request_rollback("colours"))
        await course.end(ActivationSucceeded)
    async with premises.station(CPU, serves=True) as station:
        await station.start_active()
        assert await caption(station) == "a small caption"


async def test_code_that_can_not_be_read_is_fetched_again(premises: Premises) -> None:
    """A link that leads nowhere among a backend's files is damage, and no bug of the station's."""
    files = {"backend.py": ECHO.encode(), "requirements.txt": b""}
    premises.index.add_simple(Wheel(name="code", version="1.0", files=files))
    premises.add_model("new", code_url=f"{premises.index.simple_url}/files/code-1.0-py3-none-any.whl")
    async with premises.station(CPU) as station:
        await switched(station, "new")
    (entry,) = premises.home.backends.rglob("backend.py")
    (entry.parent / "gone.py").symlink_to("nowhere")
    async with premises.station(CPU) as station:
        await switched(station, "new")
