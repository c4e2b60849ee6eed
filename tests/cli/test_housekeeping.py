"""`logs`, `remove` and `prune`: what is on record, and what nobody needs."""

from __future__ import annotations

import json

from support.commands import run, run_json, serving, switch
from support.stations import Premises


def test_logs_show_the_last_activation_and_the_worker(installed: Premises) -> None:
    """Facts in words, the resolver's output, and what the worker wrote."""
    shown = run_json(installed, "logs", "colours")
    assert shown["model"] == "colours"
    assert shown["events"][-1]["event"] == "ActivationSucceeded"
    assert "colours is active" in run(installed, "logs").stdout
    failed = run(installed, "logs", "nope", "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["error"]["code"] == "no-active-model"


def test_prune_keeps_what_is_in_use(installed: Premises) -> None:
    """What `active.json` names stays with its downloads; what was there before it goes, once forgotten."""
    assert switch(installed, "colours", "--upgrade")[-1]["event"] == "ActivationSucceeded"
    environments = installed.environments()
    assert len(environments) == 2  # the one before is kept for a return
    planned = run_json(installed, "prune", "--dry-run")
    assert installed.environments() == environments
    assert "environment" not in {one["kind"] for one in planned["removed"]}
    assert run_json(installed, "prune")["removed"] == planned["removed"]
    assert switch(installed, "colours")[-1]["event"] == "ActivationSucceeded"


def test_a_forgotten_model_can_be_pruned(installed: Premises) -> None:
    """Afterwards nothing of it is left, and it can be installed again."""
    assert run(installed, "remove", "colours").returncode == 0
    assert run_json(installed, "status")["active"] is None
    kinds = {one["kind"] for one in run_json(installed, "prune")["removed"]}
    assert {"environment", "download", "backend"} <= kinds
    assert installed.environments() == set()
    assert list(installed.home.downloads.iterdir()) == []
    assert run(installed, "remove", "colours").returncode == 1
    assert switch(installed, "colours")[-1]["event"] == "ActivationSucceeded"


def test_what_a_station_serves_is_neither_removed_nor_pruned(installed: Premises) -> None:
    """The station is named, and goes on answering."""
    with serving(installed) as station:
        station.post("/v1/caption", {})
        assert run_json(installed, "remove", "colours")["error"]["code"] == "station-running"
        run_json(installed, "prune")
        assert station.post("/v1/caption", {})["caption"] == "a small caption"
