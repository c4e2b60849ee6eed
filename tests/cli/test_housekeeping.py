"""`logs`, `remove` and `prune`: what is on record, and what nobody needs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from moondream_station.core.home.active_file import read_active, write_active
from support.commands import events_of, exit_code_after, run, run_json, serving, started
from support.index_traffic import Fault
from support.stations import Premises, activate


@pytest.mark.own_process
def test_logs_show_the_last_activation_and_the_worker(installed: Premises) -> None:
    """Facts in words, the resolver's output, and what the worker wrote."""
    shown = run_json(installed, "logs", "colours")
    assert shown["model"] == "colours"
    assert shown["events"][-1]["event"] == "ActivationSucceeded"
    assert "colours is active" in run(installed, "logs").stdout
    installed.add_model("shapes")
    assert run_json(installed, "logs", "shapes")["error"]["code"] == "no-active-model"


def test_logs_are_followed(installed: Premises) -> None:
    """What is there, the next activation of the model, and what its worker writes, until a signal comes."""
    installed.add_model("shapes")
    with started(installed, "logs", "--follow", "--json", "colours") as following:
        assert following.stdout is not None
        lines = map(json.loads, following.stdout)
        first = next(line for line in lines if line.get("event") == "ActivationSucceeded")
        run(installed, "switch", "nope")
        activate(installed, "shapes")
        activate(installed, "colours")
        assert first["seq"] < next(lines)["seq"]
        last = next(line for line in lines if line.get("event") == "ActivationSucceeded")
        assert last["model"] == "colours"
        with installed.home.worker_log("colours").open("a") as log:
            log.write("half a ")
            log.flush()
            log.write("line\n")
        assert {"worker": "half a line"} in lines
        assert exit_code_after(following, signal.SIGINT) == 0


def test_prune_keeps_what_is_in_use(installed: Premises) -> None:
    """What `active.json` names stays with its downloads; what was there before it goes, once forgotten."""
    activate(installed, "colours", upgrade=True)
    environments = installed.environments()
    assert len(environments) == 2  # the one before is kept for a return
    planned = run_json(installed, "prune", "--dry-run")
    assert installed.environments() == environments
    assert "environment" not in {one["kind"] for one in planned["removed"]}
    assert run_json(installed, "prune")["removed"] == planned["removed"]
    activate(installed, "colours")


def test_prune_names_a_wheel_once(installed: Premises) -> None:
    """Not its note, which goes with it."""
    run(installed, "remove", "colours")
    notes = {path.name for path in installed.home.downloads.glob("*.json")}
    assert notes
    removed = {Path(one["path"]).name for one in run_json(installed, "prune")["removed"]}
    assert removed >= {name.removesuffix(".json") for name in notes}
    assert removed & notes == set()
    assert list(installed.home.downloads.iterdir()) == []
    (installed.home.downloads / "0123-alone.whl.json").write_text("{}")
    assert "0123-alone.whl.json" in run(installed, "prune").stdout


@pytest.mark.own_process
def test_a_forgotten_model_can_be_pruned(installed: Premises) -> None:
    """Afterwards nothing of it is left, and it can be installed again."""
    assert run(installed, "remove", "colours").returncode == 0
    assert run_json(installed, "status")["active"] is None
    kinds = {one["kind"] for one in run_json(installed, "prune")["removed"]}
    assert {"environment", "download", "backend"} <= kinds
    assert installed.environments() == set()
    assert list(installed.home.downloads.iterdir()) == []
    assert run(installed, "remove", "colours").returncode == 1
    activate(installed, "colours")


def test_what_was_left_half_done_is_named_and_goes(installed: Premises) -> None:
    """An environment without a commit, a part of a download, and code that was being taken in."""
    home = installed.home
    (home.environments / "0123abcd-4567" / "venv").mkdir(parents=True)
    (home.downloads / "0123-torch.whl.partial").write_bytes(bytes(1000))
    (home.backends / "colours" / ".new-0123").mkdir()
    planned = run_json(installed, "prune", "--dry-run")
    named = {(one["kind"], one["path"]) for one in planned["removed"]}
    assert named >= {
        ("environment", "environments/0123abcd-4567"),
        ("download", "downloads/0123-torch.whl.partial"),
        ("backend", "backends/colours/.new-0123"),
    }
    assert run_json(installed, "prune")["removed"] == planned["removed"]
    assert not any((home.root / path).exists() for _, path in named)
    activate(installed, "colours")


def test_code_that_a_commit_names_is_not_pruned(installed: Premises) -> None:
    """Code of another content, of a switch that came no further, goes and leaves it the one that is used."""
    (code,) = (installed.home.backends / "colours" / "1.0.0").iterdir()
    installed.add_model("colours", source="raise RuntimeError('broken')\n")
    assert run(installed, "switch", "colours").returncode == 1
    (other,) = set((installed.home.backends / "colours" / "1.0.0").iterdir()) - {code}
    removed = [one["path"] for one in run_json(installed, "prune")["removed"] if one["kind"] == "backend"]
    assert removed == [str(other.relative_to(installed.home.root))]
    assert code.is_dir()
    with serving(installed) as station:
        assert station.post("/v1/caption", {})["caption"] == "a small caption"


def test_prune_knows_a_home_by_any_name(installed: Premises, tmp_path: Path) -> None:
    """A worker's environment stays for as long as it runs, also where the home is reached through a link."""
    (link := tmp_path / "link").symlink_to(installed.home.root)
    with serving(installed) as station:
        station.post("/v1/caption", {})
        active = read_active(installed.home)
        write_active(installed.home, active.without("colours"))  # as if another model had been switched to
        done = run(installed, "prune", "--json", MOONDREAM_STATION_HOME=str(link))
        assert "environment" not in {one["kind"] for one in json.loads(done.stdout)["removed"]}
        assert station.post("/v1/caption", {})["caption"] == "a small caption"
        write_active(installed.home, active)


def test_prune_waits_for_who_changes_the_home(installed: Premises) -> None:
    """The downloads of a running switch are not pruned under it: it says for whom it waits."""
    installed.index.add_torch("2.9.9", "cpu", filler_bytes=3_000_000)
    installed.index.faults.append(Fault(match="/whl/cpu/torch-2.9.9*.whl", bytes_per_second=1_500_000))
    with started(installed, "switch", "colours", "--upgrade", "--json") as switching:
        for event in events_of(switching):
            if event["event"] == "DownloadProgressed":
                break
        pruned = run(installed, "prune")
        assert switching.wait(timeout=60) == 0
    assert f"Waiting for pid {switching.pid} (switch colours)" in pruned.stderr
    assert "torch-2.9.9" not in pruned.stdout


def test_what_a_station_serves_is_neither_removed_nor_pruned(installed: Premises) -> None:
    """The station is named, and goes on answering."""
    with serving(installed) as station:
        station.post("/v1/caption", {})
        assert run_json(installed, "remove", "colours")["error"]["code"] == "station-running"
        run_json(installed, "prune")
        assert station.post("/v1/caption", {})["caption"] == "a small caption"
