"""What verification has learned: for how long a failure stands, and what torch's own list is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest
from packaging.version import Version

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.naming import parse_build
from moondream_station.core.builds.trials import NO_TRIALS, Circumstances, Trial, Trials
from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.selection import Verdict
from moondream_station.core.selection.select import SelectionResult
from support.catalogs import changed_catalog
from support.snapshots import amd, chosen, linux, nvidia, plan, reason_for

RTX_4090 = nvidia("8.9", "NVIDIA GeForce RTX 4090")
MACHINE = linux(RTX_4090, driver="580.65.06", cuda="13.0")
FAILURE = "device should be cuda, is cpu."
NEWER = changed_catalog(('reviewed = "2026-11-22"', 'reviewed = "2027-01-31"'))


def trial(
    build: str,
    torch: str,
    *,
    failure: str | None = FAILURE,
    arch_list: tuple[str, ...] = (),
    on: Capabilities = MACHINE,
) -> Trial:
    """What a build came to on a machine."""
    return Trial(
        build=build,
        torch=torch,
        at="2026-11-29T10:00:00.000000Z",
        failure=failure,
        device="cpu" if failure else "cuda",
        arch_list=arch_list,
        mismatches=(),
        circumstances=Circumstances.of(on, load_catalog()),
    )


def after(*trials: Trial, on: Capabilities = MACHINE, **options: object) -> SelectionResult:
    """What is chosen there afterwards."""
    return plan(on, "torch<2.15", trials=Trials(trials=trials), **options)  # type: ignore[arg-type]


def test_a_build_that_failed_gives_way_to_the_next() -> None:
    """Its row and the reason say why; nothing but the order is another."""
    assert chosen(after()) == ("cu132", "2.14.1")
    result = after(trial("cu132", "2.14.1"))
    assert chosen(result) == ("cu130", "2.14.1")
    assert "because cu132 with torch 2.14.1 failed on this machine on 2026-11-29" in result.selection.reason
    assert FAILURE.rstrip(".") in reason_for(result, "cu132")
    verdicts = {one.build: one.verdict for one in result.selection.candidates}
    assert verdicts["cu132"] is Verdict.POSSIBLE
    assert {ranked.build for ranked in result.order} == {ranked.build for ranked in after().order}
    assert result.degraded is None


def test_where_every_gpu_build_failed_the_processor_is_a_degradation() -> None:
    """It is what the machine should not have; the warning says how to try again."""
    failed = [trial(ranked.build, ranked.torch) for ranked in after().order if ranked.build != "cpu"]
    result = after(*failed)
    assert chosen(result) == ("cpu", "2.14.1")
    assert result.degraded is not None
    assert (result.degraded.wanted, result.degraded.reason) == ("cu132", FAILURE)
    assert any("--strategy cu132 tries it again" in warning for warning in result.selection.warnings)


@pytest.mark.parametrize(
    ("machine", "options"),
    [
        (replace(MACHINE, nvidia_driver="580.95.05"), {}),
        (replace(MACHINE, release="6.9.0"), {}),
        (replace(MACHINE, gpus=(RTX_4090, nvidia("8.9", index=1))), {}),
        (replace(MACHINE, variables={"CUDA_VISIBLE_DEVICES": "0"}), {}),
        (MACHINE, {"catalog": NEWER}),
        (MACHINE, {"strategy": "cu132"}),
    ],
    ids=["driver", "kernel", "gpu", "variables", "catalog", "by name"],
)
def test_any_change_gives_it_another_try(machine: Capabilities, options: dict[str, object]) -> None:
    """Driver, kernel, GPU, which of them are seen, the catalog, and whoever names it."""
    assert chosen(after(trial("cu132", "2.14.1"), on=machine, **options)) == ("cu132", "2.14.1")


def test_another_torch_is_another_try() -> None:
    """A failure is one of a build with its torch."""
    assert chosen(after(trial("cu132", "2.14.0"))) == ("cu132", "2.14.1")


def test_torchs_own_list_goes_before_the_catalogs() -> None:
    """In both directions: a build that lacks what the catalog gives it, and one that has what it denies."""
    without = trial("cu132", "2.14.1", failure=None, arch_list=("sm_75", "sm_90a", "compute_90"))
    result = after(without)
    assert chosen(result) == ("cu130", "2.14.1")
    assert "torch 2.14.0, older than" in reason_for(result, "cu132")
    pascal = linux(nvidia("6.1", "GTX 1080"), driver="580.65.06", cuda="13.0")
    assert chosen(after(on=pascal)) == ("cu126", "2.14.1")
    assert chosen(after(trial("cu130", "2.14.1", failure=None, arch_list=("sm_60",)), on=pascal)) == (
        "cu130",
        "2.14.1",
    )


def test_torchs_list_of_amds_gpus_says_nothing_of_rocblas() -> None:
    """Torch lists gfx906, for which its rocBLAS has nothing: the first product aborts."""
    vega = linux(amd("gfx906", "Radeon VII"))
    known = trial("rocm7.2", "2.14.1", failure=None, arch_list=("gfx906",), on=vega)
    assert chosen(after(known, on=vega)) == chosen(after(on=vega))


def test_what_says_nothing_new_changes_nothing() -> None:
    """The same again; and a failure where the same worked, which is an environment's own."""
    worked = trial("cu130", "2.14.1", failure=None, arch_list=("sm_80",))
    trials = NO_TRIALS.with_trial(worked)
    assert trials.with_trial(replace(worked, at="2026-11-30T10:00:00.000000Z")) is trials
    assert trials.with_trial(trial("cu130", "2.14.1")) is trials
    newer = trial("cu130", "2.14.1", on=replace(MACHINE, nvidia_driver="590.10"))
    assert trials.with_trial(newer).trials == (newer,)
    assert trials.with_trial(newer).with_trial(worked).trials == (worked,)
    build = parse_build("cu130")
    assert build is not None
    assert trials.codes(build, Version("2.14.1")) == ((8, 0),)
    assert trials.codes(build, Version("2.14.0")) == ()


def test_the_last_hundred_are_kept() -> None:
    """A home grows no further."""
    trials = NO_TRIALS
    for patch in range(110):
        trials = trials.with_trial(trial("cu130", f"2.14.{patch}"))
    assert [one.torch for one in trials.trials] == [f"2.14.{patch}" for patch in range(10, 110)]
