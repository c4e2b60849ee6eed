"""What nvidia-smi prints, over ten years of drivers. Pure, and total: no text makes it raise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

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


class Trouble(StrEnum):
    """Why nvidia-smi gave less than all, worst first."""

    MISMATCH = "driver and library out of step"
    NOT_LOADED = "driver not loaded"
    NO_LIBRARY = "driver's library missing"
    NO_PERMISSION = "no permission"
    BLOCKED = "blocked by the operating system"
    NVML = "NVML failed"
    LOST = "GPU lost"
    UNREACHABLE = "GPU unreachable"
    NO_DEVICES = "no device"


_TROUBLES: Final = (
    ("driver/library version mismatch", Trouble.MISMATCH),
    ("couldn't communicate with the nvidia driver", Trouble.NOT_LOADED),
    ("driver not loaded", Trouble.NOT_LOADED),
    ("driver is not loaded", Trouble.NOT_LOADED),
    ("couldn't find libnvidia-ml", Trouble.NO_LIBRARY),
    ("couldn't find the nvidia management library", Trouble.NO_LIBRARY),
    ("nvml shared library", Trouble.NO_LIBRARY),
    ("insufficient permissions", Trouble.NO_PERMISSION),
    ("blocked by the operating system", Trouble.BLOCKED),
    ("failed to initialize nvml", Trouble.NVML),
    ("gpu is lost", Trouble.LOST),
    ("fallen off the bus", Trouble.LOST),
    ("unable to determine the device handle", Trouble.UNREACHABLE),
    ("no devices were found", Trouble.NO_DEVICES),
    ("no devices found", Trouble.NO_DEVICES),
)
_IMPLIED: Final = {
    Trouble.NVML: {
        Trouble.MISMATCH,
        Trouble.NOT_LOADED,
        Trouble.NO_LIBRARY,
        Trouble.NO_PERMISSION,
        Trouble.BLOCKED,
    },
    Trouble.UNREACHABLE: {Trouble.LOST},
}
"""What goes without saying once something more specific is known."""

_TROUBLE_BY_STATUS: Final = {
    4: Trouble.NO_PERMISSION,
    9: Trouble.NOT_LOADED,
    12: Trouble.NO_LIBRARY,
    15: Trouble.LOST,
}
"""nvidia-smi(1), "RETURN VALUE"; 14 (infoROM corrupted) comes with a usable answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmiGpu:
    """One GPU of nvidia-smi's; what it would not tell (`[N/A]`, `[Not Supported]`, `ERR!`) is None.

    Args:
        index: nvidia-smi's own, in the bus's order.
        name_is_cut: Whether the table cut it.
        memory_bytes: Its own memory; None where it shares the CPU's (GB10, Thor, Orin).
    """

    index: int
    name: str
    name_is_cut: bool = False
    driver: str | None = None
    capability: str | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SmiHeader:
    """The table's first lines; `cuda_shown` is what stands there, also where it is no number."""

    driver: str | None = None
    cuda: str | None = None
    cuda_shown: str | None = None


def parse_rows(text: str, fields: Sequence[str]) -> tuple[SmiGpu, ...]:
    """Read `--format=csv,noheader,nounits`, whatever lines stand before, between or after the rows.

    The first of the fields is `index`, the second `name`.
    """
    rows = (_cells(line, len(fields)) for line in text.splitlines())
    return tuple(_gpu(dict(zip(fields, cells, strict=True))) for cells in rows if cells)


def parse_table(text: str) -> tuple[SmiGpu, ...]:
    """Read the GPUs in the plain table, which cuts long names and shows no capability."""
    matches = (_TABLE_ROW.match(line[:_LINE_LIMIT]) for line in text.splitlines())
    return tuple(
        SmiGpu(
            index=int(match.group(1)),
            name=match.group(2).removesuffix("...").strip(),
            name_is_cut=match.group(2).endswith("..."),
        )
        for match in matches
        if match is not None
    )


def parse_header(text: str) -> SmiHeader:
    """Read the plain table's header, old and new."""
    driver = _HEADER_DRIVER.search(text)
    cuda = _HEADER_CUDA.search(text)
    shown = cuda.group(1) if cuda is not None else None
    return SmiHeader(
        driver=version_of(driver.group(1)) if driver is not None else None,
        cuda=shown if shown is not None and shown[0].isdigit() else None,
        cuda_shown=shown,
    )


def troubles_of(text: str, returncode: int) -> tuple[Trouble, ...]:
    """What nvidia-smi complains of, worst first, by all that it printed, else by its exit status."""
    lower = text.lower()
    troubles = {trouble for phrase, trouble in _TROUBLES if phrase in lower}
    if not troubles and returncode in _TROUBLE_BY_STATUS:
        troubles.add(_TROUBLE_BY_STATUS[returncode])
    for general, specific in _IMPLIED.items():
        if troubles & specific:
            troubles.discard(general)
    return tuple(trouble for trouble in Trouble if trouble in troubles)


def refuses_field(text: str) -> bool:
    """Whether a field is not known to this driver; one unknown field fails the whole query."""
    return "is not a valid field to query" in text


def version_of(text: str) -> str | None:
    """A driver's version, None where the text is none ("580.xx.xx", "[N/A]")."""
    return text if _VERSION.fullmatch(text) else None


def _cells(line: str, count: int) -> list[str] | None:
    """A row's cells; should a name hold a comma, it stays one cell."""
    cells = [cell.strip() for cell in line[:_LINE_LIMIT].split(",")]
    if len(cells) < count or _INDEX.fullmatch(cells[0]) is None:
        return None
    after_name = len(cells) - (count - 2)
    name = ", ".join(cells[1:after_name])
    return [cells[0], name, *cells[after_name:]] if name else None


def _gpu(row: dict[str, str]) -> SmiGpu:
    capability = row.get("compute_cap", "")
    memory = _MEBIBYTES.fullmatch(row.get("memory.total", ""))
    return SmiGpu(
        index=int(row["index"]),
        name=row["name"],
        driver=version_of(row.get("driver_version", "")),
        capability=capability if _CAPABILITY.fullmatch(capability) else None,
        memory_bytes=int(memory.group(1)) << 20 if memory is not None else None,
    )
