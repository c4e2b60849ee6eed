"""NVIDIA's GPUs and driver: as its own tool tells them, over ten years of drivers, and the kernel.

Reading is total: no text makes it raise.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, partial
from importlib.resources import files
from typing import Any, Final

import anyio

from moondream_station.core.capabilities.probes.probe import (
    Probe,
    Reading,
    answer_to,
    ask_files,
    first_line,
    not_answered,
    one_line,
    refused,
)
from moondream_station.core.facts.capabilities import Gpu, Outcome
from moondream_station.core.machine.machine import CommandResult, Machine
from moondream_station.core.machine.record import MachineRecord

PROC: Final = "/proc/driver/nvidia/version"
SYS: Final = "/sys/module/nvidia/version"

_KERNEL_VERSION = r"(\d{2,4}(?:\.\d{1,4}){1,3})"
# "Kernel Module  375.74  Wed …", and since 515 also "Open Kernel Module for x86_64  550.144.03  Release …".
_PROC_LINE = re.compile(rf"Kernel Module(?: +for +\S+)? +{_KERNEL_VERSION}(?![\w.])", re.ASCII)
_SYS_TEXT = re.compile(_KERNEL_VERSION, re.ASCII)


def _read_kernel(record: MachineRecord) -> Reading:
    in_proc = _PROC_LINE.search(record.files.get(PROC, ""))
    in_sys = _SYS_TEXT.fullmatch(record.files.get(SYS, "").strip())
    if match := in_proc or in_sys:
        return Reading(
            outcome=Outcome.FOUND,
            detail=f"kernel module {match[1]}",
            version=match[1],
            source="proc" if in_proc else "sys",
        )
    for path in (PROC, SYS):
        if unreadable := refused(record, path):
            return Reading(outcome=Outcome.FAILED, detail=unreadable)
        if path in record.files:
            detail = one_line(f"{path} names no version: {first_line(record.files[path])}")
            return Reading(outcome=Outcome.FAILED, detail=detail)
    return Reading(detail="no NVIDIA kernel module is loaded")


NVIDIA_DRIVER = Probe(name="nvidia_driver", ask=partial(ask_files, paths=(PROC, SYS)), read=_read_kernel)


_FIELDS: Final = ("index", "name", "driver_version", "compute_cap", "memory.total")
_OLD_FIELDS: Final = ("index", "name", "driver_version", "memory.total")
PLAIN: Final = ("nvidia-smi",)
QUERY: Final = ("nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
OLD_QUERY: Final = ("nvidia-smi", f"--query-gpu={','.join(_OLD_FIELDS)}", "--format=csv,noheader,nounits")

_VERSION = re.compile(r"\d{2,4}(?:\.\d{1,4}){1,3}", re.ASCII)
# Driver 610 renamed "Driver Version" to "KMD Version" and "CUDA Version" to "CUDA UMD Version". The number
# after "NVIDIA-SMI" is the program's own, and another than the driver's on WSL2.
_HEADER_DRIVER = re.compile(r"\b(?:KMD|Driver) Version: {0,20}(\S{1,40})", re.ASCII)
_HEADER_CUDA = re.compile(r"\bCUDA (?:UMD )?Version: {0,20}(\d{1,3}\.\d{1,3}|N/A|ERR!)", re.ASCII)
_TABLE_ROW = re.compile(
    r"\| +(\d{1,4}) +(\S.{0,60}?) +(?:On|Off|N/A|ERR!|WDDM|TCC|MCDM) *\|"
    r" *(?:[0-9A-F]{4,8}:[0-9A-F]{2}:[0-9A-F]{2}\.[0-9A-F]|N/A) ",
    re.ASCII | re.IGNORECASE,
)
_INDEX = re.compile(r"\d{1,4}", re.ASCII)
_CAPABILITY = re.compile(r"\d{1,2}\.\d", re.ASCII)
_MEBIBYTES = re.compile(r"(\d{1,9})(?: MiB)?", re.ASCII)
_LINE_LIMIT: Final = 400
_CUT: Final = "..."  # the end of a name that is too long for the plain table


class Trouble(StrEnum):
    """Why nvidia-smi gave less than all, worst first; nvidia_smi.toml knows more of each."""

    MISMATCH = "driver and library out of step"
    NOT_LOADED = "driver not loaded"
    NO_LIBRARY = "driver's library missing"
    NO_PERMISSION = "no permission"
    BLOCKED = "blocked by the operating system"
    NVML = "NVML failed"
    LOST = "GPU lost"
    UNREACHABLE = "GPU unreachable"
    NO_DEVICES = "no device"

    @property
    def remedy(self) -> str:
        """What is wrong, and what to do about it, as a sentence."""
        return str(_troubles()[self]["remedy"])

    @property
    def hides_all(self) -> bool:
        """Whether no GPU can compute until it is repaired."""
        return "hides_all" in _troubles()[self]


@cache
def _troubles() -> Mapping[str, dict[str, Any]]:
    data = tomllib.loads(files(__package__).joinpath("nvidia_smi.toml").read_text("utf-8"))
    return {trouble["is"]: trouble for trouble in data["troubles"]}


_NOT_THERE: Final = frozenset({Trouble.NO_DEVICES, Trouble.NOT_LOADED})


@dataclass(frozen=True, slots=True, kw_only=True)
class NvidiaSmiReading(Reading):
    """What nvidia-smi tells; `version` is the driver's, `troubles` what it complains of, worst first.

    `cuda_shown` stands where the highest CUDA that the driver supports does: also "N/A" or "ERR!".
    """

    is_installed: bool = False
    cuda_shown: str | None = None
    troubles: tuple[Trouble, ...] = ()

    @property
    def cuda(self) -> str | None:
        """The highest CUDA that the driver supports."""
        return self.cuda_shown if self.cuda_shown and self.cuda_shown[0].isdigit() else None


async def _ask_smi(machine: Machine) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(machine.run, *PLAIN)
        result = await machine.run(*QUERY)
        if result is not None and _asks_again(result):
            await machine.run(*OLD_QUERY)


def _asks_again(result: CommandResult) -> bool:
    """Old drivers refuse `compute_cap`, which fails the whole query, and not all in the same words."""
    text = _all_of(result)
    if result.timed_out or parse_rows(result.stdout, _FIELDS):
        return False
    is_refused = "is not a valid field to query" in text
    return is_refused or (result.returncode != 0 and not troubles_of(text, result.returncode))


def _read_smi(record: MachineRecord) -> Reading:
    plain, query, old = (answer_to(record, *argv) for argv in (PLAIN, QUERY, OLD_QUERY))
    results = [result for result in (query, old, plain) if result is not None]
    if not results:
        return NvidiaSmiReading(detail="nvidia-smi is not installed")
    table = plain.stdout if plain is not None else ""
    rows = (
        parse_rows(query.stdout if query is not None else "", _FIELDS)
        or parse_rows(old.stdout if old is not None else "", _OLD_FIELDS)
        or parse_table(table)
    )
    in_header, cuda_shown = parse_header(table)
    named = {trouble for result in results for trouble in troubles_of(_all_of(result), result.returncode)}
    in_rows = (version_of(row.get("driver_version", "")) for row in rows)
    reading = NvidiaSmiReading(
        gpus=tuple(map(gpu_of, rows)),
        version=next(filter(None, in_rows), in_header),
        is_installed=True,
        cuda_shown=cuda_shown,
        troubles=tuple(trouble for trouble in Trouble if trouble in named),
    )
    outcome, detail = _verdict(results, reading)
    return replace(reading, outcome=outcome, detail=detail)


def _verdict(results: list[CommandResult], reading: NvidiaSmiReading) -> tuple[Outcome, str]:
    slow = any(result.timed_out for result in results)
    if reading.gpus:
        names = ", ".join(f"{gpu.name} ({gpu.architecture or 'unknown'})" for gpu in reading.gpus)
        known = f"driver {reading.version or 'unknown'}, CUDA {reading.cuda or 'unknown'} at most"
        return Outcome.TIMED_OUT if slow else Outcome.FOUND, one_line(f"{names}; {known}")
    if slow:
        return Outcome.TIMED_OUT, "nvidia-smi did not answer in time"
    if not reading.troubles:
        nothing = not_answered(results[0], "nvidia-smi")
        return nothing.outcome, nothing.detail
    output = first_line(*(text for result in results for text in (result.stdout, result.stderr)))
    outcome = Outcome.ABSENT if set(reading.troubles) <= _NOT_THERE else Outcome.FAILED
    worst = reading.troubles[0]
    return outcome, one_line(f"{worst}: {output}" if output else worst)


def _all_of(result: CommandResult) -> str:
    return f"{result.stdout}\n{result.stderr}"


def parse_rows(text: str, fields: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Read `--format=csv,noheader,nounits`, whatever lines stand around the rows; `name` comes second."""
    rows = (_cells(line, len(fields)) for line in text.splitlines())
    return tuple(dict(zip(fields, cells, strict=True)) for cells in rows if cells)


