"""A machine as a file: what every probe asked, and the answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moondream_station.core.facts.errors import UsageError
from moondream_station.core.machine.protocol import CommandResult, PlatformFacts

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

FORMAT: Final = "moondream-station/machine/1"
LIMIT_BYTES: Final = 32 << 20
"""A record is read whole; this is more than all capped answers together."""

_KILLED: Final = -9
_PYTHON = re.compile(r"\d+\.\d+(\.\d+)?\S*", re.ASCII)
_HINT: Final = "`moondream-station doctor --record FILE` writes such a file."


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord:
    """What every probe asked of a machine, and the answers.

    Args:
        commands: Answers of programs; a program that none names is not installed.
        files: Text of every file that was read; a path in neither this nor `directories` does not exist.
        unreadable: Paths that exist and can't be read, with the reason.
    """

    platform: PlatformFacts
    env: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[CommandResult, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    directories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record as docs/reference describes the file."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "platform": {**asdict(self.platform), "libc": list(self.platform.libc)},
            "env": dict(self.env),
            "commands": [{**asdict(result), "argv": list(result.argv)} for result in self.commands],
            "files": dict(self.files),
            "directories": {path: list(names) for path, names in self.directories.items()},
        }
        return {**data, "unreadable": dict(self.unreadable)} if self.unreadable else data


def load_record(path: Path) -> MachineRecord:
    """Read a machine record from a file; UsageError says why it can't be read, or what is wrong in it."""
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"{path} can't be read: {reason}.", hint=_HINT) from error
    try:
        if len(content) > LIMIT_BYTES:
            raise _NotARecord(f"it is longer than {LIMIT_BYTES >> 20} MiB")
        return record_from_json(json.loads(content))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, _NotARecord) else "it is not JSON"
        raise UsageError(f"{path} is not a machine record: {reason}.", hint=_HINT) from error


def record_from_json(data: Any) -> MachineRecord:
    """Make a record from its JSON form; ValueError says why it is none.

    Keys that are not known are ignored, so that newer records are read, and null counts as missing.
    """
    from pydantic import ValidationError  # noqa: PLC0415  60 ms that nothing which reads no record should pay

    if not isinstance(data, dict):
        raise _NotARecord("it is not an object")
    if data.get("format") != FORMAT:
        raise _NotARecord(f'"format" is not "{FORMAT}"')
    # By way of text, because only there a strict reader takes a list for a tuple.
    text = json.dumps([_normalized(data)], ensure_ascii=False).encode("utf-8", "replace")
    try:
        (record,) = _reader().validate_json(text)
    except ValidationError as invalid:
        error = invalid.errors()[0]
        place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error["loc"][1:])
        raise _NotARecord(f'"{place.lstrip(".")}": {error["msg"].lower()}') from invalid
    if _PYTHON.fullmatch(record.platform.python) is None:
        raise _NotARecord('"platform.python" is not a version')
    for n, command in enumerate(record.commands):
        if not command.argv:
            raise _NotARecord(f'"commands[{n}].argv" is empty')
        if command.seconds < 0:
            raise _NotARecord(f'"commands[{n}].seconds" is negative')
    return record


class _NotARecord(ValueError):
    """What is wrong with a record, in words for its user."""


def _normalized(data: dict[str, Any]) -> dict[str, Any]:
    """The record without what is unknown; what was killed over its deadline has no exit status of its own."""
    data = {key: value if key == "unreadable" else _without_nulls(value) for key, value in data.items()}
    data = {key: value for key, value in data.items() if value is not None}
    commands, platform = data.get("commands"), data.get("platform")
    for command in commands if isinstance(commands, list) else ():
        if isinstance(command, dict) and command.get("timed_out") is True:
            command.setdefault("returncode", _KILLED)
    if isinstance(platform, dict) and platform.get("libc") == []:
        del platform["libc"]
    return data


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


@lru_cache(maxsize=1)
def _reader() -> TypeAdapter[list[MachineRecord]]:
    from pydantic import TypeAdapter  # noqa: PLC0415  as above

    # Of lists, because pydantic takes no configuration beside a dataclass itself.
    config: ConfigDict = {"strict": True, "extra": "ignore", "allow_inf_nan": False}
    return TypeAdapter(list[MachineRecord], config=config)
