"""`rollback` as a user runs it: alone, beside a station that serves, and where it leads nowhere."""

from __future__ import annotations

import pytest

from moondream_station.core.home.active_file import read_active
from support.commands import run, run_json, serving
from support.stations import Premises, activate

_WHERE = """
import sys

def init_backend(**args):
    pass

def caption(**kwargs):
    return {"caption": sys.prefix}
"""


@pytest.fixture
def renewed(premises: Premises) -> Premises:
    """A home whose active model `colours` has an environment, and had another one."""
    premises.add_model("colours", source=_WHERE)
    activate(premises, "colours")
    activate(premises, "colours", upgrade=True)
    return premises


def names(premises: Premises, model: str = "colours") -> tuple[str, str | None]:
    """The environment that a model has, and the one it had before."""
    record = read_active(premises.home).models[model]
    return record.environment, record.previous


@pytest.mark.own_process
def test_the_former_environment_is_taken_again(renewed: Premises) -> None:
    """It answers with the two names, fetches nothing, and a second time returns."""
    new, old = names(renewed)
    renewed.index.clear_requests()
    done = run_json(renewed, "rollback", "colours")
    assert done.pop("torch").endswith("+cpu")
    assert done == {"model": "colours", "environment": old, "previous": new, "build": "cpu"}
    assert names(renewed) == (old, new)
    assert run_json(renewed, "status")["active"]["environment"] == old
    again = run(renewed, "rollback", "colours")
    assert again.returncode == 0
    assert again.stdout.startswith(f"colours is back in the environment {new} (cpu build, torch ")
    assert len(again.stdout.splitlines()) == 1
    assert "Verified: torch" in again.stderr
    assert names(renewed) == (new, old)
    assert renewed.index.requests == ()


def test_the_next_switch_stays_with_it(renewed: Premises) -> None:
    """What was gone back to is the model's environment, though a newer one was made for the same."""
    _, old = names(renewed)
    run_json(renewed, "rollback", "colours")
    assert activate(renewed, "colours").environment == old


def test_a_station_that_serves_goes_on_from_it(renewed: Premises) -> None:
    """Its worker is replaced by one of the former environment; the address stays, and so do its requests."""
    new, old = names(renewed)
    with serving(renewed) as station:
        assert str(new) in station.post("/v1/caption", {})["caption"]
        done = run(renewed, "rollback", "colours")
        assert done.returncode == 0, done.stderr
        assert str(old) in station.post("/v1/caption", {})["caption"]
        assert station.get("/v1/station")["active"]["environment"] == old
        run_json(renewed, "prune")
        assert run_json(renewed, "rollback", "colours")["environment"] == new
        assert str(new) in station.post("/v1/caption", {})["caption"]


def test_a_model_that_is_not_active_stays_so(renewed: Premises) -> None:
    """Its environments are exchanged once torch has computed, also where a station serves another model."""
    new, old = names(renewed)
    renewed.add_model("shapes")
    activate(renewed, "shapes")
    with serving(renewed) as station:
        assert run_json(renewed, "rollback", "colours")["environment"] == old
        assert station.get("/v1/station")["active"]["model"] == "shapes"
        assert station.post("/v1/caption", {})["caption"] == "a small caption"
    assert read_active(renewed.home).model == "shapes"
    assert names(renewed) == (old, new)
    assert activate(renewed, "colours").environment == old


def damaged(premises: Premises, environment: str) -> None:
    """Take a file of torch's away."""
    (path,) = (premises.home.environments / environment).glob("venv/lib/python*/site-packages/torch/cuda.py")
    path.unlink()


@pytest.mark.parametrize("active", ["colours", "shapes"])
def test_what_is_not_whole_is_not_gone_back_to(renewed: Premises, active: str) -> None:
    """Exit code 1 and why; the model keeps what it has, and works."""
    new, old = names(renewed)
    if active != "colours":
        renewed.add_model(active)
        activate(renewed, active)
    damaged(renewed, str(old))
    assert run(renewed, "rollback", "colours").returncode == 1
    error = run_json(renewed, "rollback", "colours")["error"]
    assert error["code"] == "environment-broken"
    assert "`moondream-station switch colours --upgrade`" in error["hint"]
    assert names(renewed) == (new, old)
    assert activate(renewed, "colours").environment == new


def test_where_torch_no_longer_computes_everything_stays(renewed: Premises) -> None:
    """The station is told why, and goes on serving from what it has."""
    new, old = names(renewed)
    place = renewed.home.environments / str(old)
    (behaviour,) = place.glob("venv/lib/python*/site-packages/torch/behaviour.json")
    size = behaviour.stat().st_size
    behaviour.unlink()
    behaviour.write_text("{}".ljust(size))
    with serving(renewed) as station:
        assert run_json(renewed, "rollback", "colours")["error"]["code"] == "verification-failed"
        assert str(new) in station.post("/v1/caption", {})["caption"]
    assert names(renewed) == (new, old)


def test_with_nothing_to_act_on_it_fails(installed: Premises) -> None:
    """Exit code 1, one line that says why, with and without a station; nothing is begun."""
    journals = set(installed.home.activations.iterdir())

    def check(model: str, code: str) -> None:
        assert run(installed, "rollback", model).returncode == 1
        assert run_json(installed, "rollback", model)["error"]["code"] == code

    check("colours", "nothing-to-roll-back")
    check("nope", "unknown-model")
    with serving(installed):
        check("colours", "nothing-to-roll-back")
        check("nope", "unknown-model")
    assert set(installed.home.activations.iterdir()) == journals