def _cells(line: str, count: int) -> list[str] | None:
    """A row's cells; should a name hold a comma, it stays one cell."""
    cells = [cell.strip() for cell in line[:_LINE_LIMIT].split(",")]
    if len(cells) < count or _INDEX.fullmatch(cells[0]) is None:
        return None
    after_name = len(cells) - (count - 2)
    name = ", ".join(cells[1:after_name])
    return [cells[0], name, *cells[after_name:]] if name else None


def parse_table(text: str) -> tuple[dict[str, str], ...]:
    """Read the GPUs in the plain table, which cuts long names and shows no capability."""
    rows = (_TABLE_ROW.match(line[:_LINE_LIMIT]) for line in text.splitlines())
    return tuple({"index": row[1], "name": row[2]} for row in rows if row is not None)


def parse_header(text: str) -> tuple[str | None, str | None]:
    """The driver in the plain table's header, old and new, and what stands there in CUDA's place."""
    driver, cuda = _HEADER_DRIVER.search(text), _HEADER_CUDA.search(text)
    return version_of(driver[1]) if driver is not None else None, cuda[1] if cuda is not None else None


def troubles_of(text: str, returncode: int) -> tuple[Trouble, ...]:
    """What nvidia-smi complains of, worst first, by all that it printed, else by its exit status."""
    lower, known = text.lower(), _troubles()
    troubles = {name for name, trouble in known.items() if any(words in lower for words in trouble["words"])}
    troubles = troubles or {name for name, trouble in known.items() if trouble.get("status") == returncode}
    implied = {name for trouble in troubles for name in known[trouble].get("implies", ())}
    return tuple(trouble for trouble in Trouble if trouble in troubles - implied)


