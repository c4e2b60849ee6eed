"""Models that do not fit the machine, and models with a notice: refused before anything is fetched."""

from __future__ import annotations

import json

import pytest

from moondream_station.core.facts.events import ActivationFailed, BuildSelected, Stage, StageProgressed
from moondream_station.core.facts.selection import FitVerdict
from support.commands import command, run, serving
from support.machines import cpu_only, nvidia_linux
from support.stations import HERE, Premises, failed, switched
from support.terminal import open_terminal

pytestmark = pytest.mark.anyio

CPU = cpu_only(HERE)
CUDA = nvidia_linux(driver="560.35.03", cuda="12.6", platform=HERE)
ANNOUNCING = """
import time

def fetch_backend(weights, progress=None):
    progress(weights, weights, "bytes of memory")
    while weights == 10**15:
        time.sleep(0.01)  # whoever is not ended here would download

def init_backend(**args):
    pass

def caption(**kwargs):
    return {"caption": "fetched"}
"""
TOO_LARGE = {"weights_bytes": 10**15, "weights_dtype": "bfloat16"}
NOTICE = {"text": "The licence is proprietary, and it sends telemetry.", "url": "https://example.org/terms"}


def fetched_wheels(premises: Premises) -> list[str]:
    """The wheels that the index was asked for."""
    return [request.path for request in premises.index.requests if request.path.endswith(".whl")]


async def test_a_model_that_does_not_fit_fetches_nothing(premises: Premises) -> None:
    """The error has the sum, and says how to go on."""
    premises.add_model("large", needs={"memory_bytes": {"bfloat16": 10**15}})
    async with premises.station(CPU) as station:
        course = await failed(station, "large")
    failure = course.only(ActivationFailed)
    assert (failure.error.code, failure.stage) == ("does-not-fit", Stage.SELECT)
    assert "large does not fit on the cpu build: it needs 1000001.1 GB of memory; " in failure.error.message
    assert "--anyway" in (failure.error.hint or "")
    fit = course.only(BuildSelected).fit
    assert fit is not None
    assert fit.verdict is FitVerdict.DOES_NOT_FIT
    assert fetched_wheels(premises) == []


async def test_a_forced_build_that_cannot_help_fetches_nothing(premises: Premises) -> None:
    """On a machine without a GPU; where that is wanted anyway, it is downloaded."""
    premises.add_model("colours")
    async with premises.station(CPU) as station:
        failure = (await failed(station, "colours", "cu128")).only(ActivationFailed)
        assert (failure.error.code, failure.stage) == ("does-not-fit", Stage.SELECT)
        assert "switch colours --strategy auto" in (failure.error.hint or "")
        assert fetched_wheels(premises) == []
        await switched(station, "colours", "cu128", anyway=True)
        assert any("cu128" in path for path in fetched_wheels(premises))


@pytest.mark.terminal
def test_whoever_sits_at_a_terminal_is_asked(premises: Premises) -> None:
    """What is too much is downloaded after a yes alone."""
    premises.add_model("large", needs={"memory_bytes": {"bfloat16": 10**15}})
    for answer, code in (("n", 1), ("y", 0)):
        with open_terminal(
            command("switch", "large"), columns=80, rows=60, environ=premises.environ, clean=True
        ) as terminal:
            terminal.wait_for("Switch to large anyway? [y/N]")
            terminal.type_line(answer)
            assert terminal.exit_code() == code
        assert bool(fetched_wheels(premises)) == (answer == "y")


async def test_of_a_gpu_build_the_memory_of_the_gpu_counts(premises: Premises) -> None:
    """Not the computer's, of which there may be enough."""
    premises.add_model("large", needs={"weights_bytes": 10**15, "weights_dtype": "float32"})
    async with premises.station(CUDA) as station:
        course = await failed(station, "large")
    assert "GB of GPU memory; " in course.only(ActivationFailed).error.message


async def test_a_user_goes_on_regardless(premises: Premises) -> None:
    """Neither memory nor a disk that is too small for the weights stops it then."""
    premises.add_model("large", needs=TOO_LARGE)
    async with premises.station(CPU) as station:
        course = await switched(station, "large", anyway=True)
        assert course.only(BuildSelected).fit is not None
        again = await failed(station, "large")
        assert again.only(ActivationFailed).error.code == "does-not-fit"


async def test_what_is_active_is_served_again(premises: Premises) -> None:
    """Whoever went on regardless once is not asked by a station that installs it again."""
    premises.add_model("large", needs=TOO_LARGE)
    async with premises.station(CPU) as station:
        await switched(station, "large", anyway=True)
    (environment,) = premises.environments()
    (premises.home.environments / environment / "pylock.toml").unlink()
    async with premises.station(CPU, serves=True) as station, station.bus.subscribe() as events:
        await station.start_active()
        async for event in events:
            if event.is_terminal:
                assert event.name == "ActivationSucceeded", event.fact
                break


async def test_a_disk_that_is_too_small_for_the_weights(premises: Premises) -> None:
    """That is said before the wheels are fetched."""
    premises.add_model("large", needs={"weights_bytes": 10**15, "memory_bytes": {"float32": 1}})
    async with premises.station(CPU) as station:
        course = await failed(station, "large")
    error = course.only(ActivationFailed).error
    assert error.code == "does-not-fit"
    assert "GB on the disk; " in error.message
    assert fetched_wheels(premises) == []


