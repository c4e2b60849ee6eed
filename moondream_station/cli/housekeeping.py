"""`prune` and `remove`: free what a home no longer needs."""

from __future__ import annotations

import os

import anyio.to_thread

from moondream_station.console.output import print_progress, print_text
from moondream_station.console.signals import run_loop
from moondream_station.core.activation.prune import prune
from moondream_station.core.facts.errors import NoActiveModel, StationRunning
from moondream_station.core.home.active_file import ActiveRecord, read_active, write_active
from moondream_station.core.home.layout import Home, home_from
from moondream_station.core.home.locks import Holder, activation_lock, read_station
from moondream_station.panel.quantities import size_text


def report_wait(holder: Holder | None) -> None:
    """Print which process is waited for."""
    who = (
        f"pid {holder.pid} ({holder.command}), running since {holder.since}" if holder else "another process"
    )
    print_progress(f"Waiting for {who}")


def run_prune(*, dry_run: bool, as_json: bool) -> int:
    """Remove what nothing refers to, or list it; returns the exit code."""
    home = home_from(os.environ)

    async def work() -> list[dict[str, object]]:
        home.create()
        entries = await prune(home, dry_run=dry_run, on_wait=report_wait)
        return [
            {
                "path": str(entry.path.relative_to(home.root)),
                "kind": entry.kind,
                "size_bytes": entry.size_bytes,
            }
            for entry in entries
        ]

    removed = run_loop(work) if home.root.exists() else []
    total = sum(int(str(entry["size_bytes"])) for entry in removed)
    verb = "Would free" if dry_run else "Freed"
    lines = [f"{entry['kind']:<12} {entry['path']}" for entry in removed]
    text = "\n".join([*lines, f"{verb} {size_text(total)}."])
    print_text(text, {"removed": removed, "size_bytes": total, "dry_run": dry_run}, as_json=as_json)
    return 0


def run_remove(model: str, *, as_json: bool) -> int:
    """Forget a model's environments; `prune` frees their space. Returns the exit code.

    Raises:
        NoActiveModel: The model has no environment.
        StationRunning: A station serves the model now.
    """
    home = home_from(os.environ)
    _record_with(home, model)  # before the home is created or its lock waited for
    home.create()
    run_loop(_forget, home, model)
    text = f"Removed {model}; run `moondream-station prune` to free its disk space."
    print_text(text, {"model": model}, as_json=as_json)
    return 0


async def _forget(home: Home, model: str) -> None:
    def forget() -> None:
        record = _record_with(home, model)
        station = read_station(home)
        if station is not None and record.model == model:
            raise StationRunning(
                f"The station at {station.address} (pid {station.pid}) serves {model}.",
                hint="Switch to another model first, or stop that station.",
            )
        write_active(home, record.without(model))

    async with activation_lock(home, activation="remove", command=f"remove {model}", on_wait=report_wait):
        await anyio.to_thread.run_sync(forget)


def _record_with(home: Home, model: str) -> ActiveRecord:
    record = read_active(home)
    if model not in record.models:
        raise NoActiveModel(
            f"{model} has no environment.", hint="`moondream-station models` shows what is installed."
        )
    return record
