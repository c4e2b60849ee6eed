"""The panel's pictures, held against the ones in `snapshots`.

After a wanted change, run this file once with UPDATE_SNAPSHOTS=1 and look at what changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from moondream_station.core.facts.activation_state import Active, WorkerState
from moondream_station.core.facts.errors import ErrorInfo
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    BackendActivationRequested,
    CancelReason,
    Degraded,
    Event,
    Fact,
    Stage,
    StageProgressed,
    StageStarted,
)
from moondream_station.core.facts.state import StationInfo, StationState, apply
from moondream_station.panel.frame import frame_of
from moondream_station.panel.rendering import render, render_station
from moondream_station.panel.words import PlainLines
from support.facts import legal_activations, published
from support.scripted_activation import ACTIVATION, BEGAN_AT, ENVIRONMENT, SCRIPTS, events, machine, whole
from support.snapshot_files import check_snapshot

_SNAPSHOTS = Path(__file__).parent / "snapshots"
_WIDTHS = (79, 39)


def _state(happened: Sequence[Event]) -> StationState:
    return reduce(apply, happened, StationState())


def _text(lines: Sequence[Text]) -> str:
    return "".join(f"{line.plain}\n" for line in lines)


def _check(name: str, shown: str) -> None:
    check_snapshot(_SNAPSHOTS / f"{name}.txt", shown)


def _picture(happened: Sequence[Event], width: int, *, unicode: bool = True, cancelling: bool = False) -> str:
    now = happened[-1].at + timedelta(seconds=0.5)
    return _text(render(_state(happened), frame_of(width, unicode=unicode, now=now), cancelling=cancelling))


_MOMENTS = {
    "detecting": 9,
    "chosen": 12,
    "locked": 14,
    "downloading": 19,
    "building": 24,
    "verified": 29,
    "loading": 30,
}


@pytest.mark.parametrize("width", _WIDTHS)
@pytest.mark.parametrize("moment", _MOMENTS)
def test_an_activation_is_shown_stage_by_stage(moment: str, width: int) -> None:
    """Probes, the build and why, bytes and speed, what was there before, building and loading."""
    _check(f"{moment}-{width}", _picture(events(whole())[: _MOMENTS[moment]], width))


@pytest.mark.parametrize("width", _WIDTHS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_its_end_is_shown_in_full(script: str, width: int) -> None:
    """The result, a degraded one as such, the error with its hint; or who is waited for."""
    _check(f"{script}-{width}", _picture(events(SCRIPTS[script]()), width))


@pytest.mark.parametrize("script", ["whole", "failed"])
def test_a_terminal_without_unicode_gets_ascii(script: str) -> None:
    """Marks, bars and ellipses have their ASCII counterparts."""
    shown = _picture(events(SCRIPTS[script]())[:19], 39, unicode=False)
    assert shown.isascii()
    _check(f"{script}-ascii-39", shown)


def test_words_of_others_become_ascii_where_they_must() -> None:
    """A file or model name may be anything."""
    asked = BackendActivationRequested(model="mondträumer…", backend=None, requirements=(), strategy="auto")
    shown = _picture(events([asked]), 60, unicode=False)
    assert shown.startswith("Switching to mondtr?umer... (strategy auto)")


def test_cancelling_is_shown_until_it_is_done() -> None:
    """In the title and at the present stage; the terminal fact then says what came of it."""
    _check("cancelling-79", _picture(events(whole())[:19], 79, cancelling=True))


def test_other_peoples_words_can_not_move_the_cursor() -> None:
    """Control characters of an error's text do not reach the terminal."""
    error = ErrorInfo(code="no-space", message="one\x1b[2J\r\ntwo\x07 \u202ethree", hint="\x9b31m")
    end = ActivationFailed(model="selftest", stage=Stage.DETECT, error=error)
    shown = _picture(events([*whole()[:5], end]), 79)
    assert not {char for char in shown if ord(char) < ord(" ") or char in "\x7f\x9b\u202e"} - {"\n"}
    assert "one [2J two three [no-space]" in shown


@given(facts=legal_activations(), width=st.integers(20, 120), unicode=st.booleans())
def test_every_legal_activation_fits_at_every_width(
    *, facts: tuple[Fact, ...], width: int, unicode: bool
) -> None:
    """No line is wider than asked for, and nothing raises, whatever the facts say."""
    state = StationState()
    for event in published(facts, activation=ACTIVATION):
        state = apply(state, event)
        lines = render(state, frame_of(width, unicode=unicode, now=event.at))
        assert all(line.cell_len <= width for line in lines)
        assert all(unicode or line.plain.isascii() for line in lines)
        assert not any(char in line.plain for line in lines for char in "\n\r\x1b")


