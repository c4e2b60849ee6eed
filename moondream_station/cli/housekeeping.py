"""`cancel`, `stop`, `rollback`, `remove` and `prune`: back from what a home does, has and keeps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import anyio.to_thread

from moondream_station.cli.activate import activate_here, activate_there, report_wait
from moondream_station.cli.logs import check_known
from moondream_station.console.interrupts import CANCELLED, DONE, run_loop
from moondream_station.console.logging import begin
from moondream_station.console.output import print_error, print_progress, print_text
from moondream_station.console.presenting import PlainPresenter, Presenter
from moondream_station.core.activation.activation import ask_to_cancel, withdraw
from moondream_station.core.activation.housekeeping import (
    Pruning,
    Unreferenced,
    exchange,
    forget,
    installed_record,
    previous_environment,
    prune,
)
from moondream_station.core.bus.journal import read_activation
from moondream_station.core.environments.store import load_commit, place_of
from moondream_station.core.facts import events
from moondream_station.core.facts.errors import NothingToCancel, StationError, StationUnreachable
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home, home_from
from moondream_station.core.home.locks import Holder, activation_holder, read_station
from moondream_station.core.home.settings import Settings
from moondream_station.core.home.task_groups import accompanied
from moondream_station.panel.words import size_text, some_text

_REPORT_SECONDS = 2.0
_POLL_SECONDS = 0.25
_PATIENCE_SECONDS = 10.0


def run_cancel(*, as_json: bool) -> int:
    """Cancel what runs; returns the exit code."""
    home = home_from(os.environ)
    activation = run_loop(_cancel, home)
    print_text(f"Cancelled {activation}.", {"activation": activation}, as_json=as_json)
    return 0


def run_stop(*, as_json: bool) -> int:
    """End the worker of the station that serves; returns the exit code."""
    home = home_from(os.environ)
    outcome = run_loop(_stop, home)
    text = f"The worker of {outcome['model']} was stopped; the next request starts it again."
    if not outcome["stopped"]:
        text = f"No worker of {outcome['model']} runs; the next request starts one."
    print_text(text, outcome, as_json=as_json)
    return 0


async def _stop(home: Home) -> Mapping[str, Any]:
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    record = await anyio.to_thread.run_sync(read_station, home)
    if record is None:
        raise StationUnreachable(
            "No station serves, so no worker runs.", hint="`moondream-station serve` starts one."
        )
    async with StationClient(record.address, token=record.token) as client:
        return await client.stop()


async def _cancel(home: Home) -> str:
    """Request the end of what runs, and wait until it was cancelled; returns its id."""
    activation, holder = await _request_cancel(home)
    with anyio.move_on_after(_PATIENCE_SECONDS):
        last = await _outcome(home, activation, holder)
        if last is None or isinstance(last, events.ActivationCancelled):
            return activation
        await anyio.to_thread.run_sync(withdraw, home, activation)
        how = "succeeded" if isinstance(last, events.ActivationSucceeded) else "failed"
        raise NothingToCancel(
            f"The activation {activation} {how} before it could be cancelled.",
            hint="`moondream-station status` shows what is active.",
        )
    raise StationError(
        f"The activation {activation} did not end within {_PATIENCE_SECONDS:g} s after it was cancelled.",
        hint="`moondream-station status` names the process that runs it; you can end that process.",
    )


async def _request_cancel(home: Home) -> tuple[str, Holder | None]:
    """Request the end of what runs; returns its id, and its process unless the serving station runs it."""
    record = await anyio.to_thread.run_sync(read_station, home)
    if record is not None:
        from moondream_station.http.client import StationClient  # noqa: PLC0415

        try:
            async with StationClient(record.address, token=record.token) as client:
                return await client.cancel(), None
        except NothingToCancel as error:
            nothing = error
        if await anyio.to_thread.run_sync(activation_holder, home) is None:
            raise nothing
    holder = await anyio.to_thread.run_sync(_activating, home)
    await anyio.to_thread.run_sync(ask_to_cancel, home, holder.activation)
    return holder.activation, holder


def _activating(home: Home) -> Holder:
    """Who holds the home's lock for an activation; others (`prune`, say) write no journal."""
    holder = activation_holder(home)
    if holder is not None and read_activation(home, holder.activation):
        return holder
    holds = f"; pid {holder.pid} ({holder.command}) uses the home" if holder else ""
    raise NothingToCancel(
        f"No activation is running{holds}.", hint="`moondream-station status` shows what is active."
    )


async def _outcome(home: Home, activation: str, holder: Holder | None) -> events.Fact | None:
    """The terminal fact of an activation once there is one; None where its process died without it."""
    while True:
        # In this order: a process may publish its terminal fact and end between the two looks.
        has_ended = holder is not None and await anyio.to_thread.run_sync(activation_holder, home) != holder
        known = await anyio.to_thread.run_sync(read_activation, home, activation)
        if known and known[-1].is_terminal:
            return known[-1].fact
        if has_ended:
            return None
        await anyio.sleep(_POLL_SECONDS)


