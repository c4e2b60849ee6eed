"""`doctor`: checks the machine and the station, and names a remedy for each problem."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio.to_thread
from rich.console import Console
from rich.live import Live
from rich.text import Text

from moondream_station.console.interrupts import run_loop
from moondream_station.console.logging import configure_logging
from moondream_station.console.output import (
    folded,
    print_coloured,
    print_json,
    print_progress,
    terminal_width,
)
from moondream_station.core.facts.errors import HomeUnusable, SettingsInvalid, StationError, UsageError
from moondream_station.core.home.layout import Home, absolute, named_home
from moondream_station.core.home.settings import Settings, load_settings
from moondream_station.core.machine.machine import LocalMachine, Machine
from moondream_station.core.machine.record import (
    RecordedMachine,
    Recorder,
    load_record,
    local_identity,
    redact,
)
from moondream_station.doctor.examination import examine
from moondream_station.doctor.home import repair
from moondream_station.doctor.report import (
    Finding,
    Report,
    Symbols,
    cleaner,
    finding_line,
    in_colour,
    ok,
    report_text,
    report_to_json,
    symbols_for,
    warning,
)

_REPAIRS = "station.repairs"


def run_doctor(*, offline: bool, record: Path | None, machine: Path | None, fix: bool, as_json: bool) -> int:
    """Examine this computer or a machine record; returns 1 where a finding is an error."""
    if fix and machine is not None:
        raise UsageError(
            "--fix repairs this computer, and --machine examines another one.", hint="Use one of them."
        )
    if record is not None:
        _check_writable(record)
    examined = LocalMachine(os.environ) if machine is None else RecordedMachine(load_record(machine))
    home = named_home(os.environ)
    settings = _settings(home)
    configure_logging(settings.log)
    report = run_loop(partial(_doctor, home, settings, examined, offline=offline, record=record, fix=fix))
    if as_json:
        print_json(report_to_json(report))
    elif record is None:
        print_coloured(report_text(report, _symbols(), partial(folded, width=terminal_width())))
    elif not report.is_ok:
        print_progress("error: The doctor has found errors; `moondream-station doctor` shows them.")
    return 0 if report.is_ok else 1


def _settings(home: Home) -> Settings:
    """The user's settings, as far as they are valid; a finding reports those that are not."""
    for place in (home, None):
        with suppress(SettingsInvalid, HomeUnusable):
            return load_settings(place, os.environ)
    return Settings()


async def _doctor(
    home: Home, settings: Settings, machine: Machine, *, offline: bool, record: Path | None, fix: bool
) -> Report:
    repairs = await _repaired(home) if fix else None
    recorder = Recorder(machine)
    with _as_they_finish() if record is None else nullcontext() as show:
        report = await examine(
            home=home,
            settings=settings,
            environ=os.environ,
            machine=recorder,
            offline=offline,
            on_finding=show,
        )
    if record is not None:
        await anyio.to_thread.run_sync(_write, record, recorder)
    return replace(report, findings=(*report.findings, repairs)) if repairs is not None else report


async def _repaired(home: Home) -> Finding:
    """Repair what can be repaired safely, and report it; a failure hides no other finding."""
    began = time.perf_counter()
    try:
        done = await repair(home)
        finding = ok(" ".join(done) or "Nothing needed repair.")
    except StationError as error:
        finding = warning(f"The repair failed: {error.message}", error.hint)
    finding = cleaner(home, os.environ)(finding)
    return replace(finding, id=_REPAIRS, seconds=time.perf_counter() - began)


def _check_writable(path: Path) -> None:
    """Refuse a path that can't be written, before anything else is done."""
    folder = absolute(path).parent
    reasons = {
        "it is a folder": path.is_dir(),
        "its folder does not exist": not folder.is_dir(),
        "permission denied": not os.access(path if path.exists() else folder, os.W_OK),
    }
    if reason := next((reason for reason, applies in reasons.items() if applies), None):
        raise _unwritable(path, reason)


def _write(path: Path, recorder: Recorder) -> None:
    record = redact(recorder.record, local_identity(os.environ))
    text = json.dumps(record.to_json(), indent=1, ensure_ascii=False) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, (error.strerror or type(error).__name__).lower()) from error
    print_progress(f"Saved the machine record to {path}; check what it holds before you share it.")


def _unwritable(path: Path, reason: str) -> UsageError:
    return UsageError(f"Can't write {path}: {reason}.", hint="Name a file that you can write.")


def _symbols() -> Symbols:
    symbols = symbols_for(sys.stdout.encoding)
    has_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return in_colour(symbols) if has_colour and sys.platform != "win32" else symbols


@contextmanager
def _as_they_finish() -> Iterator[Callable[[Finding], None] | None]:
    """Show each finding on a terminal as its check ends; the report replaces them."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield None
        return
    symbols = symbols_for(sys.stderr.encoding)
    lines: list[str] = []
    with Live(console=console, transient=True, auto_refresh=False, vertical_overflow="ellipsis") as live:

        def show(finding: Finding) -> None:
            lines.append(finding_line(finding, symbols))
            room = max(1, console.height - 2)
            shown = Text("\n".join(lines[-room:]), no_wrap=True, overflow="ellipsis")
            live.update(shown, refresh=True)

        yield show