@given(facts=legal_activations(), width=st.integers(20, 120))
def test_the_height_does_not_change_while_an_activation_runs(facts: tuple[Fact, ...], width: int) -> None:
    """Nothing jumps."""
    state, heights = StationState(), set()
    for event in published(facts[:-1], activation=ACTIVATION):
        state = apply(state, event)
        heights.add(len(render(state, frame_of(width, unicode=True, now=event.at))))
    assert len(heights) == 1


@pytest.mark.parametrize("height", [0, 1, 2, 5, 10])
def test_a_low_terminal_gets_the_present_stage(height: int) -> None:
    """Title, stage and as many lines of the rest as there is room for."""
    happened = events(whole())[:19]
    lines = render(_state(happened), frame_of(79, unicode=True, now=happened[-1].at), height=height)
    assert len(lines) == min(height, 8)
    assert [line.plain.split()[0] for line in lines[:2]] == ["Switching", "▸"][:height]


def test_progress_whose_whole_is_not_known_shows_what_there_is() -> None:
    """No bar and no per cent without a total."""
    progress = StageProgressed(stage=Stage.VERIFY, done=1_300_000_000, total=None, unit="bytes")
    facts = [whole()[0], StageStarted(stage=Stage.VERIFY), progress]
    assert "verify    1.3 GB\n" in _picture(events(facts), 79)


def test_a_wheel_that_is_read_to_be_locked_says_how_fast() -> None:
    """By the last seconds: a fast beginning is soon forgotten."""
    steps = [0, 200_000_000, *range(204_000_000, 364_000_000, 4_000_000)]
    progress = [
        StageProgressed(stage=Stage.LOCK, done=done, total=700_000_000, unit="bytes") for done in steps
    ]
    shown = _picture(events([whole()[0], StageStarted(stage=Stage.LOCK), *progress]), 79)
    assert "lock      fetching a wheel: 360.0 MB of 700.0 MB  4.8 MB/s  1:11 left\n" in shown


@pytest.mark.parametrize(("done", "words"), [(0, "importing torch"), (2, "computing on the device")])
def test_verifying_names_its_step(done: int, words: str) -> None:
    """And the time that it takes, since nothing else moves."""
    progress = StageProgressed(stage=Stage.VERIFY, done=done, total=3, unit="steps")
    facts = [whole()[0], StageStarted(stage=Stage.VERIFY), progress]
    happened = events(facts)
    now = happened[0].at + timedelta(seconds=9)
    lines = render(_state(happened), frame_of(79, unicode=True, now=now))
    line = next(line.plain for line in lines if "verify" in line.plain)
    assert words in line
    assert line.endswith("0:08")


@pytest.mark.parametrize(("done", "is_kept"), [(0, False), (1_300_000_000, True)])
def test_weights_that_came_are_kept_as_wheels_are(done: int, *, is_kept: bool) -> None:
    """In an environment that is there already nothing else is downloaded."""
    progress = StageProgressed(stage=Stage.VERIFY, done=done, total=3_900_000_000, unit="bytes")
    end = ActivationCancelled(model="moondream-2", stage=Stage.VERIFY, reason=CancelReason.USER)
    facts = [whole()[0], StageStarted(stage=Stage.VERIFY), progress, end]
    happened = events(facts)
    lines = PlainLines()
    plain = [line for event in happened for line in lines.lines(event)]
    for shown in (_picture(happened, 79), plain[-1]):
        assert ("What was downloaded is kept." in shown) is is_kept


def test_nothing_is_shown_where_nothing_happened() -> None:
    """A station without activations has no activation's picture."""
    assert render(StationState(), frame_of(79, unicode=True, now=BEGAN_AT)) == []


@pytest.mark.parametrize("width", _WIDTHS)
def test_the_station_and_its_model_stand_above_the_activation(width: int) -> None:
    """Address, model, worker, verification, what is degraded; then what runs."""
    state = _state(events(whole())[:19])
    active = Active(
        model="moondream-2",
        backend="moondream",
        build="cpu",
        torch="2.14.1",
        environment=ENVIRONMENT,
        worker=WorkerState.READY,
        degraded=Degraded(wanted="cu126", reason="torch on cu126 does not see the GPU that the driver has."),
    )
    station = StationInfo(instance="i", pid=12, address="http://127.0.0.1:2020", version="0.2.0")
    full = replace(state, station=station, active=active, capabilities=machine())
    now = BEGAN_AT + timedelta(seconds=60)
    _check(f"station-{width}", _text(render_station(full, frame_of(width, unicode=True, now=now))))
    _check(
        f"station-empty-{width}",
        _text(render_station(StationState(), frame_of(width, unicode=True, now=now))),
    )