def version_of(text: str) -> str | None:
    """A driver's version, None where the text is none ("580.xx.xx", "[N/A]")."""
    return text if _VERSION.fullmatch(text) else None


def gpu_of(row: Mapping[str, str]) -> Gpu:
    """The GPU of a row; what nvidia-smi would not tell (`[N/A]`, `[Not Supported]`, `ERR!`) is None."""
    name, told = row["name"], row.get("compute_cap", "")
    capability = told if _CAPABILITY.fullmatch(told) else None
    by_name = None if capability else capability_of(name.removesuffix(_CUT), is_cut=name.endswith(_CUT))
    # GPUs that share the CPU's memory (GB10, Thor, Orin) have none of their own.
    memory = _MEBIBYTES.fullmatch(row.get("memory.total", ""))
    memory_bytes = int(memory[1]) << 20 if memory is not None else None
    return Gpu(
        vendor="nvidia",
        index=int(row["index"]),
        name=one_line(name.removesuffix(_CUT)) or None,
        architecture=capability or by_name,
        architecture_source="nvidia-smi" if capability else "name" if by_name else None,
        memory_bytes=memory_bytes,
        integrated=False if memory_bytes else None,
    )


# The compute capability by a GPU's name or its PCI device id, for drivers that do not tell it, or hang.
_NOISE = re.compile(r"\b(?:nvidia|geforce|tesla|grid|generation|laptop gpu|gpu)\b|\(|\)|\bwith\b")
_SPACES = re.compile(r"[\s/,-]+")


def capability_of(name: str, *, is_cut: bool = False) -> str | None:
    """The compute capability ("6.1") by a name, perhaps cut; None if unknown, or of several capabilities."""
    words = _words(name)
    if is_cut:
        return _capability_of_start(words)
    starts = (words[:length] for length in range(len(words), 0, -1))
    return next((capability for start in starts if (capability := _table().get(start))), None)


def _capability_of_start(start: tuple[str, ...]) -> str | None:
    """The capability of everything whose name may begin so; the last word may be half of one."""
    begin = " ".join(start)
    fitting = {
        capability
        for words, capability in _table().items()
        if begin and (f"{' '.join(words)} ".startswith(begin) or begin.startswith(f"{' '.join(words)} "))
    }
    return fitting.pop() if len(fitting) == 1 else None


def _words(name: str) -> tuple[str, ...]:
    return tuple(_NOISE.sub(" ", _SPACES.sub(" ", name[:200].lower())).split())


def capability_of_device(device: int) -> str | None:
    """The compute capability by a PCI device id, None where its chip is not known."""
    ranges = (
        (capability, *span.split("-")) for capability, spans in _data()["devices"].items() for span in spans
    )
    return next((known for known, first, last in ranges if int(first, 16) <= device <= int(last, 16)), None)


@cache
def _table() -> Mapping[tuple[str, ...], str]:
    names_by_capability = _data()["capabilities"].items()
    return {_words(name): capability for capability, names in names_by_capability for name in names}


@cache
def _data() -> Any:
    return json.loads(files(__package__).joinpath("nvidia_names.json").read_text("utf-8"))


NVIDIA_SMI = Probe(
    name="nvidia_smi", ask=_ask_smi, read=_read_smi, deadline_seconds=15.0, programs=("nvidia-smi",)
)
