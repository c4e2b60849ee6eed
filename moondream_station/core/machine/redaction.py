"""Removes from a record what identifies its user or device."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from moondream_station.core.machine.record import MachineRecord

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
    with suppress(ImportError, KeyError):
        import pwd  # noqa: PLC0415  not on Windows

        entry = pwd.getpwuid(os.getuid())
        homes.append(entry.pw_dir)
        users.append(entry.pw_name)
    return Identity(homes=_given(homes), users=_given(users), hosts=_given(hosts))


def redact(record: MachineRecord, identity: Identity) -> MachineRecord:
    """Leave home folders, user and host names, GPU identifiers and serial numbers out of a record.

    What the probes read in it is unchanged.
    """
    clean = cleaner(identity)
    return replace(
        record,
        platform=replace(record.platform, version=clean(record.platform.version)),
        env={name: clean(value) for name, value in record.env.items()},
        commands=tuple(
            replace(result, stdout=clean(result.stdout), stderr=clean(result.stderr))
            for result in record.commands
        ),
        files={path: clean(text) for path, text in record.files.items()},
        unreadable={path: clean(reason) for path, reason in record.unreadable.items()},
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
