"""A machine as a file: what every probe asked, and the answers, without what identifies anybody."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import anyio.lowlevel

from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.errors import UsageError
from moondream_station.core.machine.machine import CommandResult, Machine, PlatformFacts, Unreadable

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

_GENERIC: Final = (
    # GPU and MIG identifiers, whole or as a prefix of one, as CUDA_VISIBLE_DEVICES takes them.
    (re.compile(r"\b(MIG-GPU|GPU|MIG)-[0-9a-f][0-9a-f-]{7,}(/\d+/\d+)?", re.IGNORECASE), r"\1-00000000"),
    # On Windows a folder's name may hold spaces: up to the next backslash, else to the next space.
    (re.compile(r"(\\Users\\{1,2})[^\\\r\n\"':;,|]{1,64}(?=\\)"), r"\1USER"),
    (re.compile(r"(/home/|/Users/|\\Users\\)[^/\\\s\"':;,]+"), r"\1USER"),
    (re.compile(r"(?<=://)[^/@\s]+(?=@)"), "USER"),
    (re.compile(r"(?m)^((?:unique_id|hive_id) )[0-9]+$"), r"\g<1>0"),
    (re.compile(r"(\bserial(?: number)?\s*[:=]\s*)[^\s,]+", re.IGNORECASE), r"\1REDACTED"),
    # What follows the third backslash of a PNPDeviceID is one device's own; JSON doubles the backslashes.
    (re.compile(r"(PCI\\{1,2}VEN_[0-9A-Z&_]+)\\{1,2}[^\"\s]+", re.IGNORECASE), r"\1"),
)


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
        data = {"format": FORMAT, **to_json(self)}
        return data if self.unreadable else {key: data[key] for key in data if key != "unreadable"}


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
        return await self._given(path, self._record.files)

    async def list(self, path: str) -> tuple[str, ...] | None:
        """Give the recorded names."""
        return await self._given(path, self._record.directories)

    async def _given(self, path: str, answers: Mapping[str, T]) -> T | None:
        await anyio.lowlevel.checkpoint()
        if path in self._record.unreadable:
            raise Unreadable(path, self._record.unreadable[path])
        return answers.get(path)


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
            killed = CommandResult(argv=argv, returncode=_KILLED, timed_out=True)
            self._commands[argv] = replace(killed, seconds=time.perf_counter() - began)
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
    """The same machine, with environments made from another Python ("3.12", "3.12.3", "3.14t")."""
    if _PYTHON_ASKED.fullmatch(python) is None:
        raise UsageError(f"{python!r} is not a Python version.", hint="Give it as X.Y, for example 3.12.")
    # A machine of its own, whose capabilities are never kept as this computer's.
    return Recorder(machine, facts=replace(machine.facts, python=python))


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose machine it is: home folders, user names and host names, which no record may hold."""

    homes: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


def local_identity(environ: Mapping[str, str]) -> Identity:
    """Who uses this computer, according to its environment, its list of users and its platform."""
    host = platform.node()
    homes = [environ.get(name) for name in ("HOME", "USERPROFILE")]
    users = [environ.get(name) for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")]
    hosts = [host, host.partition(".")[0], environ.get("HOSTNAME"), environ.get("COMPUTERNAME")]
    # A service may have no variables that name its user, and its user no entry.
    if sys.platform != "win32":
        import pwd  # noqa: PLC0415  not on Windows

        with suppress(KeyError):
            entry = pwd.getpwuid(os.getuid())
            homes.append(entry.pw_dir)
            users.append(entry.pw_name)
    return Identity(homes=_given(homes), users=_given(users), hosts=_given(hosts))


def redact(record: MachineRecord, identity: Identity) -> MachineRecord:
    """Leave all of that, GPU identifiers and serial numbers out of a record, and nothing that probes read."""
    clean = cleaner(identity)

    def cleaned(texts: Mapping[str, str]) -> dict[str, str]:
        return {key: clean(text) for key, text in texts.items()}

    return replace(
        record,
        platform=replace(record.platform, version=clean(record.platform.version)),
        env=cleaned(record.env),
        commands=tuple(
            replace(it, stdout=clean(it.stdout), stderr=clean(it.stderr)) for it in record.commands
        ),
        files=cleaned(record.files),
        unreadable=cleaned(record.unreadable),
    )


def redact_text(text: str) -> str:
    """Leave GPU identifiers, serial numbers and what names a home folder out of a text."""
    for pattern, instead in _GENERIC:
        text = pattern.sub(instead, text)
    return text


def _given(names: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, names)))


def cleaner(identity: Identity) -> Callable[[str], str]:
    """A function that leaves all of that out of a text."""
    homes = sorted((home for home in identity.homes if len(home) > 1), key=len, reverse=True)
    words = [(_word(name), "USER") for name in identity.users if _is_telling(name)]
    words += [(_word(name), "HOST") for name in identity.hosts if _is_telling(name)]

    def clean(text: str) -> str:
        for home in homes:
            text = text.replace(home, "~")
        text = redact_text(text)
        for pattern, instead in words:
            text = pattern.sub(instead, text)
        return text

    return clean


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")


def _is_telling(name: str) -> bool:
    # These identify nobody, and removing them would remove versions and states from every answer.
    return not re.fullmatch(r"[\d.]+|root|On|Off|NVIDIA|AMD|Intel", name)
