"""Compute capability by a GPU's name or its PCI device id, for drivers that do not tell it, or hang."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

_NOISE = re.compile(r"\b(?:nvidia|geforce|tesla|grid|generation|laptop gpu|gpu)\b|\(|\)|\bwith\b")
_SPACES = re.compile(r"[\s/,-]+")


def capability_of(name: str, *, is_cut: bool = False) -> str | None:
    """The compute capability ("6.1") by a name, of which the end `is_cut` perhaps, as a table does it.

    None where the name is not known, or fits GPUs of several capabilities.
    """
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
    """The words that tell one GPU from another: no vendor, brand or punctuation."""
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
