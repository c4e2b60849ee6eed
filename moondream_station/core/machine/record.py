"""A machine as a file: what every probe asked and got."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from moondream_station.core.facts.errors import UsageError
from moondream_station.core.machine.protocol import CommandResult, PlatformFacts

FORMAT: Final = "moondream-station/machine/1"
LIMIT_BYTES: Final = 32 << 20
"""A record is read whole; this is more than all capped answers together."""

_KILLED: Final = -9
_PYTHON = re.compile(r"\d+\.\d+(\.\d+)?\S*", re.ASCII)
_HINT: Final = "`moondream-station doctor --record FILE` writes such a file."


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord:
    """What every probe asked of a machine, and got.

    Args:
        platform: What Python knew of it.
        env: The recorded environment variables that were set.
        commands: Answers of programs; a program that none names is not installed.
        files: Text of every file that was read; a path in neither this nor `directories` does not exist.
        directories: Names in every folder that was listed.
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
    """Read a machine record from a file.

    Args:
        path: The file.

    Raises:
        UsageError: There is no such file, or it is no machine record; the message says what is wrong in it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UsageError(f"{path} can't be read: {reason}.", hint=_HINT) from error
    try:
        if len(content) > LIMIT_BYTES:
            _wrong(f"it is longer than {LIMIT_BYTES >> 20} MiB")
        return record_from_json(json.loads(content.decode("utf-8-sig"), parse_constant=_wrong_number))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, _NoRecord) else "it is no JSON"
        raise UsageError(f"{path} is no machine record: {reason}.", hint=_HINT) from error


def record_from_json(data: Any) -> MachineRecord:
    """Make a record from its JSON form; keys that are not known are ignored, so that newer records are read.

    Raises:
        ValueError: It is no machine record; the text says why.
    """
    record = _object(data, "the record")
    if record.get("format") != FORMAT:
        _wrong(f'"format" is not "{FORMAT}"')
    commands = _array(_given(record, "commands", []), "commands")
    directories = _known(record, "directories")
    return MachineRecord(
        platform=_platform(_object(record.get("platform"), "platform")),
        env=_texts(_known(record, "env"), "env"),
        commands=tuple(_command(entry, f"commands[{n}]") for n, entry in enumerate(commands)),
        files=_texts(_known(record, "files"), "files"),
        directories={path: _names(names, f"directories[{path!r}]") for path, names in directories.items()},
        unreadable=_texts(_given(record, "unreadable", {}), "unreadable"),
    )


class _NoRecord(ValueError):
    """What is wrong with a record, in words for its user."""


def _wrong(reason: str) -> NoReturn:
    raise _NoRecord(reason)


def _wrong_number(name: str) -> NoReturn:
    _wrong(f"{name} is no number")


def _given(data: Mapping[str, Any], key: str, otherwise: Any) -> Any:
    """A value; another one where it is missing, or null, as what is unknown is written."""
    value = data.get(key)
    return otherwise if value is None else value


def _known(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The entries of an object; one that is null is as one that is missing: not set, or not there."""
    entries = _object(_given(data, key, {}), key)
    return {name: value for name, value in entries.items() if value is not None}


def _platform(data: Mapping[str, Any]) -> PlatformFacts:
    python = _text(data.get("python"), "platform.python")
    if _PYTHON.fullmatch(python) is None:
        _wrong('"platform.python" is no version')
    libc = _names(_given(data, "libc", []), "platform.libc") or ("", "")
    if len(libc) != 2:  # noqa: PLR2004  a name and a version
        _wrong('"platform.libc" is not a name and a version')
    in_rosetta = data.get("in_rosetta")
    if not (in_rosetta is None or isinstance(in_rosetta, bool)):
        _wrong('"platform.in_rosetta" is not true, false or null')
    return PlatformFacts(
        system=_text(data.get("system"), "platform.system"),
        release=_text(_given(data, "release", ""), "platform.release"),
        version=_text(_given(data, "version", ""), "platform.version"),
        machine=_text(data.get("machine"), "platform.machine"),
        mac_ver=_text(_given(data, "mac_ver", ""), "platform.mac_ver"),
        libc=(libc[0], libc[1]),
        python=python,
        in_rosetta=in_rosetta,
    )


def _command(data: Any, where: str) -> CommandResult:
    entry = _object(data, where)
    argv = _names(entry.get("argv"), f"{where}.argv")
    if not argv:
        _wrong(f'"{where}.argv" is empty')
    timed_out = _given(entry, "timed_out", False)
    if not isinstance(timed_out, bool):
        _wrong(f'"{where}.timed_out" is not true or false')
    # What was killed over its deadline has no exit status of its own.
    returncode = _given(entry, "returncode", _KILLED) if timed_out else entry.get("returncode")
    if not isinstance(returncode, int) or isinstance(returncode, bool):
        _wrong(f'"{where}.returncode" is no whole number')
    return CommandResult(
        argv=argv,
        returncode=returncode,
        stdout=_text(_given(entry, "stdout", ""), f"{where}.stdout"),
        stderr=_text(_given(entry, "stderr", ""), f"{where}.stderr"),
        seconds=_seconds(_given(entry, "seconds", 0.0), f"{where}.seconds"),
        timed_out=timed_out,
    )


def _seconds(data: Any, where: str) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float):
        _wrong(f'"{where}" is no number')
    try:
        seconds = float(data)
    except OverflowError:
        seconds = math.inf
    if not 0.0 <= seconds < math.inf:
        _wrong(f'"{where}" is no time')
    return seconds


def _object(data: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        _wrong(f'"{where}" is no object' if where != "the record" else "it is no object")
    return data


def _array(data: Any, where: str) -> list[Any]:
    if not isinstance(data, list):
        _wrong(f'"{where}" is no array')
    return data


def _text(data: Any, where: str) -> str:
    if not isinstance(data, str):
        _wrong(f'"{where}" is no text')
    return data


def _names(data: Any, where: str) -> tuple[str, ...]:
    return tuple(_text(name, f"{where}[{n}]") for n, name in enumerate(_array(data, where)))


def _texts(data: Any, where: str) -> dict[str, str]:
    return {key: _text(text, f"{where}[{key!r}]") for key, text in _object(data, where).items()}
