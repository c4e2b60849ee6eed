"""The builds of one activation as they turn out not to work, one after another."""

from __future__ import annotations

import pytest

from moondream_station.core.activation.choice import Candidates
from moondream_station.core.facts.events import Degraded
from moondream_station.core.facts.selection import Verdict
from support.snapshots import linux, nvidia, plan, wheel

GPU = linux(nvidia("8.9", "NVIDIA GeForce RTX 4090"), driver="580.65.06", cuda="13.0")
OFFERS = [
    wheel(f"torch-2.9.1+{build}-cp312-cp312-manylinux_2_28_x86_64.whl")
    for build in ("cpu", "cu126", "cu128", "cu130")
]


def candidates(strategy: str = "auto") -> Candidates:
    """Four builds are possible: cu130 before cu128 before cu126 before cpu."""
    return Candidates(plan(GPU, "torch", strategy=strategy, offers=OFFERS))


def builds_of(choices: Candidates) -> list[str]:
    """What every candidate with a verdict other than rejected is, the chosen one first."""
    candidates = choices.fact().candidates
    chosen = [one.build for one in candidates if one.verdict is Verdict.CHOSEN]
    return chosen + [one.build for one in candidates if one.verdict is Verdict.POSSIBLE]


def current(choices: Candidates) -> str | None:
    """The build it is at."""
    return choices.current.build if choices.current else None


def test_the_first_choice_is_the_selection_s() -> None:
    """Nothing has been rejected yet: build, torch, index and reason are those of the selection."""
    result = plan(GPU, "torch", offers=OFFERS)
    fact = Candidates(result).fact()
    assert (fact.build, fact.torch, fact.source) == ("cu130", "2.9.1", "index")
    assert fact.index_url == "https://mirror.example/whl/cu130"
    assert (fact.reason, fact.candidates) == (result.selection.reason, result.selection.candidates)


def test_an_index_is_named_only_where_torch_comes_from_one() -> None:
    """find-links and the user's own index have no URL to tell."""
    offer = wheel("torch-2.9.1+cpu-cp312-cp312-manylinux_2_28_x86_64.whl", source="find-links")
    fact = Candidates(plan(linux(), "torch", offers=[offer])).fact()
    assert (fact.build, fact.source, fact.index_url) == ("cpu", "find-links", None)


def fall_back(choices: Candidates, reason: str) -> object:
    """Leave the current build."""
    assert choices.current is not None
    return choices.fall_back(choices.current.build, reason)


def test_what_does_not_resolve_gives_way_in_order() -> None:
    """Each candidate is tried; the sentence names the one that is used, the one before it, and why."""
    choices = candidates()
    for rejected, following in (("cu130", "cu128"), ("cu128", "cu126"), ("cu126", "cpu")):
        choices.reject("numpy is too old.")
        fact = choices.fact()
        assert (fact.build, fact.torch) == (following, "2.9.1")
        assert fact.reason == f"{following} is used because {rejected} does not work: numpy is too old."
        assert builds_of(choices)[0] == following
        (gone,) = [one for one in fact.candidates if one.build == rejected]
        assert (gone.verdict, gone.torch, gone.reason) == (Verdict.REJECTED, None, "numpy is too old.")
    assert choices.reject("numpy is too old.") is None
    assert (choices.fact().build, builds_of(choices)) == (None, [])


def test_one_other_accelerator_is_tried_then_the_processor() -> None:
    """What two builds can't do on a device, no third will."""
    choices = candidates()
    fall_back(choices, "no kernel image")
    assert (current(choices), choices.degraded) == ("cu128", None)
    fall_back(choices, "no kernel image either")
    assert current(choices) == "cpu"
    assert choices.degraded == Degraded(wanted="cu130", reason="no kernel image either")
    assert fall_back(choices, "not even that") is None


def test_a_build_that_was_never_tried_is_not_given_up_for_another() -> None:
    """An environment of a build that is no longer chosen fails: the chosen one has its try."""
    choices = candidates()
    first = choices.current
    assert choices.fall_back("cu118", "no kernel image") == first
    assert choices.current == first


def test_what_did_not_resolve_counts_as_no_fall_back() -> None:
    """A build that could not be installed was never tried on the device."""
    choices = candidates()
    choices.reject("a conflict")
    fall_back(choices, "no kernel image")
    assert current(choices) == "cu126"
    fall_back(choices, "no kernel image")
    assert current(choices) == "cpu"


def test_the_accelerator_that_is_fallen_back_to_may_fail_to_resolve() -> None:
    """Then the processor is next."""
    choices = candidates()
    fall_back(choices, "no kernel image")
    choices.reject("a conflict")
    assert current(choices) == "cpu"
    assert choices.degraded == Degraded(wanted="cu130", reason="a conflict")


@pytest.mark.parametrize("build", ["cpu", "cu126"])
def test_a_named_build_has_no_other(build: str) -> None:
    """Neither where it does not resolve nor where it does not compute; and it is not degraded."""
    assert candidates(build).degraded is None
    for give_up in (Candidates.reject, fall_back):
        choices = candidates(build)
        assert current(choices) == build
        assert give_up(choices, "it does not work") is None
        assert choices.fact().build is None


def test_guide_falls_back_too() -> None:
    """It is a way to choose, not a build that was named."""
    choices = candidates("guide")
    first = current(choices)
    fall_back(choices, "no kernel image")
    assert current(choices) not in {None, first}


def test_a_machine_without_an_accelerator_is_not_degraded() -> None:
    """It was meant to use the processor."""
    choices = Candidates(plan(linux(), "torch", offers=OFFERS))
    assert (current(choices), choices.degraded) == ("cpu", None)


def test_where_nothing_is_possible_there_is_nothing_to_give_way() -> None:
    """The fact says why, and names no build."""
    choices = Candidates(plan(GPU, "torch>=99", offers=OFFERS))
    fact = choices.fact()
    assert (choices.current, fact.build, fact.source, choices.degraded) == (None, None, None, None)
    assert fact.reason
