"""NVIDIA's GPUs and driver, as its own tool tells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import anyio

from moondream_station.core.capabilities.probes.nvidia_names import capability_of
from moondream_station.core.capabilities.probes.nvidia_smi_output import (
    SmiGpu,
    SmiHeader,
    Trouble,
    parse_header,
    parse_rows,
    parse_table,
    refuses_field,
    troubles_of,
)
from moondream_station.core.capabilities.probes.probe import (
    Probe,
    Reading,
    answer_to,
    first_line,
    not_answered,
    one_line,
)
from moondream_station.core.facts.capabilities import Gpu, Outcome
from moondream_station.core.machine.protocol import CommandResult, Machine
from moondream_station.core.machine.record import MachineRecord

_FIELDS: Final = ("index", "name", "driver_version", "compute_cap", "memory.total")
_OLD_FIELDS: Final = ("index", "name", "driver_version", "memory.total")
PLAIN: Final = ("nvidia-smi",)
QUERY: Final = ("nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
OLD_QUERY: Final = ("nvidia-smi", f"--query-gpu={','.join(_OLD_FIELDS)}", "--format=csv,noheader,nounits")

_NOT_THERE: Final = frozenset({Trouble.NO_DEVICES, Trouble.NOT_LOADED})


@dataclass(frozen=True, slots=True, kw_only=True)
class NvidiaSmiReading(Reading):
    """What nvidia-smi tells.

    Args:
        cuda: The highest CUDA that the driver supports.
        cuda_shown: What stands in that place, also "N/A" or "ERR!".
        troubles: What it complains of, worst first.
    """

    is_installed: bool = True
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    cuda_shown: str | None = None
    troubles: tuple[Trouble, ...] = ()


async def _ask(machine: Machine) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(machine.run, *PLAIN)
        result = await machine.run(*QUERY)
        if result is not None and _asks_again(result):
            await machine.run(*OLD_QUERY)


def _asks_again(result: CommandResult) -> bool:
    """Old drivers refuse `compute_cap`, and not all of them in the same words."""
    text = _all_of(result)
    if result.timed_out or parse_rows(result.stdout, _FIELDS):
        return False
    return refuses_field(text) or (result.returncode != 0 and not troubles_of(text, result.returncode))


def _read(record: MachineRecord) -> Reading:
    plain, query, old = (answer_to(record, *argv) for argv in (PLAIN, QUERY, OLD_QUERY))
    results = [result for result in (query, old, plain) if result is not None]
    if not results:
        return NvidiaSmiReading(
            outcome=Outcome.ABSENT, detail="nvidia-smi is not installed", is_installed=False
        )
    rows = _rows(query, _FIELDS) or _rows(old, _OLD_FIELDS) or parse_table(plain.stdout if plain else "")
    header = parse_header(plain.stdout) if plain is not None else SmiHeader()
    named = {trouble for result in results for trouble in troubles_of(_all_of(result), result.returncode)}
    troubles = tuple(trouble for trouble in Trouble if trouble in named)
    gpus = tuple(_gpu(row) for row in rows)
    driver = next((row.driver for row in rows if row.driver), header.driver)
    outcome, detail = _verdict(results, gpus, driver, header.cuda, troubles)
    return NvidiaSmiReading(
        outcome=outcome,
        detail=detail,
        gpus=gpus,
        driver=driver,
        cuda=header.cuda,
        cuda_shown=header.cuda_shown,
        troubles=troubles,
    )


def _verdict(
    results: list[CommandResult],
    gpus: tuple[Gpu, ...],
    driver: str | None,
    cuda: str | None,
    troubles: tuple[Trouble, ...],
) -> tuple[Outcome, str]:
    slow = any(result.timed_out for result in results)
    if gpus:
        names = ", ".join(f"{gpu.name} ({gpu.architecture or 'unknown'})" for gpu in gpus)
        detail = f"{names}; driver {driver or 'unknown'}, CUDA {cuda or 'unknown'} at most"
        return (Outcome.TIMED_OUT if slow else Outcome.FOUND, one_line(detail))
    if slow:
        return (Outcome.TIMED_OUT, "nvidia-smi did not answer in time")
    if not troubles:
        reading = not_answered(results[0], "nvidia-smi")
        return (reading.outcome, reading.detail)
    output = first_line(*(text for result in results for text in (result.stdout, result.stderr)))
    outcome = Outcome.ABSENT if set(troubles) <= _NOT_THERE else Outcome.FAILED
    return (outcome, one_line(f"{troubles[0]}: {output}" if output else troubles[0]))


def _rows(result: CommandResult | None, fields: tuple[str, ...]) -> tuple[SmiGpu, ...]:
    return parse_rows(result.stdout, fields) if result is not None else ()


def _all_of(result: CommandResult) -> str:
    return f"{result.stdout}\n{result.stderr}"


def _gpu(row: SmiGpu) -> Gpu:
    by_name = None if row.capability else capability_of(row.name, is_cut=row.name_is_cut)
    source = "nvidia-smi" if row.capability else "name" if by_name else None
    return Gpu(
        vendor="nvidia",
        index=row.index,
        name=one_line(row.name) or None,
        architecture=row.capability or by_name,
        architecture_source=source,
        memory_bytes=row.memory_bytes,
        integrated=False if row.memory_bytes else None,
    )


NVIDIA_SMI = Probe(name="nvidia_smi", ask=_ask, read=_read, deadline_seconds=15.0, programs=("nvidia-smi",))
