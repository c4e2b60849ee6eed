"""A manifest that changes under a running station."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.commands import Served, run, run_json, started, switch
from support.stations import Premises, activate, open_premises


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    """A home whose active model is `colours`."""
    with open_premises(tmp_path) as premises:
        premises.add_model("colours")
        activate(premises, "colours")
        yield premises


@contextmanager
def _serving(premises: Premises) -> Iterator[tuple[Served, Path]]:
    """A station that serves, and the file that its log goes to."""
    path = premises.folder / "log"
    with path.open("w") as log, started(premises, "serve", "--port", "0", log=log) as process:
        assert process.stdout is not None
        yield Served(process, process.stdout.readline().split()[-1]), path


def _logged(log: Path, event: str) -> dict[str, Any]:
    line: dict[str, Any]
    (line,) = [entry for entry in map(json.loads, log.read_text().splitlines()) if entry["event"] == event]
    return line


def test_a_model_that_was_added_is_there_and_can_be_switched_to(premises: Premises) -> None:
    """The log names the file and the model; what is served meanwhile goes on being served."""
    with _serving(premises) as (station, log):
        assert station.post("/v1/caption", {})["caption"] == "a small caption"
        premises.add_model("shapes")
        assert [model["id"] for model in run_json(premises, "models")["models"]] == ["colours", "shapes"]
        assert switch(premises, "shapes")[-1]["event"] == "ActivationSucceeded"
        changed = _logged(log, "manifest_changed")
        assert changed["file"] == str(premises.folder / "manifest.json")
        assert (changed["added"], changed["removed"], changed["changed"]) == (["shapes"], [], [])


def test_a_switch_alone_sees_it_too(premises: Premises) -> None:
    """Nobody has to list the models first."""
    with _serving(premises):
        premises.add_model("shapes")
        assert switch(premises, "shapes")[-1]["event"] == "ActivationSucceeded"


def test_a_broken_one_is_reported_and_the_one_before_is_kept(premises: Premises) -> None:
    """A switch to what only the broken file may name says why; once it is mended, it is used."""
    manifest = premises.folder / "manifest.json"
    with _serving(premises) as (_, log):
        premises.add_model("shapes")
        whole = manifest.read_text()
        manifest.write_text(whole[:-20])
        assert [model["id"] for model in run_json(premises, "models")["models"]] == ["colours"]
        refused = run(premises, "switch", "shapes")
        assert refused.returncode == 1
        assert "no model 'shapes'" in refused.stderr
        assert f"can't be used now: {manifest} is not a valid manifest" in refused.stderr
        assert str(manifest) in _logged(log, "changed_manifest_not_used")["reason"]
        manifest.write_text(whole)
        assert switch(premises, "shapes")[-1]["event"] == "ActivationSucceeded"


def test_a_model_that_was_removed_is_served_until_another_one_is(premises: Premises) -> None:
    """Its functions stay those of the code that runs."""
    manifest = premises.folder / "manifest.json"
    with _serving(premises) as (station, _):
        assert station.post("/v1/caption", {})["caption"] == "a small caption"
        manifest.write_text(json.dumps({"version": "2", "models": {}, "backends": {}}))
        assert run_json(premises, "models")["models"] == []
        assert station.post("/v1/caption", {})["caption"] == "a small caption"
