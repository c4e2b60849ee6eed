"""The account of a download: what is told, how often, and how fast it says things go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moondream_station.core.facts.events import DownloadProgressed
from moondream_station.core.fetch.ledger import Ledger, Rate


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_the_first_fact_tells_all_totals() -> None:
    """Before the first byte every total is known; what is here counts as received, not as transferred."""
    facts: list[DownloadProgressed] = []
    ledger = Ledger(facts.append, Clock())
    ledger.open([("a", 100, 40), ("b", 50, 50)])
    ledger.report("a")
    assert facts == [
        DownloadProgressed(
            file="a",
            received_bytes=40,
            total_bytes=100,
            transferred_bytes=0,
            resumed_from=40,
            overall_received_bytes=90,
            overall_total_bytes=150,
            overall_transferred_bytes=0,
            bytes_per_second=None,
            eta_seconds=None,
        )
    ]


def test_the_overall_size_is_unknown_while_one_file_s_is() -> None:
    """A sum with an unknown part is unknown; it becomes known when that size is learnt."""
    facts: list[DownloadProgressed] = []
    ledger = Ledger(facts.append, Clock())
    ledger.open([("a", None, 0), ("b", 50, 0)])
    ledger.report("b")
    ledger.learn_size("a", 10)
    ledger.report("b")
    assert [fact.overall_total_bytes for fact in facts] == [None, 60]


def test_at_most_four_facts_a_second_come_from_one_file() -> None:
    """However many pieces arrive, a file is told of every quarter of a second at most."""
    clock, facts = Clock(), list[DownloadProgressed]()
    ledger = Ledger(facts.append, clock)
    ledger.open([("a", 1000, 0)])
    ledger.report("a")
    for received in range(1, 1001):
        clock.now += 0.002
        ledger.transferred("a", 1, received_bytes=received)
    assert len(facts) in {8, 9}


def test_the_last_bytes_before_a_silence_are_told() -> None:
    """Also when no further piece comes that would bring them up."""
    clock, facts = Clock(), list[DownloadProgressed]()
    ledger = Ledger(facts.append, clock)
    ledger.open([("a", 1000, 0)])
    ledger.report("a")
    ledger.transferred("a", 10, received_bytes=10)
    ledger.catch_up()
    assert [fact.received_bytes for fact in facts] == [0]
    clock.now += 0.25
    ledger.catch_up()
    ledger.catch_up()
    assert [fact.received_bytes for fact in facts] == [0, 10]


def test_a_silence_takes_the_speed_down() -> None:
    """Once a second while it falls; when nothing is left of it, there is nothing to tell."""
    clock, facts = Clock(), list[DownloadProgressed]()
    ledger = Ledger(facts.append, clock)
    ledger.open([("a", 1000, 0), ("b", 1000, 0)])
    for received in range(100, 900, 100):
        clock.now += 0.25
        ledger.transferred("a", 100, received_bytes=received)
    told = len(facts)
    for _ in range(4 * 600):
        clock.now += 0.25
        ledger.catch_up()
    *speeds, last = [fact.bytes_per_second or 0.0 for fact in facts[told - 1 :]]
    assert {fact.file for fact in facts} == {"a"}
    assert last == 0.0
    assert speeds == sorted(speeds, reverse=True)
    assert 20 < len(speeds) < 60


def test_a_file_that_starts_over_says_so() -> None:
    """When what was resumed can't be used, the fact says that nothing is here and nothing was resumed."""
    facts: list[DownloadProgressed] = []
    ledger = Ledger(facts.append, Clock())
    ledger.open([("a", 100, 60)])
    ledger.restarted("a")
    assert (facts[0].received_bytes, facts[0].resumed_from) == (0, 0)


def test_speed_and_remaining_time_wait_until_they_mean_something() -> None:
    """Four samples are needed; then speed is the mean and the remaining time follows from it."""
    clock, facts = Clock(), list[DownloadProgressed]()
    ledger = Ledger(facts.append, clock)
    ledger.open([("a", 1000, 0)])
    for received in range(100, 900, 100):
        clock.now += 0.25
        ledger.transferred("a", 100, received_bytes=received)
    assert [fact.bytes_per_second for fact in facts[:3]] == [None, None, None]
    assert facts[-1].bytes_per_second is not None
    assert round(facts[-1].bytes_per_second) == 400
    assert facts[-1].eta_seconds is not None
    assert round(facts[-1].eta_seconds, 3) == 0.5


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 1 << 30)), min_size=1, max_size=50))
def test_the_rate_stays_within_what_was_seen(arrivals: list[tuple[float, int]]) -> None:
    """A smoothed rate is a mean: never below zero, and never above all bytes in the shortest sample."""
    clock = Clock()
    rate = Rate(clock)
    for pause, size in arrivals:
        clock.now += pause
        rate.add(size)
    shown = rate.bytes_per_second
    assert shown is None or 0 <= shown <= sum(size for _, size in arrivals) / 0.25 * 1.001
