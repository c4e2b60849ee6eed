"""`cancel` as a user runs it: what runs elsewhere, what is no activation, what ends by itself meanwhile."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.to_thread
import pytest

from moondream_station.core.activation.activation import cancel_request
from moondream_station.core.bus.bus import Bus, new_activation_id
from moondream_station.core.bus.journal import Journal
from moondream_station.core.facts.events import ActivationSucceeded, Fact, Stage, StageStarted
from moondream_station.core.facts.state import StationState
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import activation_lock
from support.commands import events_of, run, run_json, started
from support.index_traffic import Fault
from support.stations import Premises

SUCCEEDED = ActivationSucceeded(
    model="colours", backend="colours", build=None, environment="0-0", degraded=None, seconds=1.0
)


@pytest.mark.own_process
def test_cancel_ends_the_switch_of_another_process(premises: Premises) -> None:
    """`cancel` names the activation and succeeds; the other command ends with 130."""
    premises.index.faults.append(Fault(match="/whl/cpu/torch-*.whl", hang_after_bytes=100))
    with started(premises, "switch", "colours", "--json") as process:
        for event in events_of(process):
            if event["event"] == "StageStarted" and event["stage"] == "download":
                break
        assert run_json(premises, "cancel") == {"activation": event["activation"]}
        process.communicate(timeout=20)
        assert process.returncode == 130
    assert run_json(premises, "cancel")["error"]["code"] == "nothing-running"


@pytest.mark.anyio
async def test_what_is_no_activation_is_not_cancelled(premises: Premises) -> None:
    """While `prune` works on the home there is nothing that `cancel` could end, and it says so at once."""
    premises.home.create()
    lock = activation_lock(
        premises.home, activation=new_activation_id(), command="prune", on_wait=lambda _: None
    )
    async with lock:
        done = await anyio.to_thread.run_sync(run, premises, "cancel", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "nothing-running"
    assert "(prune)" in error["message"]
    assert list(premises.home.activations.iterdir()) == []


async def cancelled_while(home: Home, premises: Premises, last: Fact | None) -> tuple[int, dict[str, Any]]:
    """What `cancel` says of an activation that hears it, and then ends like this; None for its death."""
    activation, answers = new_activation_id(), []
    bus = Bus(state=StationState(), journal=Journal(home))

    async def cancel() -> None:
        answers.append(await anyio.to_thread.run_sync(run, premises, "cancel", "--json"))

    async with anyio.create_task_group() as tasks:
        lock = activation_lock(home, activation=activation, command="switch colours", on_wait=lambda _: None)
        async with lock:
            bus.publish(StageStarted(stage=Stage.COMMIT), activation=activation)
            tasks.start_soon(cancel)
            with anyio.fail_after(20):
                while not cancel_request(home, activation).exists():  # noqa: ASYNC110  another process's file
                    await anyio.sleep(0.02)
            if last is not None:
                bus.publish(last, activation=activation)
    assert cancel_request(home, activation).exists() is (last is None)
    (done,) = answers
    return done.returncode, json.loads(done.stdout)


@pytest.mark.anyio
async def test_what_succeeds_meanwhile_was_not_cancelled(premises: Premises) -> None:
    """Exit code 1: how it ended counts, and no request to end is left behind."""
    premises.home.create()
    code, answer = await cancelled_while(premises.home, premises, SUCCEEDED)
    assert (code, answer["error"]["code"]) == (1, "nothing-running")
    assert "succeeded before it could be cancelled" in answer["error"]["message"]


@pytest.mark.anyio
async def test_what_dies_meanwhile_has_ended(premises: Premises) -> None:
    """Nobody is left who could tell how; it is not waited for."""
    premises.home.create()
    code, answer = await cancelled_while(premises.home, premises, None)
    assert code == 0
    assert list(answer) == ["activation"]
