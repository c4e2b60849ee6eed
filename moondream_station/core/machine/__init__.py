"""The computer, seen through one door."""

from moondream_station.core.machine.local import LocalMachine
from moondream_station.core.machine.protocol import (
    RECORDED_VARIABLES,
    CommandResult,
    Machine,
    PlatformFacts,
    Unreadable,
)
from moondream_station.core.machine.record import MachineRecord, load_record, record_from_json
from moondream_station.core.machine.recorded import RecordedMachine, with_python
from moondream_station.core.machine.recorder import Recorder
from moondream_station.core.machine.redaction import Identity, local_identity, redact

__all__ = [
    "RECORDED_VARIABLES",
    "CommandResult",
    "Identity",
    "LocalMachine",
    "Machine",
    "MachineRecord",
    "PlatformFacts",
    "RecordedMachine",
    "Recorder",
    "Unreadable",
    "load_record",
    "local_identity",
    "record_from_json",
    "redact",
    "with_python",
]
