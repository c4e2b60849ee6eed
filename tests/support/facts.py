"""Hypothesis strategies for facts, events and whole legal activations, and the order that is legal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from moondream_station.core.facts.capabilities import Capabilities
from moondream_station.core.facts.codec import FACTS
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    ActivationWaiting,
    BackendActivationRequested,
    BuildSelected,
    CapabilitiesDetected,
    DownloadProgressed,
    EnvironmentBuilt,
    Event,
    Fact,
    FallbackChosen,
    ProbeFinished,
    RequirementsLocked,
    Stage,
    StageProgressed,
    StageStarted,
    VerificationCompleted,
    WorkerStarted,
    WorkerStopped,
)

T = TypeVar("T")

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_PLAIN: Final[Mapping[Any, st.SearchStrategy[Any]]] = {
    str: _TEXT,
    bool: st.booleans(),
    int: st.integers(0, 2**53),
    float: st.floats(0, 1e9, allow_nan=False),
    NoneType: st.none(),
}


@cache  # a strategy made anew for each value costs more than the value
def values(hint: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911  one return a kind of annotation
    """Any value of an annotation that facts use: plain, enum, literal, union, tuple, map, dataclass."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, UnionType):
        return st.one_of(*map(values, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is not None:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    return instances(hint)


def instances(kind: type[T], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Any instance of a dataclass, every field drawn, the given ones from what is given."""
    return st.builds(kind, **(_drawn(kind) | given))  # type: ignore[arg-type]  # a class is hashable


@cache
def _drawn(kind: type[Any]) -> dict[str, st.SearchStrategy[Any]]:
    hints = get_type_hints(kind)
    return {field.name: values(hints[field.name]) for field in fields(kind)}


def facts() -> st.SearchStrategy[Fact]:
    """Any fact whatever."""
    return st.one_of(*map(instances, FACTS.values()))


def moments() -> st.SearchStrategy[datetime]:
    """Any moment that an event can have."""
    return st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  given beside


def events() -> st.SearchStrategy[Event]:
    """Any fact in its envelope, inside an activation or outside."""
    return st.builds(
        Event,
        seq=st.integers(0, 2**53),
        at=moments(),
        activation=st.none() | st.sampled_from(["20261123T100000Z-ab12cd", "20261123T100001Z-ef3456"]),
        fact=facts(),
    )


@st.composite
def legal_activations(draw: st.DrawFn) -> tuple[Fact, ...]:
    """One activation from its request to its terminal fact: it may wait, fall back, and end anywhere."""
    model = draw(_TEXT)
    one_model = st.just(model)
    steps: list[Fact] = draw(st.lists(instances(ActivationWaiting), max_size=2))
    steps += [StageStarted(stage=Stage.DETECT), *draw(st.lists(instances(ProbeFinished), max_size=3))]
    steps += [
        draw(instances(CapabilitiesDetected, capabilities=_machines())),
        StageStarted(stage=Stage.SELECT),
    ]
    attempts = draw(st.integers(1, 3))
    for attempt in range(attempts):
        steps += draw(_attempts(model, attempt))
        if attempt + 1 < attempts:
            steps.append(draw(instances(FallbackChosen)))
    is_whole = draw(st.booleans())
    end: Fact
    if is_whole:
        steps.append(StageStarted(stage=Stage.COMMIT))
        end = draw(instances(ActivationSucceeded, model=one_model))
    else:
        steps = steps[: draw(st.integers(0, len(steps)))]
        end = draw(
            instances(ActivationFailed, model=one_model) | instances(ActivationCancelled, model=one_model)
        )
    return (draw(instances(BackendActivationRequested, model=one_model)), *steps, end)


def published(facts: Sequence[Fact], *, activation: str | None, first_seq: int = 1) -> list[Event]:
    """Facts in their envelopes, as a bus would number them, a second apart."""
    return [
        Event(seq=seq, at=datetime.fromtimestamp(seq, UTC), activation=activation, fact=fact)
        for seq, fact in enumerate(facts, first_seq)
    ]


_RANKS: Final[Mapping[type[Fact], int]] = {
    kind: rank
    for rank, kind in enumerate(
        [
            BackendActivationRequested,
            ActivationWaiting,
            ProbeFinished,
            CapabilitiesDetected,
            BuildSelected,
            RequirementsLocked,
            DownloadProgressed,
            EnvironmentBuilt,
            WorkerStarted,
            VerificationCompleted,
        ]
    )
}


def order_broken(facts: Sequence[Fact]) -> str | None:
    """What is wrong with the order of one activation's facts; None where it is as the contract writes it.

    Stages and their progress may stand anywhere between the first and the last, and so may a worker's end.
    """
    ends = [index for index, fact in enumerate(facts) if isinstance(fact, _TERMINAL)]
    if not facts or not isinstance(facts[0], BackendActivationRequested):
        return "it does not begin with its request"
    if ends != [len(facts) - 1]:
        return f"it ends {len(ends)} times, and {type(facts[-1]).__name__} is last"
    reached: type[Fact] = BackendActivationRequested
    for before, fact in pairwise(facts[:-1]):
        kind = type(fact)
        if kind in (StageStarted, StageProgressed, WorkerStopped):
            continue
        if kind is FallbackChosen:
            reached = CapabilitiesDetected
            continue
        if kind is BackendActivationRequested or _RANKS[kind] < _RANKS[reached]:
            return (
                f"{kind.__name__} comes after {reached.__name__} ({type(before).__name__} stands before it)"
            )
        reached = kind
    return None


_TERMINAL = (ActivationSucceeded, ActivationFailed, ActivationCancelled)


def _machines() -> st.SearchStrategy[Capabilities]:
    # One is as good as another here, and a whole one drawn anew each time costs more than all the rest.
    return st.sampled_from(
        [
            Capabilities(system="Linux", release="6.8.0", machine="x86_64", python="3.12.3"),
            Capabilities(
                system="Darwin", release="24.1.0", machine="arm64", python="3.13.1", apple_silicon=True
            ),
        ]
    )


@st.composite
def _attempts(draw: st.DrawFn, model: str, attempt: int) -> list[Fact]:
    one_worker = {"model": st.just(model), "pid": st.just(1000 + attempt)}
    steps: list[Fact] = [draw(instances(BuildSelected)), StageStarted(stage=Stage.LOCK)]
    if draw(st.booleans()):  # else its environment exists already
        files = instances(DownloadProgressed, file=st.sampled_from(["torch.whl", "numpy.whl"]))
        steps += [draw(instances(RequirementsLocked)), StageStarted(stage=Stage.DOWNLOAD)]
        steps += [*draw(st.lists(files, max_size=4)), StageStarted(stage=Stage.BUILD)]
        steps += draw(st.lists(instances(StageProgressed, stage=st.just(Stage.BUILD)), max_size=2))
    steps += [draw(instances(EnvironmentBuilt)), StageStarted(stage=Stage.START)]
    steps += [draw(instances(WorkerStarted, **one_worker)), StageStarted(stage=Stage.VERIFY)]
    steps += [draw(instances(VerificationCompleted))]
    return steps
