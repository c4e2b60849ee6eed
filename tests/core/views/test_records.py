"""What journals and logs tell of the past, also where a kill tore them."""

from __future__ import annotations

from pathlib import Path

from moondream_station.core.bus.journal import Journal
from moondream_station.core.home.layout import Home
from moondream_station.core.views.records import list_activations, show_activation, worker_lines
from support.scripted_activation import BEGAN_AT, cancelled, events, failed, whole


def _record(home: Home, activation: str, facts: list[object]) -> None:
    journal = Journal(home)
    for event in events(facts):  # type: ignore[arg-type]  # facts, as a script gives them
        journal.record(type(event)(seq=event.seq, at=event.at, activation=activation, fact=event.fact))


def test_activations_are_listed_newest_first_with_their_ends(tmp_path: Path) -> None:
    """Succeeded, failed with its error, cancelled, and one whose process was killed."""
    home = Home(root=tmp_path)
    assert list_activations(home) == ()
    scripts = {"a-1": whole(), "a-2": failed(), "a-3": cancelled(), "a-4": whole()[:5]}
    for activation, facts in scripts.items():
        _record(home, activation, list(facts))
    Journal(home).note("a-2", "$ uv lock")
    with (home.activations / "a-4.jsonl").open("a") as file:
        file.write('{"event": "StageSta')
    newest, third, second, first = list_activations(home)
    assert (newest.id, newest.outcome, newest.seconds) == ("a-4", None, None)
    assert (third.outcome, third.stage) == ("cancelled", "download")
    assert second.outcome == "failed"
    assert second.error is not None
    assert second.error.code == "index-unreachable"
    assert (first.outcome, first.build, first.model) == ("succeeded", "cu126", "selftest")
    assert (first.started_at, first.seconds) == (BEGAN_AT, len(whole()) - 1)


def test_a_journal_is_shown_with_its_notes(tmp_path: Path) -> None:
    """Facts and tools' output; nothing for an id that names no journal, nor for one that leads elsewhere."""
    home = Home(root=tmp_path)
    _record(home, "a-1", list(failed()))
    Journal(home).note("a-1", "$ uv lock")
    shown = show_activation(home, "a-1")
    assert shown is not None
    assert shown.events[0]["event"] == "BackendActivationRequested"
    assert shown.events[-1]["event"] == "ActivationFailed"
    assert shown.notes == ("$ uv lock",)
    (tmp_path / "config.jsonl").write_text("{}\n")
    assert show_activation(home, "a-2") is None
    assert show_activation(home, "../config") is None


def test_the_last_lines_of_a_worker(tmp_path: Path) -> None:
    """At most 200 of them, of the model's own log."""
    home = Home(root=tmp_path)
    assert worker_lines(home, "selftest") == []
    home.logs.mkdir()
    home.worker_log("selftest").write_text("".join(f"line {number}\n" for number in range(300)))
    assert worker_lines(home, "selftest") == [f"line {number}" for number in range(100, 300)]
