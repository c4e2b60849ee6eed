"""A machine as a file: what every probe asked, and the answers. It is kept by one, and given by another."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import anyio.lowlevel

from moondream_station.core.facts.errors import UsageError
from moondream_station.core.machine.protocol import CommandResult, Machine, PlatformFacts, Unreadable

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

T = TypeVar("T")

FORMAT: Final = "moondream-station/machine/1"
LIMIT_BYTES: Final = 32 << 20
"""A record is read whole; this is more than all capped answers together."""

_KILLED: Final = -9
_PYTHON = re.compile(r"\d+\.\d+(\.\d+)?\S*", re.ASCII)
_PYTHON_ASKED = re.compile(r"\d+\.\d+(\.\d+((a|b|rc)\d+)?)?t?", re.ASCII)
_HINT: Final = "`moondream-station doctor --record FILE` writes such a file."


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord:
    """What every probe asked of a machine, and the answers.

    A program without an answer is not installed; a path that is neither file nor directory nor unreadable,
    with the reason, does not exist.
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


class RecordedMachine:
    """Answers from a record, at once, also what timed out when it was recorded."""

    is_local: Final = False

    def __init__(self, record: MachineRecord) -> None:
        self._record = record
        self._answers = {result.argv: result for result in reversed(record.commands)}
        self._programs = frozenset(result.argv[0] for result in record.commands)
        self.facts = record.platform
        self.variables = record.env

    async def run(self, *argv: str) -> CommandResult | None:
        """Give the recorded answer; other arguments of a known program exit 1 with an empty one."""
        await anyio.lowlevel.checkpoint()
        if argv[0] not in self._programs:
            return None
        return self._answers.get(argv) or CommandResult(argv=argv, returncode=1)

    async def read(self, path: str) -> str | None:
        """Give the recorded text."""
        await anyio.lowlevel.checkpoint()
        self._refuse_unreadable(path)
        return self._record.files.get(path)

    async def list(self, path: str) -> tuple[str, ...] | None:
        """Give the recorded names."""
        await anyio.lowlevel.checkpoint()
        self._refuse_unreadable(path)
        return self._record.directories.get(path)

    def _refuse_unreadable(self, path: str) -> None:
        reason = self._record.unreadable.get(path)
        if reason is not None:
            raise Unreadable(path, reason)


class Recorder:
    """Stands in front of a machine and keeps every question with its answer.

    A question that is cancelled is kept as one that timed out, so that a record shows which program hangs.
    """

    def __init__(self, machine: Machine, *, facts: PlatformFacts | None = None) -> None:
        self._machine = machine
        self.facts = facts or machine.facts
        self.variables = machine.variables
        self.is_local = machine.is_local
        self._commands: dict[tuple[str, ...], CommandResult] = {}
        self._files: dict[str, str] = {}
        self._directories: dict[str, tuple[str, ...]] = {}
        self._unreadable: dict[str, str] = {}

    @property
    def record(self) -> MachineRecord:
        """Everything so far, as answered: what is private is still in it."""
        return MachineRecord(
            platform=self.facts,
            env=dict(self.variables),
            commands=tuple(self._commands.values()),
            files=dict(self._files),
            directories=dict(self._directories),
            unreadable=dict(self._unreadable),
        )

    async def run(self, *argv: str) -> CommandResult | None:
        """Ask the machine, and keep the answer."""
        began = time.perf_counter()
        try:
            result = await self._machine.run(*argv)
        except anyio.get_cancelled_exc_class():
            seconds = time.perf_counter() - began
            self._commands[argv] = CommandResult(
                argv=argv, returncode=_KILLED, seconds=seconds, timed_out=True
            )
            raise
        if result is not None:
            self._commands[argv] = result
        return result

    async def read(self, path: str) -> str | None:
        """Ask the machine, and keep the answer."""
        return await self._kept(path, self._machine.read, self._files)

    async def list(self, path: str) -> tuple[str, ...] | None:
        """Ask the machine, and keep the answer."""
        return await self._kept(path, self._machine.list, self._directories)

    async def _kept(
        self, path: str, ask: Callable[[str], Awaitable[T | None]], answers: dict[str, T]
    ) -> T | None:
        try:
            answer = await ask(path)
        except Unreadable as error:
            self._unreadable[path] = error.reason
            raise
        if answer is not None:
            answers[path] = answer
        return answer


def with_python(machine: Machine, python: str) -> Machine:
    """The same machine, with environments made from another Python ("3.12", "3.12.3", "3.14t").

    UsageError where that is not a version.
    """
    if _PYTHON_ASKED.fullmatch(python) is None:
        raise UsageError(f"{python!r} is not a Python version.", hint="Give it as X.Y, for example 3.12.")
    # A machine of its own, whose capabilities are never kept as this computer's.
    return Recorder(machine, facts=replace(machine.facts, python=python))