async def test_a_backend_may_say_it_before_it_fetches(premises: Premises) -> None:
    """Where the manifest says nothing about memory: the switch ends there, with the same error."""
    premises.add_model("said", source=ANNOUNCING, args={"weights": 10**15})
    async with premises.station(CPU) as station:
        course = await failed(station, "said")
        failure = course.only(ActivationFailed)
        assert (failure.error.code, failure.stage) == ("does-not-fit", Stage.VERIFY)
        assert "needs 1000001.1 GB of memory; " in failure.error.message
    premises.add_model("said", source=ANNOUNCING, args={"weights": 10**14})
    async with premises.station(CPU) as station:
        await switched(station, "said", anyway=True)
    premises.add_model(
        "said", source=ANNOUNCING, args={"weights": 10**14}, needs={"memory_bytes": {"int8": 1}}
    )
    async with premises.station(CPU) as station:
        course = await switched(station, "said")
    assert all(fact.unit != "bytes of memory" for fact in course.every(StageProgressed))


async def test_every_model_is_listed_with_its_fit(premises: Premises) -> None:
    """Also one that requires a package by URL, one without torch, and one whose code is not here yet."""
    needs = {"weights_bytes": 0}
    url = "our @ https://example.org/our-1.0-py3-none-any.whl\ntorch\n"
    premises.add_model("by-url", requirements=url, allow={"urls": ["our"]}, needs=needs)
    premises.add_model("plain", requirements="", needs=needs)
    premises.add_model("elsewhere", code_url="https://example.org/code.zip", needs=needs)
    async with premises.station(CPU) as station:
        assert {model["fit"]["reason"] for model in station.models()["models"]} == {
            "this machine has not been detected yet"
        }
        await switched(station, "colours")
        fits = {model["id"]: model["fit"] for model in station.models()["models"]}
    assert fits["colours"]["verdict"] == "unknown"
    for model in ("by-url", "plain", "elsewhere"):
        assert "needs 1.1 GB of memory; " in fits[model]["reason"], model


async def test_a_notice_must_be_accepted_once(premises: Premises) -> None:
    """Refused without, with its text; accepted, it is recorded for that text alone."""
    premises.add_model("noted", notice=NOTICE)
    async with premises.station(CPU) as station:
        course = await failed(station, "noted")
        _, failure = course.facts
        assert isinstance(failure, ActivationFailed)
        assert (failure.error.code, failure.stage) == ("notice-not-accepted", Stage.PREPARE)
        assert NOTICE["text"] in failure.error.message
        assert NOTICE["url"] in failure.error.message
        assert station.models()["models"][1]["notice"] == {**NOTICE, "accepted": False}
        await switched(station, "noted", accept_notice=True)
        assert station.models()["models"][1]["notice"] == {**NOTICE, "accepted": True}
        await switched(station, "noted")
    premises.add_model("noted", notice={**NOTICE, "text": "Another text."})
    async with premises.station(CPU) as station:
        again = await failed(station, "noted")
    assert again.only(ActivationFailed).error.code == "notice-not-accepted"
    assert len(json.loads(premises.home.notices.read_text())["accepted"]) == 1


async def test_a_damaged_record_of_notices_accepts_nothing(premises: Premises) -> None:
    """Whoever can't read what was accepted asks again, and replaces it."""
    premises.add_model("noted", notice=NOTICE)
    premises.home.create()
    premises.home.notices.write_text("{")
    async with premises.station(CPU) as station:
        assert (await failed(station, "noted")).only(ActivationFailed).error.code == "notice-not-accepted"
        await switched(station, "noted", accept_notice=True)
        await switched(station, "noted")


def test_a_command_without_a_terminal_accepts_by_its_flag_alone(premises: Premises) -> None:
    """Nobody could answer a question."""
    premises.add_model("noted", requirements="", notice=NOTICE)
    refused = run(premises, "switch", "noted")
    assert refused.returncode == 1
    assert "notice-not-accepted" in refused.stderr
    assert run(premises, "switch", "noted", "--accept-notice").returncode == 0
    assert run(premises, "switch", "noted").returncode == 0


@pytest.mark.terminal
@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 1), ("n", 1), ("C-c", 130)])
def test_on_a_terminal_it_is_asked(premises: Premises, answer: str, code: int) -> None:
    """With the text and the address; only a yes is one."""
    premises.add_model("noted", requirements="", notice=NOTICE)
    environ = {**premises.environ, "LANG": "C.UTF-8"}
    with open_terminal(
        command("switch", "noted"), columns=100, rows=40, environ=environ, clean=True
    ) as terminal:
        shown = " ".join(terminal.wait_for("[y/N]"))
        assert NOTICE["text"] in shown
        assert NOTICE["url"] in shown
        if answer == "C-c":
            terminal.press(answer)
        else:
            terminal.type_line(answer)
        assert terminal.exit_code() == code
    assert premises.home.notices.exists() == (answer == "y")


@pytest.mark.terminal
def test_a_station_that_serves_is_asked_whether_it_was_accepted(premises: Premises) -> None:
    """The question comes once, though another process switches."""
    premises.add_model("noted", requirements="", notice=NOTICE)
    environ = {**premises.environ, "LANG": "C.UTF-8"}
    with serving(premises):
        for asked in (True, False):
            line = command("switch", "noted")
            with open_terminal(line, columns=100, rows=40, environ=environ, clean=True) as terminal:
                if asked:
                    terminal.wait_for("[y/N]")
                    terminal.type_line("yes")
                assert terminal.exit_code() == 0
                assert ("[y/N]" in " ".join(terminal.screen())) == asked
