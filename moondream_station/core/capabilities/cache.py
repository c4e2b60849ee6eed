"""Keeps the last snapshot, in memory and in the home, for as long as the machine is unchanged."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import anyio.lowlevel
import anyio.to_thread

from moondream_station.core.facts.capabilities import Capabilities, Gpu, Outcome, ProbeReport
from moondream_station.core.facts.errors import StationError
from moondream_station.core.facts.version import VERSION
from moondream_station.core.home.layout import Home
from moondream_station.core.home.log import Log
from moondream_station.core.home.storage import read_json, write_atomically

if TYPE_CHECKING:
    from moondream_station.core.machine.machine import LocalMachine, Machine

VALID_SECONDS: Final = 300.0
"""A GPU can be plugged in, or fall off its bus, without changing the fingerprint."""

_STATE_SECONDS: Final = 1.0  # the fingerprint takes less than a thousandth of that
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_FORMAT: Final = "moondream-station/capabilities/1"
_UNKNOWN: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT})

_log = Log()


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """A snapshot, whether it came from the cache, and how long it took."""

    capabilities: Capabilities
    from_cache: bool
    seconds: float


class _Kept(NamedTuple):
    capabilities: Capabilities
    fingerprint: str
    at: float


class CapabilityCache:
    """Keeps what this computer answered, and never a snapshot with a failed or timed-out probe."""

    def __init__(self, home: Home, machine: Machine, *, clock: Callable[[], float] = time.time) -> None:
        self._home = home
        self._machine = machine
        self._clock = clock
        self._kept: _Kept | None = None
        self._asking = anyio.Lock()

    async def get(self, *, on_probe: Callable[[ProbeReport], None], refresh: bool = False) -> Detected:
        """Give the capabilities; `on_probe` gets each report, unless they come from the cache."""
        from moondream_station.core.capabilities.detect import detect  # noqa: PLC0415  unlike `read_cached`

        began = time.perf_counter()
        async with self._asking:
            state = await self._state()
            kept = None
            if state is not None and not refresh:
                kept = self._valid(self._kept, state)
                stored = kept or await anyio.to_thread.run_sync(_load, self._home, abandon_on_cancel=True)
                kept = kept or self._valid(stored, state)
            if kept is None:
                capabilities = await detect(self._machine, on_probe=on_probe)
                self._kept = await self._keep(capabilities, state) if state is not None else None
            else:
                self._kept, capabilities = kept, kept.capabilities
        seconds = time.perf_counter() - began
        return Detected(capabilities=capabilities, from_cache=kept is not None, seconds=seconds)

    async def _state(self) -> str | None:
        """The machine's fingerprint, None where it is not this computer or does not answer in time."""
        from moondream_station.core.machine.machine import LocalMachine  # noqa: PLC0415  unlike `read_cached`

        await anyio.lowlevel.checkpoint()
        if isinstance(self._machine, LocalMachine):
            # A broken driver can block a read of its files for ever.
            with anyio.move_on_after(_STATE_SECONDS):
                return await anyio.to_thread.run_sync(fingerprint, self._machine, abandon_on_cancel=True)
        return None

    def _valid(self, kept: _Kept | None, state: str) -> _Kept | None:
        # One from the future was stored by a clock that has been set back since: its age is unknown.
        is_valid = kept and kept.fingerprint == state and 0.0 <= self._clock() - kept.at < VALID_SECONDS
        return kept if is_valid else None

    async def _keep(self, capabilities: Capabilities, state: str) -> _Kept | None:
        if any(report.outcome in _UNKNOWN for report in capabilities.probes):
            await anyio.to_thread.run_sync(_forget, self._home)
            return None
        kept = _Kept(capabilities=capabilities, fingerprint=state, at=self._clock())
        await anyio.to_thread.run_sync(_store, self._home, kept)
        return kept


def read_cached(home: Home) -> Capabilities | None:
    """The snapshot in the home, however old: to be shown, not to decide by."""
    kept = _load(home)
    return kept.capabilities if kept is not None else None


def _load(home: Home) -> _Kept | None:
    try:
        data: Any = read_json(home.capabilities)
        if data is None:
            return None
        if data["format"] != _FORMAT or data["digest"] != _digest(data["capabilities"]):
            raise ValueError("another format, or damaged")  # noqa: TRY301  logged below as any damage is
        capabilities = _from_json(data["capabilities"])
        return _Kept(capabilities, str(data["fingerprint"]), float(data["stored_at"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        _log.debug("cached_capabilities_ignored", path=str(home.capabilities), reason=str(error))
        return None


def _store(home: Home, kept: _Kept) -> None:
    """Keep it; where the home can't be written, only the next start takes longer."""
    capabilities = asdict(kept.capabilities)
    data = {
        "format": _FORMAT,
        "fingerprint": kept.fingerprint,
        "stored_at": kept.at,
        "digest": _digest(capabilities),
        "capabilities": capabilities,
    }
    try:
        write_atomically(home.capabilities, json.dumps(data, indent=1))
    except (OSError, StationError) as error:
        _log.debug("capabilities_not_kept", path=str(home.capabilities), reason=str(error))


def _forget(home: Home) -> None:
    try:
        home.capabilities.unlink(missing_ok=True)
    except OSError as error:
        _log.debug("cached_capabilities_not_removed", path=str(home.capabilities), reason=str(error))


def _digest(capabilities: Any) -> str:
    """Guards the types too: what has this digest was written by this module, field by field."""
    return hashlib.sha256(json.dumps(capabilities, sort_keys=True).encode()).hexdigest()


def _from_json(data: dict[str, Any]) -> Capabilities:
    plain = dict(data)
    plain["libc"] = tuple(data["libc"])
    plain["gpus"] = tuple(Gpu(**gpu) for gpu in data["gpus"])
    plain["probes"] = tuple(
        ProbeReport(**{**report, "outcome": Outcome(report["outcome"])}) for report in data["probes"]
    )
    plain["notes"] = tuple(data["notes"])
    return Capabilities(**plain)


def fingerprint(machine: LocalMachine) -> str:
    """What a snapshot depends on, from a handful of small files; unchanged, so is what probes would find."""
    from moondream_station.core.capabilities.detect import PROBES  # noqa: PLC0415  unlike `read_cached`
    from moondream_station.core.capabilities.probes import nvidia  # noqa: PLC0415

    probes = (probe for probe in PROBES if probe.system in {None, machine.facts.system})
    programs = sorted({program for probe in probes for program in probe.programs})
    state = [
        VERSION,
        _text_of(_BOOT_ID) or f"{_boot_time():.0f}",
        [_text_of(path) for path in (Path(nvidia.PROC), Path(nvidia.SYS))],
        astuple(machine.facts),
        sorted(machine.variables.items()),
        [_stamp_of(program, machine) for program in programs],
    ]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _boot_time() -> float:
    import psutil  # noqa: PLC0415  where no file says it

    return psutil.boot_time()


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None


def _stamp_of(program: str, machine: LocalMachine) -> tuple[str, int] | None:
    path = machine.resolve(program)
    try:
        return (str(path), path.stat().st_mtime_ns) if path is not None else None
    except OSError:
        return None