def run_rollback(model: str, *, as_json: bool) -> int:
    """Go back to the environment that a model had before; returns the exit code."""
    home, settings = begin()
    presenter = _Failure() if as_json else _Lines()
    code = run_loop(_roll_back, home, settings, model, presenter)
    if code == DONE:
        _print_result(home, model, as_json=as_json)
    return code


class _Lines(PlainPresenter):
    """The activation's lines; its success is printed later, as the command's result."""

    async def show(self, event: events.Event) -> None:
        """Print the fact's lines."""
        if isinstance(event.fact, events.ActivationFailed):
            print_error(event.fact.error, as_json=False)
        elif isinstance(event.fact, events.BackendActivationRequested):
            print_progress(f"Rolling {event.fact.model} back to its previous environment")
        elif not isinstance(event.fact, events.ActivationSucceeded):
            await super().show(event)


class _Failure(Presenter):
    """A failure as JSON, and nothing else."""

    async def show(self, event: events.Event) -> None:
        """Print a failure."""
        if isinstance(event.fact, events.ActivationFailed):
            print_error(event.fact.error, as_json=True)


async def _roll_back(home: Home, settings: Settings, model: str, presenter: Presenter) -> int:
    """Roll back the active model by an activation, any other one by exchanging the environments' names."""
    from moondream_station.core.backends.manifest_loader import open_manifest  # noqa: PLC0415  what `prune` does without

    manifest = await open_manifest(home, settings, os.environ)
    manifest.model(model)
    await anyio.to_thread.run_sync(previous_environment, home, model)
    active = await anyio.to_thread.run_sync(read_active, home)
    if active.model != model and await exchange(
        home, manifest, model, environ=os.environ, on_wait=report_wait
    ):
        return DONE  # else it has become the active one meanwhile
    record = await anyio.to_thread.run_sync(read_station, home)
    if record is None:
        return await activate_here(home, settings, lambda station: station.request_rollback(model), presenter)
    return await activate_there(home, record, model, lambda client: client.rollback(model), presenter)


def _print_result(home: Home, model: str, *, as_json: bool) -> None:
    stored = read_active(home).models[model]
    commit = load_commit(place_of(home, stored.environment))
    build, torch = (commit.build, commit.torch) if commit else (None, None)
    with_torch = f" ({build} build, torch {torch})" if build else ""
    text = (
        f"{model} is back in the environment {stored.environment}{with_torch};"
        f" `moondream-station rollback {model}` returns to {stored.previous}."
    )
    data = {
        "model": model,
        "environment": stored.environment,
        "previous": stored.previous,
        "build": build,
        "torch": torch,
    }
    print_text(text, data, as_json=as_json)


def run_prune(*, dry_run: bool, as_json: bool) -> int:
    """Remove what nothing refers to, or list it; returns the exit code. Cancelled, it lists what is gone."""
    home, pruning, code = home_from(os.environ), Pruning(), DONE
    if home.root.exists():
        home.create()
        try:
            run_loop(_prune, home, pruning, dry_run)
        except KeyboardInterrupt:
            code = CANCELLED
    entries = pruning.found if dry_run else pruning.removed
    total = _total(entries)
    removed = [
        {"path": str(entry.path.relative_to(home.root)), "size_bytes": entry.size_bytes, "kind": entry.kind}
        for entry in entries
    ]
    lines = [f"{entry['kind']:<12} {entry['path']}" for entry in removed]
    verb = "Cancelled; freed" if code == CANCELLED else "Would free" if dry_run else "Freed"
    text = "\n".join([*lines, f"{verb} {size_text(total)}."])
    print_text(text, {"removed": removed, "size_bytes": total, "dry_run": dry_run}, as_json=as_json)
    return code


async def _prune(home: Home, pruning: Pruning, dry_run: bool) -> None:  # noqa: FBT001  called through `run_loop`
    async def report() -> None:
        while True:
            await anyio.sleep(_REPORT_SECONDS)
            if pruning.removed:
                print_progress(f"Removed {_amount(pruning.removed)}")

    def report_found(found: Sequence[Unreferenced]) -> None:
        print_progress(f"Removing {_amount(found)}")

    work = partial(prune, home, pruning=pruning, dry_run=dry_run, on_wait=report_wait, on_found=report_found)
    await accompanied(work, report)


def _amount(entries: Sequence[Unreferenced]) -> str:
    return f"{some_text(len(entries), 'items')}, {size_text(_total(entries))}"


def _total(entries: Sequence[Unreferenced]) -> int:
    return sum(entry.size_bytes for entry in entries)


def run_remove(model: str, *, as_json: bool) -> int:
    """Forget a model's environments; `prune` frees their space. Returns the exit code."""
    home = home_from(os.environ)
    if model not in read_active(home).models:
        run_loop(check_known, home, model)
    installed_record(home, model)  # before the home is created or its lock waited for
    home.create()
    run_loop(partial(forget, on_wait=report_wait), home, model)
    text = f"Removed {model}; run `moondream-station prune` to free its disk space."
    print_text(text, {"model": model}, as_json=as_json)
    return 0
